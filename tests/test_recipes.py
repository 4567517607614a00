"""The published lists of URLs: their formats, and a fetch from this machine."""

import http.server
import json
import os
import shlex
import shutil
import threading
import zipfile

import pytest
from webdata import jpeg

from sseg_jax import prepare
from sseg_jax.data import recipes, records
from sseg_jax.errors import InputError

pq = pytest.importorskip("pyarrow.parquet")
# An environment of its own holds it: IMG2DATASET=/there/bin/img2dataset.
PROGRAM = os.environ.get("IMG2DATASET") or shutil.which("img2dataset")


def _written(out):
  table = pq.read_table(out / "fetched/urls.parquet")
  return list(zip(*table.to_pydict().values(), strict=True))


def _list(folder, name, pairs):
  """Writes (URL, caption) as the authors of a list publish it."""
  if name == "redcaps":
    path = folder / "redcaps.zip"
    with zipfile.ZipFile(path, "w") as archive:
      for i, (url, caption) in enumerate(pairs):
        note = {"image_id": str(i), "url": url, "caption": caption, "score": 3}
        data = {"info": {}, "annotations": [note | {"raw_caption": "RAW"}]}
        # Written in another order than that of the names.
        at = f"annotations/pics_{len(pairs) - i:04d}.json"
        archive.writestr(at, json.dumps(data))
    return path
  path = folder / f"{name}.tsv"
  lines = [p if name == "cc12m" else p[::-1] for p in pairs]
  path.write_text("".join("\t".join(line) + "\n" for line in lines))
  return path


@pytest.mark.parametrize("name", list(recipes.RECIPES))
def test_rows_as_their_authors_write_them(tmp_path, name):
  """Columns in the list's own order; quotes are the caption's."""
  pairs = [
    ("http://x/1.jpg", '"A cat" on a mat'),
    ("http://x/2.jpg", '"never closed'),
    ("https://x/3.jpg?a=b", "plain <PERSON>"),
    ("no address", "x"),
    ("http://x/5.jpg", " "),
  ]
  source = _list(tmp_path, name, pairs)
  made = recipes.write_list(name, str(source), str(tmp_path / "out"))
  expected = pairs[:3][:: -1 if name == "redcaps" else 1]
  assert _written(tmp_path / "out") == expected
  counts = {r: e["count"] for r, e in made["rejected"].items()}
  assert counts == {"no_url": 1, "empty_caption": 1}
  # That of GroupViT's and TCL's pages, which is wrong for CC12M.
  if name != "redcaps":
    header = "caption\turl" if name == "cc12m" else "url\tcaption"
    source.write_text(source.read_text().replace("no address", "y"))
    wrong = "cc3m" if name == "cc12m" else "cc12m"
    with pytest.raises(InputError, match=f"only 0 of 5 rows .* {wrong} "):
      recipes.write_list(wrong, str(source), str(tmp_path / "out"))
    source.write_text(f"{header}\n{source.read_text()}")
    made = recipes.write_list(name, str(source), str(tmp_path / "out"))
    assert made["rejected"]["no_url"]["count"] == 2
    source.write_text("\t".join(recipes.RECIPES[name].columns) + "\nhttp://x\n")
    with pytest.raises(InputError, match="too_few_cells: 1"):
      recipes.write_list(name, str(source), str(tmp_path / "out"))


