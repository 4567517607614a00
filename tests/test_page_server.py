"""The page's server on a free port of this machine, asked as a browser does."""

import asyncio
import contextlib
import gc
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import tomllib
import urllib.error
import urllib.request
import warnings

import pytest
import small_page
from PIL import Image
from small_page import WORDS

from sseg_jax.errors import InputError
from sseg_jax.page.handlers import Handlers
from sseg_jax.page.limits import Limits

ROOT = pathlib.Path(__file__).parents[1]
SPACE = ROOT / "launch" / "space"

pytest.importorskip("gradio", reason="needs Gradio: the extra `demo`")
with warnings.catch_warnings():
  warnings.simplefilter("ignore")  # of the libraries that it imports
  import gradio_client
  from gradio_client import utils

  from sseg_jax.page import layout, server

# Warnings of other packages, which change with their versions.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def page(monkeypatch, tmp_path):
  """Address and handlers of a page over a small network."""
  handlers = Handlers(
    small_page.model(monkeypatch), tmp_path, Limits(waiting=8)
  )
  port = server._free_port("127.0.0.1", 0)
  address = server.launch(
    handlers, tmp_path, host="127.0.0.1", port=port, share=False
  )
  yield address, handlers
  layout.gr.close_all(verbose=False)
  # Gradio has made one for this thread, and leaves it open.
  with contextlib.suppress(RuntimeError):
    asyncio.get_event_loop().close()
  asyncio.set_event_loop(None)
  gc.collect()  # sockets that libraries left open, while nobody minds


@pytest.fixture
def client(page):
  return gradio_client.Client(page[0], verbose=False, analytics_enabled=False)


@pytest.fixture
def picture(tmp_path):
  return gradio_client.handle_file(small_page.write(tmp_path / "mine.png"))


def note(answer) -> str:
  value = answer["value"] if isinstance(answer, dict) else answer
  return re.sub("<.*?>", "", value or "")


def test_find_move_and_heat(page, client, picture):
  address, handlers = page
  _, _, regions, slider, words, _, file = client.predict(
    picture, WORDS, api_name="/find"
  )
  regions = regions["value"]
  labels = [a["label"] for a in regions["annotations"]]
  assert labels and all("%" in label for label in labels)
  with Image.open(regions["annotations"][0]["image"]) as mask:
    assert mask.size == (96, 48)
    assert set(mask.convert("RGBA").getchannel("A").tobytes()) == {0, 255}
  assert 0 < slider <= 100
  assert [choice[0] for choice in words["choices"]] == ["red", "green", "blue"]
  with Image.open(file) as image:
    assert image.format == "PNG"
  calls = len(handlers.model.calls)
  _, moved, _ = client.predict(0, api_name="/move")
  assert len(moved["value"]["annotations"]) == 3
  assert len(handlers.model.calls) == calls
  _, word, heat = client.predict("green", api_name="/heat")
  with Image.open(heat) as image:
    assert image.size == (96, 48)


