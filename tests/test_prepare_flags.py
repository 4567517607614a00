"""Tests of what `prepare` says of its flags, its source and its report."""

import contextlib
import io
import json
import sys
from concurrent.futures.process import BrokenProcessPool

import pytest
from PIL import Image

from sseg_jax import prepare
from sseg_jax.data import conversion, records
from sseg_jax.errors import InputError, Unavailable


def _source(folder, names=("a", "b", "c"), **fields):
  """Writes pictures with captions.jsonl, or with the text given for each."""
  folder.mkdir(parents=True, exist_ok=True)
  rows = []
  for i, name in enumerate(names):
    Image.new("RGB", (8, 8), (i, 50, 99)).save(folder / f"{name}.jpg")
    rows.append({"file_name": f"{name}.jpg", "caption": f"a {name}", **fields})
  (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
  return folder


def _records(folder):
  return list(records.read(str(folder)))


def test_home_folders(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  _source(tmp_path / "photos").joinpath("captions.jsonl").rename(
    tmp_path / "mine.jsonl"
  )
  argv = ["--source=~/photos", "--out=~/out", "--captions=~/mine.jsonl"]
  assert prepare.main([*argv, "--workers=0"]) == 0
  assert len(_records(tmp_path / "out/train")) == 3


@pytest.mark.parametrize(
  ("out", "message"),
  [
    ("file", "file is a file"),
    ("file/below", "file is a file"),
    ("photos", "is the source"),
    ("photos/../photos/.", "is the source"),
    ("", "which holds the source"),
  ],
)
def test_out_that_cannot_be(tmp_path, out, message, capsys):
  # photos, or train/photos below the OUT "".
  source = _source(tmp_path / ("photos" if out else "train/photos"))
  (tmp_path / "file").write_text("mine")
  argv = [f"--source={source}", f"--out={tmp_path / out}", "--workers=0"]
  assert prepare.main(argv) == 2
  error = capsys.readouterr().err
  assert f"out={tmp_path / out}" in error and message in error
  assert error.count("\n") == 1
  assert (tmp_path / "file").read_text() == "mine"


def test_out_inside_of_the_source_is_not_read(tmp_path):
  source = _source(tmp_path)
  for split in ("train", "val"):  # of an interrupted run
    (tmp_path / "records" / split).mkdir(parents=True)
    (tmp_path / "records" / split / "x.jpg").write_bytes(b"x")
  report = prepare.prepare(str(source), str(tmp_path / "records"), val_size=1)
  assert (report.read, report.train, report.notes) == (3, 2, ())


def test_val_size_is_compared_with_the_usable_pictures(tmp_path):
  source, out = _source(tmp_path / "source"), str(tmp_path / "out")
  prepare.prepare(str(source), out)
  (source / "c.jpg").unlink()
  with pytest.raises(InputError, match="--val_size=2: only 2 of 3 pictures"):
    prepare.prepare(str(source), out, val_size=2, overwrite=True)
  # It was told before the old records were touched.
  assert len(_records(tmp_path / "out/train")) == 3
  (source / "b.jpg").write_bytes(b"rubbish")
  with pytest.raises(InputError, match="none is left.*give less than 1: kept"):
    prepare.prepare(str(source), out, val_size=1, seed=1, overwrite=True)
  assert not list((tmp_path / "out/val").iterdir())


def test_nothing_usable_does_not_blame_val_size(tmp_path):
  source = _source(tmp_path / "source")
  for picture in source.glob("*.jpg"):
    picture.write_bytes(b"rubbish")
  with pytest.raises(InputError, match="unreadable: 3 .a.jpg, b") as error:
    prepare.prepare(str(source), str(tmp_path / "out"))
  assert "val_size" not in str(error.value)
  assert "\n" not in str(error.value)


def test_everything_is_counted_in_the_report(tmp_path, capsys):
  source = _source(tmp_path / "source", "abcdef")
  with (source / "captions.jsonl").open("a") as file:
    for row in (
      {"file_name": "a.jpg", "captions": ["\ud83d", "more"]},
      {"file_name": "g.jpg", "caption": "x"},
      {"caption": "x"},
      {"file_name": "x" * 9000, "caption": "x"},
    ):
      file.write("\n" + json.dumps(row))
    file.write("\nno json\n")
  (source / "b.jpg").write_bytes(b"rubbish")
  (source / "lonely.jpg").write_bytes(b"x")
  argv = [f"--source={source}", f"--out={tmp_path}/out", "--val_size=2"]
  assert prepare.main([*argv, "--workers=0", "--json"]) == 0
  report = json.loads(capsys.readouterr().out)
  counts = {k: v["count"] for k, v in report["rejected"].items()}
  assert counts == {
    "missing_image": 2,
    "no_file_name": 1,
    "not_json": 1,
    "unreadable": 1,
  }
  assert report["read"] == report["train"] + report["val"] + 5 == 10
  assert report["captions_left_out"] == {
    "not_unicode": {"count": 1, "examples": ["a.jpg"]}
  }
  assert report["notes"] == [
    "pictures that the captions do not name: 1 (lonely.jpg)"
  ]
  manifest = records.read_manifest(str(tmp_path / "out/train"))
  assert manifest.rejected == report["rejected"]
  assert manifest.info["captions_left_out"] == report["captions_left_out"]
  assert manifest.info["notes"] == report["notes"]
  assert max(map(len, manifest.rejected["missing_image"]["examples"])) < 400
  assert prepare.main([*argv, "--workers=0", "--overwrite"]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert "  not_json: 1 (captions.jsonl:11)" in lines
  assert "captions left out of pictures that have others:" in lines
  assert f"note: {report['notes'][0]}" in lines


def test_text_that_no_encoding_has(tmp_path, monkeypatch):
  """Half an emoji in a licence; names that a terminal cannot show."""
  source = _source(tmp_path / "s", ("é",), license="\ud83d", url="\udce9")
  Image.new("RGB", (8, 8)).save(source / "ü.jpg")
  out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
  monkeypatch.setattr(sys, "stdout", out)
  argv = [f"--source={source}", f"--out={tmp_path}/out", "--workers=0"]
  assert prepare.main(argv) == 0
  out.flush()
  assert b"(\\xfc.jpg)" in out.buffer.getvalue()
  (record,) = _records(tmp_path / "out/train")
  assert (record.license, record.source) == (b"\\ud83d", b"\\udce9")


def test_a_worker_that_is_killed_is_told(tmp_path, monkeypatch):
  def killed(*args):
    raise BrokenProcessPool("A process in the process pool was terminated")

  monkeypatch.setattr(conversion, "_in_pool", killed)
  source = _source(tmp_path / "source")
  with pytest.raises(Unavailable, match="fewer than --workers=7"):
    prepare.prepare(str(source), str(tmp_path / "out"), workers=7)


class _Terminal(io.StringIO):
  def isatty(self):
    return True


def test_the_bar_is_drawn_when_asked(tmp_path):
  source = _source(tmp_path / "source")
  for progress in (False, True):
    with contextlib.redirect_stderr(_Terminal()) as err:
      prepare.prepare(
        str(source), str(tmp_path / "out"), progress=progress, overwrite=True
      )
    assert ("3/3" in err.getvalue()) == progress


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ([], "--source is missing"),
    (["--source=a", "--records=b"], "--records=b has no meaning"),
    (["--add_pseudo_masks", "--records=a"], "--config is missing"),
    (
      ["--add_pseudo_masks", "--records=a", "--config=b", "--seed=0"],
      "--seed=0 has no meaning",
    ),
  ],
)
def test_flags_of_the_other_job_are_refused(flags, message, capsys):
  assert prepare.main(["--out=out", *flags]) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1
