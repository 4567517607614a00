"""Command lines of `predict`, and of the `run.py` of exported files.

`SSEG_FUZZ=1000 pytest -s tests/test_command_fuzz.py` tries some 1,000; see
`test_inference_fuzz.py`.
"""

import io
import json
import os
import pathlib
import runpy
import shutil
import sys
import warnings

import fuzz
import hostile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sseg_jax import predict, tokenizer
from sseg_jax.exporting import folder as exporting
from sseg_jax.images import result_files, writer
from sseg_jax.inference import api

pytestmark = pytest.mark.usefixtures("unchecked_types", "tally")


# ---------------------------------------------------------------- the command

_NAMES = (
  *("a.png", "A.PNG", "é.jpg", "a b.png", "-x.png", "--out=z.png", "a\nb.png"),
  *("[1].png", "*.png", "a_overlay.png", "x" * 250 + ".png", "..png", "~.png"),
  *(".hidden.png", "\u202egnp.png", "$(touch x).png", "a.webp", "\udcff.png"),
  *("a_labels.png", "heat_1_cat.png", "areas.csv", "a.png.png", "%s.png"),
)
_GIVEN = (
  "P",
  "P",
  "P/*",
  "P/*",
  "P/../P",
  "P/**/*.png",
  "../here/P",
  "no.png",
  "P/[",
  "/",
)
_OUTS = (
  "O",
  "O/new/x",
  "O/../out/y",
  "O/r.png",
  "O/r.jpg",
  "O/r.gif",
  "O/a.svg",
)


def occupy(draw, sandbox, photo):
  """Puts something where a result would be written."""
  names = ("a_overlay.png", "a_labels.png", "areas.csv", "a_heat_1_cat.png")
  path = sandbox.out / draw(st.sampled_from(names))
  kind = draw(
    st.sampled_from(["folder", "fifo", "photo", "link", "own", "csv"])
  )
  if os.path.lexists(path):
    return
  if kind == "folder":
    path.mkdir()
  elif kind == "fifo":
    os.mkfifo(path)
  elif kind == "photo":
    path.symlink_to(photo)
  elif kind == "link":
    path.symlink_to(sandbox.root / "home" / "made_by_link")
  elif kind == "csv":
    path.symlink_to(sandbox.root / "home" / "areas.csv")
  else:
    path.write_bytes((sandbox.root / "home" / "own.png").read_bytes())


@pytest.mark.slow
@fuzz.some(25, 0.5)
@given(data=st.data())
def test_command_lines(stored_model, sandbox, monkeypatch, capsys, data):
  draw, photos = data.draw, pathlib.Path("P")
  shutil.rmtree(photos, ignore_errors=True)
  shutil.rmtree(sandbox.out)
  sandbox.out.mkdir()
  photos.mkdir()
  home = sandbox.root / "home"
  writer.save(home / "own.png", np.zeros((4, 4, 3), np.uint8))
  (home / "areas.csv").write_text("image,threshold,x\n")
  for name in draw(st.lists(st.sampled_from(_NAMES), max_size=4)):
    (photos / name).write_bytes(
      draw(hostile.often(st.just(_GOOD), hostile.encoded()))
    )
  for name in draw(st.sampled_from([(), (), ("a.png", "b.png")])):
    (photos / name).unlink(missing_ok=True)
    if name == "a.png":
      (photos / name).mkdir()
    else:
      os.mkfifo(photos / name)
  for _ in range(draw(st.integers(0, 2))):
    occupy(draw, sandbox, pathlib.Path("P/a.png").absolute())
  given_ = draw(st.lists(st.sampled_from(_GIVEN), min_size=1, max_size=2))
  names = sorted(p.name for p in photos.iterdir() if p.name != "b.png")
  if names and draw(st.booleans()):
    given_ = [f"P/{name}" for name in names]
  out = draw(st.sampled_from(_OUTS) | st.just("O")).replace("O", "../out", 1)
  argv = [f"--image={name}" for name in given_]
  argv += [f"--out={out}", "--checkpoint=x", "--no_compile_cache"]
  words = draw(
    hostile.often(
      st.just("cat, sky"), st.lists(hostile.word, max_size=3).map(",".join)
    )
  )
  argv += [f"--words={words}"]
  extra = ("--heatmaps", "--json", "--no_background", "--image_size=32")
  extra += ("--background_threshold=nan", "--image_size=1048576", "--x")
  argv += draw(st.lists(st.sampled_from(extra), max_size=2, unique=True))
  monkeypatch.setattr(api, "load", lambda *_, **__: stored_model)
  with sandbox.watched(), hostile.bounded(60):
    try:
      code = predict.main(argv)
    except SystemExit as error:
      code = error.code
  hostile.check_command("command lines", code, capsys.readouterr().err)