def test_bad_input_is_answered_and_escaped(page, client, picture, tmp_path):
  def say(image, words):
    return client.predict(image, words, api_name="/find")[1]

  assert "Give a picture first" in note(say(None, WORDS))
  assert "10,000 words" in note(say(picture, ",".join(map(str, range(10000)))))
  bad = "<script>alert(1)</script>, <script>alert(1)</script>"
  answer = say(picture, bad)
  assert "<script" not in answer["value"]
  assert "&lt;script&gt;" in answer["value"]
  (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
  broken = gradio_client.handle_file(tmp_path / "broken.png")
  assert "cannot be read as a picture" in note(say(broken, WORDS))
  assert "Press “Find” again" in note(client.predict(5, api_name="/move")[0])
  assert small_page.is_up(page[0])


def test_files_of_the_machine_are_not_read(page):
  """A visitor names a file that nobody has uploaded."""
  for path in ("/etc/passwd", str(ROOT / "README.md")):
    session = str(time.monotonic_ns())
    data = {"path": path, "meta": {"_type": "gradio.FileData"}}
    body = {"data": [data, WORDS], "session_hash": session}
    lines = _ask(page[0], body | {"fn_index": _index(page[0], "find")})
    done = next(line for line in lines if line["msg"] == "process_completed")
    assert not done["success"]
    assert "root:" not in json.dumps(lines)


def _index(address, name):
  with urllib.request.urlopen(f"{address}config") as answer:
    listed = json.load(answer)["dependencies"]
  return next(d["id"] for d in listed if d["api_name"] == name)


def _join(address, body):
  request = urllib.request.Request(
    f"{address}gradio_api/queue/join",
    json.dumps(body).encode(),
    {"Content-Type": "application/json"},
  )
  urllib.request.urlopen(request, timeout=10).close()
  return urllib.request.urlopen(
    f"{address}gradio_api/queue/data?session_hash={body['session_hash']}",
    timeout=20,
  )


def _ask(address, body):
  lines = []
  with _join(address, body) as stream:
    for line in stream:
      if line.startswith(b"data:"):
        lines.append(json.loads(line[5:]))
        if lines[-1]["msg"] in ("process_completed", "close_stream"):
          break
  return lines


def test_50_at_once_and_some_that_leave(page, client, picture):
  address, handlers = page
  index = _index(address, "find")
  jobs = [client.submit(picture, WORDS, api_name="/find") for _ in range(50)]
  for number in range(5):  # these close the connection and never read
    body = {"data": [None, WORDS], "fn_index": index}
    try:
      _join(address, body | {"session_hash": f"left{number}"}).close()
    except urllib.error.HTTPError as error:
      with error:
        assert error.code == 503  # the queue is full
  found, refused = 0, 0
  for job in jobs:
    try:
      assert job.result(timeout=60)[6]
      found += 1
    except utils.QueueError as error:
      assert "Queue is full" in str(error)
      refused += 1
  assert found >= 8 and found + refused == 50
  assert small_page.is_up(address)
  assert client.predict(picture, WORDS, api_name="/find")[6]
  assert handlers.kept.nbytes <= handlers.limits.kept * 10**6


def test_files_of_visitors_are_deleted_and_examples_stay(tmp_path):
  old, new = tmp_path / "gradio" / "a" / "x.png", tmp_path / "results" / "y.png"
  example = tmp_path / "examples" / "e.png"
  for path in (old, new, example):
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
  for path in (old, old.parent, example):
    os.utime(path, (1, 1))
  assert server.clean(tmp_path, age=60) == 1
  server.clean(tmp_path, age=0)
  assert not old.parent.exists() and not new.exists() and example.exists()


def test_a_taken_port_and_a_foreign_address_are_one_line():
  port = server._free_port("127.0.0.1", 0)
  with server.socket.socket() as other:
    other.bind(("127.0.0.1", port))
    other.listen()
    with pytest.raises(InputError, match=f"port={port}: .* another --port"):
      server._free_port("127.0.0.1", port)
  with pytest.raises(InputError, match="host=not a host"):
    server._free_port("not a host", 0)


# ---------------------------------------------------------------- the command

# Ends the process at the first connection to anywhere but this machine.
_LOCAL = """
import os, sys
def check(event, args):
  if event == "socket.connect" and isinstance(args[1], tuple):
    if args[1][0] not in ("127.0.0.1", "::1", "localhost"):
      print("connects to", args[1], flush=True)
      os._exit(99)
sys.addaudithook(check)
from sseg_jax import demo
sys.exit(demo.main(sys.argv[1:]))
"""


def _lines(process, until):
  lines = []
  for line in process.stdout:
    lines.append(line)
    if until in line:
      return lines
  raise AssertionError("".join(lines))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, make_tiny_config):
  from test_evaluate import save_checkpoint

  folder = tmp_path_factory.mktemp("run")
  save_checkpoint(folder, make_tiny_config())
  return folder


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_ready_and_ends_at_once(checkpoint, number, tmp_path):
  process = subprocess.Popen(
    [sys.executable, "-c", _LOCAL, f"--checkpoint={checkpoint}", "--port=0"],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    cwd=ROOT,
    env=os.environ | {"TMPDIR": str(tmp_path), "GRADIO_SERVER_NAME": "0.0.0.0"},
  )
  kill = threading.Timer(120, process.kill)
  kill.start()
  try:
    line = _lines(process, "ready")[-1]
    address = re.search(r"http://127\.0\.0\.1:\d+/", line)[0]
    assert small_page.is_up(address)
    start = time.monotonic()
    process.send_signal(number)
    assert process.wait(10) == 128 + number
    assert time.monotonic() - start < 2
    assert not list(tmp_path.glob("sseg_jax_page_*"))
  finally:
    kill.cancel()
    process.kill()
    process.wait()
    process.stdout.close()


# ---------------------------------------------------------------- the Space


def test_the_space_needs_what_the_package_needs():
  with open(ROOT / "pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
  extras = project["optional-dependencies"]
  needed = project["dependencies"] + extras["demo"] + extras["hub"]
  text = (SPACE / "requirements.txt").read_text()
  lines = [line for line in text.splitlines() if not line.startswith("#")]
  assert lines == needed
  front = (SPACE / "README.md").read_text().split("---")[1]
  values = dict(line.split(": ", 1) for line in front.strip().splitlines())
  assert values["sdk"] == "gradio" and values["app_file"] == "app.py"
  low = re.match(r"gradio>=([\d.]+)", extras["demo"][0])[1]
  assert values["sdk_version"].startswith(low)


@pytest.mark.slow
def test_the_space_starts(checkpoint, tmp_path):
  shutil.copytree(SPACE, tmp_path / "space")
  shutil.copytree(ROOT / "sseg_jax", tmp_path / "space" / "sseg_jax")
  environment = os.environ | {
    "CHECKPOINT": str(checkpoint),
    "GRADIO_SERVER_PORT": "0",
    "GRADIO_SERVER_NAME": "127.0.0.1",
    "TMPDIR": str(tmp_path),
  }
  process = subprocess.Popen(
    [sys.executable, "app.py"],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    cwd=tmp_path / "space",
    env=environment,
  )
  kill = threading.Timer(120, process.kill)
  kill.start()
  try:
    line = _lines(process, "ready")[-1]
    assert small_page.is_up(re.search(r"http://\S+", line)[0])
  finally:
    kill.cancel()
    process.kill()
    process.wait()
    process.stdout.close()