def test_commands_are_printed(tmp_path, capsys):
  argv = ["--recipe=redcaps", "--source=r c.zip", "--out=o", "--min_size=64"]
  assert prepare.main(argv) == 0
  out = capsys.readouterr().out
  steps = [s for s in out.splitlines() if not s.startswith("#")]
  assert [shlex.split(s)[:3] for s in steps] == [
    ["python", "-m", "sseg_jax.data.recipes"],
    [
      "img2dataset",
      "--url_list=o/fetched/urls.parquet",
      "--input_format=parquet",
    ],
    ["python", "-m", "sseg_jax.prepare"],
  ]
  assert shlex.split(steps[0])[3:] == ["redcaps", "r c.zip", "o"]
  assert "--image_size=448" in steps[1] and "caption_col=caption" in steps[1]
  # The last command is one that `prepare` takes.
  flags = vars(prepare._parser().parse_args(shlex.split(steps[2])[3:]))
  assert flags == {
    "source": "o/fetched/pictures",
    "out": "o",
    "duplicates": "exact",
    "limit": 11_000_000,
    "min_size": 64,
  }


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--recipe=laion"], "--recipe=laion: must be cc3m, cc12m, redcaps"),
    (["--run"], "--run=True has no meaning"),
    (["--recipe=cc3m", "--run"], "no such file; give Train_GCC"),
  ],
)
def test_flags_of_a_recipe(tmp_path, flags, message, capsys):
  argv = [f"--source={tmp_path}/none", f"--out={tmp_path}/out"]
  assert prepare.main([*argv, *flags]) == 2
  assert message in capsys.readouterr().err


def test_a_missing_program_is_told(tmp_path, capsys):
  source = _list(tmp_path, "cc3m", [("http://x/1", "a")])
  argv = ["--recipe=cc3m", "--run", f"--source={source}", "--json"]
  argv += [f"--out={tmp_path}/out", f"--img2dataset={tmp_path}/none"]
  assert prepare.main(argv) == 2
  assert "--img2dataset=ENVIRONMENT/bin" in capsys.readouterr().err


class _Web(http.server.BaseHTTPRequestHandler):
  """Pictures, dead links, redirects and pages in a picture's place."""

  def log_message(self, *args):
    pass

  def do_GET(self):
    name = self.path.strip("/")
    if name.startswith("redirect"):
      self.send_response(302)
      self.send_header("Location", f"/{name.removeprefix('redirect')}")
      self.end_headers()
    elif name.isdigit():
      self._send("image/jpeg", jpeg(int(name), (700, 560)))
    elif name == "page":
      self._send("text/html", b"<html>gone</html>")
    elif name == "dropped":
      self.connection.close()
    else:
      self.send_error(410 if name == "gone" else 404)

  def _send(self, kind, data):
    self.send_response(200)
    self.send_header("Content-Type", kind)
    self.send_header("Content-Length", str(len(data)))
    self.end_headers()
    self.wfile.write(data)


@pytest.fixture(scope="module")
def web():
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Web)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  yield f"http://127.0.0.1:{server.server_port}"
  server.shutdown()
  server.server_close()


@pytest.mark.slow
@pytest.mark.skipif(not PROGRAM, reason="needs img2dataset")
@pytest.mark.parametrize("name", list(recipes.RECIPES))
def test_a_recipe_from_list_to_records(tmp_path, web, name, capsys):
  good = [(f"{web}/{i}", f'"picture" {i}') for i in range(30)]
  bad = {
    f"{web}/none": "http_404",
    f"{web}/gone": "http_410",
    f"{web}/page": "not_a_picture",
    f"{web}/dropped": "connection_lost",
    "http://127.0.0.1:1/x": "connection_refused",
    "ftp//x": "no_url",
    f"{web}/3": "duplicate_picture",
  }
  source = _list(
    tmp_path,
    name,
    [*good, (f"{web}/redirect40", "moved"), *((url, "x") for url in bad)],
  )
  argv = [f"--recipe={name}", "--run", f"--source={source}", "--workers=1"]
  argv += [f"--out={tmp_path}/out", f"--img2dataset={PROGRAM}", "--json"]
  assert prepare.main(argv) == 0
  report = json.loads(capsys.readouterr().out.splitlines()[-1])
  counts = {r: e["count"] for r, e in report["rejected"].items()}
  assert counts == {reason: 1 for reason in bad.values()}
  assert (report["read"], report["train"]) == (38, 31)
  found = {r.captions[0]: r for r in records.read(f"{tmp_path}/out/train")}
  assert found[b"moved"].source.endswith(b"/redirect40")
  assert found[b'"picture" 7'].source == f"{web}/7".encode()
