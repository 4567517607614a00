"""Tests of the command that turns pictures into records."""

import io
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from sseg_jax import prepare
from sseg_jax.data import (
  assembly,
  records,
  reencode,
  staging,
  survival,
  survivors,
)
from sseg_jax.data.sources import streams
from sseg_jax.errors import InputError
from sseg_jax.runtime import lease

RED = (200, 40, 30)


def _encode(image, kind, **kwargs):
  out = io.BytesIO()
  image.save(out, kind, **kwargs)
  return out.getvalue()


def _decode(data):
  image = Image.open(io.BytesIO(data))
  assert image.format == "JPEG"
  assert image.mode == "RGB"
  return np.asarray(image).astype(int)


def _solid(mode="RGB", size=(20, 16)):
  image = Image.new("RGB", size, RED)
  return image.quantize(4) if mode == "P" else image.convert(mode)


def _source(folder, count=12, size=(20, 16)):
  """Writes pictures of distinct colours with captions.jsonl."""
  folder.mkdir(parents=True, exist_ok=True)
  rows = []
  for i in range(count):
    name = f"{i:03d}.png"
    Image.new("RGB", size, (i * 9 % 256, 50, 99)).save(folder / name)
    rows.append({"file_name": name, "captions": [f"number {i}"], "license": i})
  (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
  return folder


def _keys(folder):
  return [record.key.decode() for record in records.read(str(folder))]


def test_fitting_jpeg_keeps_its_bytes():
  data = _encode(_solid(), "JPEG")
  assert reencode.to_jpeg(data, short_side=16) is data
  assert reencode.to_jpeg(data) is data
  assert reencode.to_jpeg(data, short_side=8) is not data


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_short_side_shrinks_only_larger_pictures(kind):
  large = _encode(_solid(size=(120, 40)), kind)
  pixels = _decode(reencode.to_jpeg(large, short_side=20))
  assert pixels.shape == (20, 60, 3)
  assert np.abs(pixels - RED).max() <= 12
  small = _decode(reencode.to_jpeg(large, short_side=64))
  assert small.shape == (40, 120, 3)


def test_prepare_writes_both_splits(tmp_path):
  source = _source(tmp_path / "source")
  report = prepare.prepare(str(source), str(tmp_path / "out"), val_size=5)
  assert (report.read, report.train, report.val) == (12, 7, 5)
  train, val = _keys(tmp_path / "out/train"), _keys(tmp_path / "out/val")
  assert sorted(train + val) == [f"{i:03d}.png" for i in range(12)]
  assert train == sorted(train)  # the source's order
  record = next(records.read(str(tmp_path / "out/train")))
  assert record.captions == (f"number {int(record.key[:3])}".encode(),)
  assert record.license == str(int(record.key[:3])).encode() or None


def test_the_split_depends_on_keys_and_seed_alone(tmp_path):
  held_out = {}
  for name, count, seed in (("a", 12, 0), ("b", 13, 0), ("c", 12, 1)):
    source = _source(tmp_path / name, count)
    prepare.prepare(
      str(source), str(tmp_path / f"o{name}"), val_size=6, seed=seed
    )
    held_out[name] = set(_keys(tmp_path / f"o{name}/val"))
  assert len(held_out["a"] & held_out["b"]) >= 5
  assert held_out["a"] != held_out["c"]


def test_rejections_are_counted_and_named(tmp_path, capsys):
  source = _source(tmp_path / "source")
  (source / "000.png").write_bytes(b"")
  (source / "001.png").write_bytes(b"rubbish")
  (source / "002.png").unlink()
  with (source / "captions.jsonl").open("a") as file:
    file.write('\n{"file_name": "new.png", "captions": [" "]}')
  out = tmp_path / "out"
  argv = [f"--source={source}", f"--out={out}", "--val_size=4", "--workers=0"]
  assert prepare.main([*argv, "--json"]) == 0
  report = json.loads(capsys.readouterr().out)
  assert (report["read"], report["train"], report["val"]) == (13, 5, 4)
  expected = {
    "empty_file": ["000.png"],
    "unreadable": ["001.png"],
    "missing_image": ["002.png"],
    "empty_caption": ["new.png"],
  }
  found = {k: v["examples"] for k, v in report["rejected"].items()}
  assert found == expected
  manifest = records.read_manifest(str(out / "train"))
  assert manifest.rejected == report["rejected"]
  assert manifest.info["val"] == 4
  assert prepare.main(argv) == 2
  assert "--overwrite" in capsys.readouterr().err
  assert prepare.main([*argv, "--overwrite"]) == 0
  assert "kept 9 of 13" in capsys.readouterr().out


def test_val_that_leaves_nothing_is_refused(tmp_path):
  source = _source(tmp_path / "source", 3)
  with pytest.raises(InputError, match="val_size"):
    prepare.prepare(str(source), str(tmp_path / "out"), val_size=3)
  assert not (tmp_path / "out/train/manifest.json").exists()


def _files(folder):
  """All files below a folder, with their bytes."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


@pytest.mark.parametrize(
  ("place", "name", "call"),
  [
    (staging, "write", 0),  # nothing is there yet
    (staging, "write", 2),  # two parts of three
    (survivors, "choose", 0),  # all parts
    (assembly, "write_val", 0),
    (records.ShardWriter, "finish", 2),  # one shard of train
    (survival, "write", 0),  # all shards
    (assembly, "finish", 1),  # all but the last manifest
  ],
)
def test_an_interrupted_run_continues(tmp_path, monkeypatch, place, name, call):
  """The same bytes as without an interruption, and no work done twice."""
  source, out = _source(tmp_path / "source"), tmp_path / "out"
  (source / "011.png").unlink()
  monkeypatch.setattr(streams, "_FOLDER_PART", 4)
  options = {"val_size": 2, "shard_size": 4, "duplicates": "near"}
  prepare.prepare(str(source), str(tmp_path / "whole"), **options)
  real, calls = getattr(place, name), []

  def stop(*args, **kwargs):
    calls.append(args)
    if len(calls) > call:
      raise KeyboardInterrupt
    return real(*args, **kwargs)

  with monkeypatch.context() as m:
    m.setattr(place, name, stop)
    with pytest.raises(KeyboardInterrupt):
      prepare.prepare(str(source), str(out), **options)
  assert not (out / "train/manifest.json").exists()
  made = []
  real_write = staging.write
  monkeypatch.setattr(
    staging, "write", lambda *a: made.append(a[1]) or real_write(*a)
  )
  prepare.prepare(str(source), str(out), **options)
  assert made == (list(range(call, 3)) if place is staging else [])
  assert _files(out) == _files(tmp_path / "whole")


def test_a_kill_after_the_last_manifest(tmp_path, capsys):
  """The next call tidies, changes no record, and says that all is done."""
  source, out = _source(tmp_path / "source"), tmp_path / "out"
  options = {"val_size": 2, "shard_size": 4}
  prepare.prepare(str(source), str(tmp_path / "whole"), **options)
  code = (
    "import os, signal; from sseg_jax import prepare\n"
    "from sseg_jax.data import assembly\n"
    "real = assembly.tidy\n"
    "def tidy(folder):\n"
    "  if folder.endswith('train'): os.kill(os.getpid(), signal.SIGKILL)\n"
    "  real(folder)\n"
    "assembly.tidy = tidy\n"
    f"prepare.prepare({str(source)!r}, {str(out)!r}, **{options})\n"
  )
  done = subprocess.run([sys.executable, "-c", code])
  assert done.returncode == -signal.SIGKILL
  assert (out / "train/manifest.json").exists()
  assert (out / "parts").exists() and [*(out / "train").glob("*.done")]
  argv = [f"--source={source}", f"--out={out}"]
  argv += [f"--{name}={value}" for name, value in options.items()]
  assert prepare.main(argv) == 2
  assert "nothing is left to do" in capsys.readouterr().err
  assert _files(out) == _files(tmp_path / "whole")


def test_other_options_start_anew(tmp_path, monkeypatch):
  source, out = _source(tmp_path / "source"), tmp_path / "out"
  with monkeypatch.context() as m:
    m.setattr(survival, "write", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      prepare.prepare(str(source), str(out), val_size=2, seed=1)
  report = prepare.prepare(str(source), str(out), val_size=4)
  assert (report.train, report.val) == (8, 4)
  prepare.prepare(str(source), str(tmp_path / "whole"), val_size=4)
  assert _files(out) == _files(tmp_path / "whole")


@pytest.mark.slow
def test_workers_do_not_change_the_bytes(tmp_path, monkeypatch):
  monkeypatch.setattr(streams, "_FOLDER_PART", 16)
  source = _source(tmp_path / "source", 70)
  (source / "007.png").write_bytes(b"rubbish")
  for workers in (0, 2):
    out = str(tmp_path / f"out{workers}")
    prepare.prepare(
      str(source),
      out,
      val_size=9,
      workers=workers,
      image_size=12,
      shard_size=20,
    )
  # Two manifests and reports, 60 records in three shards and nine in one, with
  # indexes.
  files = _files(tmp_path / "out0")
  assert len(files) == 2 + 2 + 2 * (3 + 1)
  assert files == _files(tmp_path / "out2")


def test_tensorflow_is_not_imported(tmp_path):
  """It takes longer than to convert a thousand pictures."""
  source = _source(tmp_path / "source")
  code = (
    "import sys; from sseg_jax import prepare\n"
    f"prepare.prepare({str(source)!r}, {str(tmp_path / 'out')!r}, val_size=2)\n"
    "assert 'tensorflow' not in sys.modules\n"
  )
  subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_with_a_process_that_is_killed():
  """Else they would stay for ever, or write what a new call writes as well."""
  code = (
    "import os, time; from sseg_jax.data import conversion\n"
    "with conversion.processes(1) as run:\n"
    "  print(*run(os.getpid, [()]), flush=True)\n"
    "  time.sleep(600)\n"
  )
  process = subprocess.Popen(
    [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
  )
  with process:
    worker = int(process.stdout.readline())
    assert lease._start_of(worker)
    process.kill()
  deadline = time.monotonic() + 30
  while lease._start_of(worker) and time.monotonic() < deadline:
    time.sleep(0.02)
  assert not lease._start_of(worker)


@pytest.mark.parametrize(
  "flag", ["--val_size=-1", "--shard_size=0", "--quality=0", "--image_size=-3"]
)
def test_flags_out_of_range(tmp_path, flag, capsys):
  argv = [f"--source={tmp_path}", f"--out={tmp_path}/out", flag]
  assert prepare.main(argv) == 2
  assert flag in capsys.readouterr().err


def test_real_photos(tmp_path, shared):
  source = shared / "data" / "coco_captions"
  few = tmp_path / "few.jsonl"
  lines = (source / "captions.jsonl").read_text().splitlines()[:6]
  few.write_text("\n".join(lines))
  report = prepare.prepare(
    str(source), str(tmp_path / "out"), captions=str(few), image_size=64
  )
  assert report.train == 6
  for record in records.read(str(tmp_path / "out/train")):
    assert min(_decode(record.image).shape[:2]) == 64
    assert len(record.captions) >= 5
