"""An evaluation that is killed goes on, and counts the same integers."""

import json
import os
import pathlib
import re
import signal
import subprocess

import numpy as np
import preloaded
import pytest
from PIL import Image
from test_evaluate import Coded, Listed, sample, save_checkpoint

from sseg_jax import evaluate, evaluation, scores
from sseg_jax.benchmarks import unfinished
from sseg_jax.errors import InputError
from sseg_jax.inference import protocols
from sseg_jax.paper_report.gathered import Gathered

ROOT = pathlib.Path(__file__).parents[1]
PICTURES = 7


class Stop(Exception):
  """Stands for a kill, where a process of its own would take long."""


def pictures(change=(), labels_up_to=2):
  """Pictures of two sizes, so that batches end at different places."""
  rng = np.random.default_rng(0)
  for i in range(PICTURES):
    shape = (4, 5 if i in (2, 3) else 6)
    labels = rng.integers(0, labels_up_to + 1, shape)
    values = rng.random((2, *shape))
    if i in change:
      values = values / 2
    yield sample(str(i), labels, *values)


class StopsAt(Coded):
  """A segmenter that is stopped at a call."""

  combiner = "mean"

  def __init__(self, call=None):
    self._left = call

  def scores(self, image, class_set):
    if self._left == 0:
      raise Stop
    if self._left is not None:
      self._left -= 1
    return super().scores(image, class_set)


def draw(out, benchmark, result, rows):
  """Writes labels in place of a picture, which would take long."""
  found = [(image.tolist(), labels.tolist()) for image, _, labels in rows]
  (out / "drawn.json").write_text(json.dumps(found))


@pytest.fixture
def every(monkeypatch):
  """Counts are written after each batch; what is drawn is only listed."""
  monkeypatch.setattr(scores.report, "draw", draw)
  monkeypatch.setattr(unfinished, "EVERY_SECONDS", 0.0)
  monkeypatch.setattr(unfinished, "_SHARE", 0)


def score(folder, call=None, *, has_background=True, **more):
  """Scores the pictures two at a time; returns the result and what is kept."""
  made = pictures(more.pop("change", ()), 1 + has_background)
  benchmark = Listed(list(made), has_background=has_background)
  benchmark.split = None
  threshold = more.pop("threshold", 0.4) if has_background else None
  fields = more.pop("fields", {"system": "coded"})
  seen = []

  def observer(benchmark):
    seen.append(Gathered(benchmark))
    return seen[0]

  settings = scores.Settings(
    background_threshold=threshold,
    out=folder,
    observer=observer,
    unfinished=folder / "unfinished",
    **more,
  )
  folder.mkdir(exist_ok=True)
  origin = scores.Origin("identity", fields)
  own = protocols.own(64, 32, "identity")
  results = scores.score_all(
    StopsAt(call), [(benchmark, None)], settings, origin, own
  )
  gathered = seen[0]
  heaps = [
    (name, score, order, s.id, labels.tolist())
    for name, heap in gathered._heaps().items()
    for score, order, s, labels in sorted(heap, key=lambda item: item[1])
  ]
  result = results["listed"]
  for name in ("seconds", "images_per_second"):
    del result[name]
  return result, gathered._confusion.counts.tolist(), heaps


@pytest.mark.parametrize(
  ("call", "has_background"),
  [(0, True), (1, True), (3, True), (6, True), (5, False)],
)
def test_goes_on_after_a_stop(tmp_path, every, capsys, call, has_background):
  how = {"has_background": has_background}
  expected = score(tmp_path / "whole", **how)
  with pytest.raises(Stop):
    score(tmp_path / "stopped", call, **how)
  capsys.readouterr()
  assert score(tmp_path / "stopped", **how) == expected
  told = capsys.readouterr().err
  # Batches are of one size: pictures 0 1, 2 3, 4 5 6.
  done = {0: 0, 1: 0, 3: 2, 5: 4, 6: 4}[call]
  if done:
    assert f"listed goes on after {done} of 7 pictures" in told
  else:
    assert told == ""
  # What is drawn is whole, too.
  one, other = (
    json.loads((tmp_path / name / "drawn.json").read_text())
    for name in ("whole", "stopped")
  )
  assert one == other and len(one) == PICTURES
  # All is counted: nothing is scored again.
  assert score(tmp_path / "stopped", 0, **how) == expected
  unfinished.remove(tmp_path / "stopped" / "unfinished", ["listed"])
  assert not (tmp_path / "stopped" / "unfinished").exists()


def test_labels_of_a_protocol_go_on(tmp_path, every):
  """The rules that decide labels themselves, with a curve of thresholds."""

  class Decides:
    protocol = protocols.find("tcl")

    def __init__(self, call=None):
      self._coded = StopsAt(call)

    def labels_many(self, images, class_set, thresholds):
      found = [self._coded.scores(image, class_set) for image in images]
      best = np.stack(found).max(-1)
      index = np.stack(found).argmax(-1) + 1
      return np.stack([np.where(best < t, 0, index) for t in thresholds])

  benchmark = Listed(list(pictures()), has_background=True)

  def run(call, folder):
    kept = unfinished.start(folder, benchmark, {"a": 1}, range(PICTURES))
    return evaluation.evaluate(
      Decides(call), benchmark, threshold=0.5, unfinished=kept
    )

  expected = run(None, None)
  with pytest.raises(Stop):
    run(4, tmp_path)
  found = run(None, tmp_path)
  assert found["curve"] == expected["curve"]
  assert found["per_class"] == expected["per_class"]


