"""Nothing is lost and nothing comes twice: planted faults, kills, full disks.

SSEG_PLANTED=20000 plants a thousand faults; SSEG_KILLS=10 kills as often.
"""

import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time

import planted
import pytest

from sseg_jax import prepare
from sseg_jax.data import records, staging

COUNT = int(os.environ.get("SSEG_PLANTED", "1000"))
KILLS = int(os.environ.get("SSEG_KILLS", "3"))


def _files(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


def _counts(rejected):
  return {reason: entry["count"] for reason, entry in rejected.items()}


def _options(place):
  return planted.RULES | {
    "exclude_pictures": f"{place}/evaluation"
    if any(place.glob("evaluation/*"))
    else "",
    "val_size": 20,
    "shard_size": 300,
  }


def _flags(place, out):
  options = _options(place) | {"source": f"{place}/source", "out": str(out)}
  return [f"--{name}={value}" for name, value in options.items() if value]


@pytest.mark.slow
@pytest.mark.parametrize("write", [planted.folder, planted.tars])
def test_every_planted_fault_is_counted(tmp_path, write):
  """The same for one process and for eight, which take parts as they come."""
  truth = write(tmp_path, COUNT)
  if COUNT >= planted.SHARE * len(planted.KINDS):
    kinds = planted.KINDS if write is planted.folder else planted.TARS
    assert truth.planted.keys() >= kinds.keys()
  reports, files = [], []
  for workers in (1, 8):
    out = tmp_path / f"out{workers}"
    options = _options(tmp_path) | {"workers": workers}
    reports.append(prepare.prepare(f"{tmp_path}/source", str(out), **options))
    files.append(_files(out))
  report = reports[0]
  assert _counts(report.rejected) == truth.rejected
  assert _counts(report.captions_left_out) == truth.left_out
  assert report.read == truth.read
  assert report.train + report.val == len(truth.kept)
  assert report.val == 20
  out = tmp_path / "out1"
  manifest = records.read_manifest(f"{out}/train")
  assert manifest.rejected == report.rejected
  told = json.loads((out / "report.json").read_text())
  assert told["rejected"] == report.rejected
  assert told["read"] == report.read and told["train"] == report.train
  found = [*records.read(f"{out}/train"), *records.read(f"{out}/val")]
  keys = [record.key.decode() for record in found]
  assert len(keys) == len(set(keys)) and set(keys) == truth.kept.keys()
  for record, key in zip(found, keys, strict=True):
    number = truth.kept[key]
    if record.captions != (b"two words",):
      assert record.captions == (b"picture %d" % number,)
    if record.image[:2] == b"\xff\xd8" and len(record.image) == len(
      data := planted.encoded(number)
    ):
      assert record.image == data
  assert files[0] == files[1]
  print(
    f"{write.__name__}: {truth.read} read, {sum(truth.planted.values())} faults"
    f" of {len(truth.planted)} kinds, rejected {dict(truth.rejected)}"
  )


def _start(place, out, workers=2):
  command = [sys.executable, "-m", "sseg_jax.prepare", *_flags(place, out)]
  return subprocess.Popen(
    [*command, f"--workers={workers}"],
    start_new_session=True,  # a group of its own, which is killed as a whole
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A source, what is made of it undisturbed, and in how many seconds."""
  place = tmp_path_factory.mktemp("whole")
  planted.folder(place, COUNT)
  begun = time.monotonic()
  process = _start(place, place / "whole")
  _, error = process.communicate()
  assert process.returncode == 0, error
  return place, _files(place / "whole"), time.monotonic() - begun


@pytest.mark.slow
def test_kills_change_no_byte(tmp_path, whole):
  """Kills the process and its workers at random moments of all the work."""
  place, expected, seconds = whole
  rng, killed, out = random.Random(time.time_ns()), [], tmp_path / "out"
  tries = 0  # calls that are not disturbed do not count
  while len(killed) < KILLS and tries < 5 * KILLS:
    tries += 1
    process = _start(place, out)
    moment = rng.uniform(0, seconds)
    try:
      _, error = process.communicate(timeout=moment)
    except subprocess.TimeoutExpired:
      os.killpg(process.pid, signal.SIGKILL)
      process.communicate()
      killed.append(round(moment, 2))
    else:  # it was done before; begin anew
      # A kill after the last manifest leaves nothing more to do.
      assert process.returncode == 0 or "holds prepared records" in error
      out.rename(tmp_path / f"done{tries}")
      assert _files(tmp_path / f"done{tries}") == expected
  process = _start(place, out)
  _, error = process.communicate()
  assert process.returncode == 0 or "holds prepared records" in error, error
  assert _files(out) == expected, killed
  print(f"killed after {killed} of {seconds:.1f} s")


@contextlib.contextmanager
def _small_disk(folder, size):
  folder.mkdir()
  mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
  if subprocess.run(mount, capture_output=True).returncode:
    pytest.skip("a small disk can be mounted only by root")
  try:
    yield folder
  finally:
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.9, 1.05])
def test_a_full_disk_is_told_in_one_line(tmp_path, whole, share):
  """The disk fills while pictures are converted, or shards are written."""
  place, expected, _ = whole
  size = sum(map(len, expected.values()))
  with _small_disk(tmp_path / "disk", int(share * size)) as disk:
    out = disk / "out"
    process = _start(place, out)
    _, error = process.communicate()
    assert process.returncode == 1, error
    assert "Traceback" not in error, error
    (line,) = [x for x in error.splitlines() if x.startswith("error: ")]
    assert line.startswith(f"error: --out={out}: the disk is full"), line
    print(line)
    subprocess.run(
      ["mount", "-o", f"remount,size={4 * size}", disk], check=True
    )
    process = _start(place, out)
    _, error = process.communicate()
    assert process.returncode == 0, error
    assert _files(out) == expected


def test_a_disk_that_fills_while_parts_are_written(
  tmp_path, monkeypatch, capsys
):
  planted.folder(tmp_path, 60)
  real, calls = staging.write, []

  def full(*args):
    calls.append(args)
    raise OSError(errno.ENOSPC, "No space left on device", "x.data")

  monkeypatch.setattr(staging, "write", full)
  argv = [*_flags(tmp_path, tmp_path / "out"), "--workers=0"]
  assert prepare.main(argv) == 1 and calls
  (line,) = capsys.readouterr().err.splitlines()
  assert f"--out={tmp_path}/out: the disk is full" in line
  monkeypatch.setattr(staging, "write", real)
  assert prepare.main(argv) == 0
