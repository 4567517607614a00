"""Models from the hub, read from a server on this machine."""

import hashlib
import http.server
import threading
import time

import pytest

from sseg_jax.checkpoints import hub
from sseg_jax.errors import InputError

pytest.importorskip("huggingface_hub")
COMMIT = "0123456789" * 4
OLD = "a" * 40


class Repository(http.server.BaseHTTPRequestHandler):
  """Answers as the hub does for one repository."""

  protocol_version = "HTTP/1.1"

  def do_HEAD(self):
    self.answer(body=False)

  def do_GET(self):
    self.answer(body=True)

  def answer(self, *, body):
    server = self.server
    repository, _, rest = self.path.lstrip("/").partition("/resolve/")
    revision, _, file = rest.partition("/")
    server.asked.append((self.command, revision, file))
    commits = {"main": COMMIT, COMMIT: COMMIT, "v1": OLD, OLD: OLD}
    if repository != "org/name":
      return self.fail(404, "RepoNotFound")
    if revision not in commits:
      return self.fail(404, "RevisionNotFound")
    if file not in server.files:
      return self.fail(404, "EntryNotFound", commits[revision])
    data = server.files[file]
    large = file.endswith(".safetensors")
    blob = b"blob %d\0" % len(data) + data
    etag = (hashlib.sha256(data) if large else hashlib.sha1(blob)).hexdigest()
    first = 0
    if wanted := self.headers.get("Range"):
      first = int(wanted.removeprefix("bytes=").split("-")[0])
      server.ranges.append(first)
    self.send_response(206 if first else 200)
    self.send_header("Content-Length", str(len(data) - first))
    if first:
      span = f"bytes {first}-{len(data) - 1}/{len(data)}"
      self.send_header("Content-Range", span)
    self.send_header("Accept-Ranges", "bytes")
    self.send_header("X-Repo-Commit", commits[revision])
    self.send_header("ETag", f'"{etag}"')
    if large:
      self.send_header("X-Linked-Size", str(len(data)))
      self.send_header("X-Linked-Etag", f'"{etag}"')
    self.end_headers()
    if not body:
      return None
    part = data[first:]
    if server.breaks and large:
      server.breaks -= 1
      self.wfile.write(part[: len(part) // 2])
      self.wfile.flush()
      self.connection.close()
      self.close_connection = True
      return None
    self.wfile.write(part)
    return None

  def fail(self, code, name, commit=None):
    self.send_response(code)
    self.send_header("X-Error-Code", name)
    self.send_header("X-Error-Message", name)
    if commit:
      self.send_header("X-Repo-Commit", commit)
    self.send_header("Content-Length", "0")
    self.end_headers()

  def log_message(self, *args):
    pass


@pytest.fixture
def server(tmp_path, monkeypatch):
  from huggingface_hub import constants

  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Repository) as server:
    server.asked, server.ranges, server.breaks = [], [], 0
    server.files = {
      "config.json": b"{}",
      "weights.safetensors": bytes(range(256)) * 8000,
    }
    server.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()


def download(server, **arguments):
  folder, origin = hub.download(
    "org/name", endpoint=server.endpoint, **arguments
  )
  return hub.Path(folder), origin


def test_two_files_of_one_commit(server):
  folder, origin = download(server)
  assert origin == f"hf://org/name@{COMMIT}"
  for name, data in server.files.items():
    assert (folder / name).read_bytes() == data
  # The branch is asked for once: it may move between the files.
  assert {r for _, r, f in server.asked if f != "config.json"} == {COMMIT}
  # A commit that is there is not asked for again, and needs no network.
  server.asked.clear()
  assert download(server, revision=COMMIT)[0] == folder
  assert not server.asked
  assert download(server, revision="v1")[1] == f"hf://org/name@{OLD}"


def test_files_in_the_folder_of_their_format(server):
  server.files = {f"safetensors/{n}": d for n, d in server.files.items()}
  folder, _ = download(server)
  assert folder.name == "safetensors" and (folder / "config.json").is_file()


def test_an_interrupted_download_goes_on(server):
  # A part of 10 MiB is written before the connection breaks.
  server.files["weights.safetensors"] = bytes(range(256)) * 90_000
  server.breaks = 1
  folder, _ = download(server)
  assert server.ranges and max(server.ranges) > 0
  weights = folder / "weights.safetensors"
  assert weights.read_bytes() == server.files["weights.safetensors"]


def test_a_changed_file_is_found(server):
  folder, _ = download(server)
  weights = folder / "weights.safetensors"
  digest = hashlib.sha256(server.files["weights.safetensors"]).hexdigest()
  hub.check_sha256(weights, digest.upper())
  with pytest.raises(InputError, match="not 0000"):
    hub.check_sha256(weights, "0" * 64)
  with pytest.raises(InputError, match="64 hexadecimal digits"):
    hub.check_sha256(weights, "sha256:12")
  for name in server.files:
    file = folder / name
    data = file.read_bytes()
    file.write_bytes(data[:-1] + b"?")
    with pytest.raises(InputError, match="not what the hub has for org/name"):
      download(server)
    file.write_bytes(data)


def test_what_is_not_there_is_told_in_one_line(server, monkeypatch):
  with pytest.raises(InputError, match="no revision 'v9'"):
    download(server, revision="v9")
  with pytest.raises(
    InputError, match="org/other: no such folder .* not exist"
  ):
    hub.download("org/other", endpoint=server.endpoint)
  server.files = {"README.md": b""}
  with pytest.raises(InputError, match="holds no config.json"):
    download(server)
  waits = []  # the library's, between its attempts: 20 s
  monkeypatch.setattr(time, "sleep", waits.append)
  with pytest.raises(InputError, match="cannot be rea") as raised:
    hub.download("org/name", endpoint="http://127.0.0.1:9")
  assert waits
  assert "\n" not in str(raised.value)


def test_which_sources_are_repositories(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "runs" / "quickstart").mkdir(parents=True)
  assert hub.repository("org/name") == "org/name"
  assert hub.repository("hf://runs/quickstart") == "runs/quickstart"
  for path in ("runs/quickstart", "runs", "/a/b", "./a/b", "a/b/c", "gs://a/b"):
    assert hub.repository(path) is None
  for wrong in ("hf://a", "hf://../b", "hf://a/b/c"):
    with pytest.raises(InputError, match="is named hf://org/name"):
      hub.repository(wrong)