@pytest.mark.parametrize(
  ("change", "told"),
  [
    ({"threshold": 0.5}, "background_threshold 0.4, now 0.5"),
    ({"fields": {"system": "other"}}, "system.system coded, now other"),
    ({"max_images": 5}, "max_images 0, now 5"),
    ({"has_background": False}, "benchmark.has_background True, now False"),
    ({"change": (1,)}, "picture 2 has changed"),
  ],
)
def test_counts_of_another_evaluation_start_over(
  tmp_path, every, capsys, change, told
):
  expected = score(tmp_path / "whole", **change)
  with pytest.raises(Stop):
    score(tmp_path / "out", 2)
  capsys.readouterr()
  assert score(tmp_path / "out", **change) == expected
  error = capsys.readouterr().err
  assert told in error and "listed starts over" in error
  assert error.count("\n") == 1 and "listed.npz: the counts are of" in error


def test_damaged_counts_start_over(tmp_path, every, capsys):
  expected = score(tmp_path / "whole")
  path = tmp_path / "out" / "unfinished" / "listed.npz"
  with pytest.raises(Stop):
    score(tmp_path / "out", 4)
  whole = path.read_bytes()
  middle = len(whole) // 2
  flipped = bytes([whole[middle] ^ 1])
  for bad in (
    whole[:middle],
    b"",
    b"PK" + whole[:9],
    whole[:middle] + flipped + whole[middle + 1 :],
  ):
    path.write_bytes(bad)
    capsys.readouterr()
    assert score(tmp_path / "out") == expected
    error = capsys.readouterr().err
    assert "are damaged" in error and error.count("\n") == 1
  # Whole, but of other arrays: nothing is guessed.
  with np.load(tmp_path / "out" / "unfinished" / "listed.npz") as file:
    arrays = {k: v for k, v in file.items() if not k.startswith("counts/")}
  np.savez(path, **arrays)
  with pytest.raises(InputError, match="damaged.*remove the file"):
    score(tmp_path / "out")


def test_a_disk_that_takes_nothing_costs_only_the_restart(
  tmp_path, every, capsys
):
  expected = score(tmp_path / "whole")
  (tmp_path / "out").mkdir()
  (tmp_path / "out" / "unfinished").write_text("a file in the way")
  assert score(tmp_path / "out") == expected
  error = capsys.readouterr().err
  assert error.count("a stop would start over") == 1


def test_without_a_folder_nothing_is_kept():
  one = list(pictures())[:1]
  kept = unfinished.start(None, Listed(one, has_background=True), {}, (0,))
  kept.counted(one, 1.0)
  kept.write()
  assert kept.done == 1 and kept.path is None


@pytest.fixture
def things(tmp_path):
  """Forty pictures of two sizes with their labels."""
  root = tmp_path / "pets"
  for name in ("images", "labels"):
    (root / name).mkdir(parents=True)
  (root / "classes.txt").write_text("background\ncat\ndog\n")
  rng = np.random.default_rng(0)
  for i in range(40):
    shape = (32, 32 if i % 3 else 48)
    pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "images" / f"{i:02}.png")
    labels = rng.integers(0, 3, shape, dtype=np.uint8)
    Image.fromarray(labels).save(root / "labels" / f"{i:02}.png")
  return root


# The process kills itself while it counts, without any chance to tidy up.
_COMMAND = """
import os, signal, sys
from sseg_jax import evaluate
from sseg_jax.benchmarks import counts, unfinished
unfinished.EVERY_SECONDS, unfinished._SHARE = 0.0, 0
batches, last = 0, int(sys.argv.pop(1))  # killed after so many
def add(self, *arguments):
  global batches
  batches += 1
  if batches > last:
    os.kill(os.getpid(), signal.SIGKILL)
  return whole(self, *arguments)
whole = counts.CountWithBackground.add
counts.CountWithBackground.add = add
sys.exit(evaluate.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_killed_command_counts_the_same(
  tmp_path, things, tiny_config, every, capsys
):
  save_checkpoint(tmp_path / "run", tiny_config)

  def flags(out):
    return [
      f"--checkpoint={tmp_path / 'run'}",
      f"--benchmarks={things}",
      f"--out={tmp_path / out}",
      f"--report={tmp_path / out}",
    ]

  killed = subprocess.run(
    [preloaded.python(), "-c", _COMMAND, "9", *flags("killed")],
    cwd=ROOT,
    env=os.environ,
    capture_output=True,
    text=True,
    check=False,
  )
  assert killed.returncode == -signal.SIGKILL, killed.stderr
  kept = tmp_path / "killed" / "unfinished" / "pets.npz"
  assert kept.is_file()
  assert evaluate.main(flags("killed")) == 0
  told = capsys.readouterr().err
  done = int(re.search(r"pets goes on after (\d+) of 40 pictures", told)[1])
  assert 0 < done < 40
  assert not kept.parent.exists()
  assert evaluate.main(flags("whole")) == 0
  assert not capsys.readouterr().err

  def report(out):
    (one,) = json.loads((tmp_path / out / "report.json").read_text())["runs"]
    for name in ("seconds", "images_per_second"):
      del one["result"][name]
    return one

  # All integers of the confusion matrix, the curve, best and worst pictures.
  assert report("killed") == report("whole")