def _png():
  file = io.BytesIO()
  Image.new("RGB", (7, 5), "red").save(file, "png")
  return file.getvalue()


_GOOD = _png()

# ------------------------------------------------- the runner of exported files

_FAKE = """
  def segment(image, classes, zero):
    shape = (1, *image.shape[1:3], len(classes))
    return (np.full(shape, 0.5, np.float32),)
  return lambda ids: np.eye(len(ids), 4, dtype=np.float32), segment
"""


@pytest.mark.slow
@fuzz.some(60, 0.6)
@given(data=st.data())
def test_runner(sandbox, capsys, monkeypatch, data):
  folder, draw = sandbox.root / "export", data.draw
  if not folder.exists():
    folder.mkdir()
    text = exporting.runner("stablehlo")
    start = text.index("def load(folder):\n") + len("def load(folder):\n")
    end = text.index("\ndef ", start)
    (folder / "run.py").write_text(text[:start] + _FAKE + text[end:])
    (folder / "tokenizer.json").write_text(tokenizer.as_json(16))
  fields = {
    "words": ["cat", "sky"],
    "templates": ["a {}."],
    "window": [32, 16, 2048],
    "rule": {"value": None, "words": None, "odds": 40.0},
    "colours": list(range(256)) * 3,
  }
  content = json.dumps(fields).encode()
  if draw(st.booleans()):
    content = hostile.changed(draw, fields)
  (folder / "config.json").write_bytes(content)
  picture = draw(hostile.often(st.just(_GOOD), hostile.encoded()))
  pathlib.Path("a.png").write_bytes(picture)
  argv = ["--image", draw(st.sampled_from(["a.png"] * 5 + ["no", "/dev/null"]))]
  argv += draw(st.sampled_from([[], ["--words=a, b"]]))
  if draw(st.integers(0, 3)) == 0:
    argv += [f"--words={draw(hostile.word)}"]
  outs = [sandbox.out / "x.png"] * 4 + [sandbox.out / "no" / "x.png", "/", ""]
  argv += ["--out", str(draw(st.sampled_from(outs)))]
  monkeypatch.setattr(sys, "argv", ["run.py", *argv])
  code = 0
  with sandbox.watched(), hostile.bounded(30), warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
      runpy.run_path(str(folder / "run.py"), run_name="__main__")
    except SystemExit as error:
      code = error.code
  text = capsys.readouterr().err
  if isinstance(code, str):  # Python prints it and ends with 1
    hostile.check_line(code)
    code, text = 1, code
  hostile.check_command("runner", code, text)


def test_results_do_not_pass_through_links_and_pipes(sandbox):
  own, out = sandbox.root / "home" / "own.png", sandbox.out
  writer.save(own, np.zeros((4, 4, 3), np.uint8))
  (out / "a_overlay.png").symlink_to(own)
  os.mkfifo(out / "b_overlay.png")
  (sandbox.root / "home" / "areas.csv").write_text("image,threshold,x\n")
  (out / "areas.csv").symlink_to(sandbox.root / "home" / "areas.csv")
  os.mkfifo(out / "areas_2.csv")
  with hostile.bounded(5):
    chosen = result_files.choose([pathlib.Path("a"), pathlib.Path("b")], out)
    table = result_files.table(out, "image,threshold,")
  names = [results.overlay.name for results in chosen]
  assert names == ["a_2_overlay.png", "b_2_overlay.png"]
  assert table.name == "areas_3.csv"
