"""A run that is stopped and started again ends where a straight one ends."""

import json
import shutil

import jax
import numpy as np
import pytest
from absl import logging

from sseg_jax import train
from sseg_jax.checkpoints import checkpoint
from sseg_jax.errors import InputError, Unavailable
from sseg_jax.runtime import preemption

pytestmark = pytest.mark.slow

STEPS, STOP = 12, 6


class StopAfter(preemption.Stop):
  """Stands in for a signal, which would come at any moment."""

  def __init__(self, steps):
    super().__init__()
    self.left = steps

  def is_set(self):
    self.left -= 1
    return self.left <= 0


@pytest.fixture(scope="module")
def config(make_tiny_config):
  c = make_tiny_config()
  c.total_steps = STEPS
  c.text.layers = 1  # to compile sooner
  c.data.source = "shapes"
  c.data.shapes.eval_size = 2
  c.log_every_steps = 4  # the stop comes between two rows
  c.checkpoint.every_steps = 0
  c.evaluate.every_steps = 0
  return c.lock()


@pytest.fixture(scope="module")
def runs(config, tmp_path_factory):
  """Work directories and results of a straight run and of a stopped one."""
  straight = tmp_path_factory.mktemp("straight")
  stopped = tmp_path_factory.mktemp("stopped")
  straight_result = train.train(config, straight, StopAfter(1000))
  result = train.train(config, stopped, StopAfter(STOP))
  assert result == {"preempted": STOP}
  assert not (stopped / "result.json").exists()
  assert not (stopped / "lease.json").exists()
  stopped_result = train.train(config, stopped, StopAfter(1000))
  return (straight, straight_result), (stopped, stopped_result)


def curve(workdir):
  """Losses by the step under which they were logged."""
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  return {row["step"]: row for row in rows if "loss" in row}


def test_parameters_are_equal_bit_for_bit(runs):
  (straight, _), (stopped, _) = runs
  one, other = checkpoint.load(straight), checkpoint.load(stopped)
  assert one.step == other.step == STEPS
  for name in ("params", "model_state"):
    jax.tree.map(
      np.testing.assert_array_equal, getattr(one, name), getattr(other, name)
    )


def test_the_loss_curve_goes_on_bit_for_bit(runs):
  one, other = (curve(workdir) for workdir, _ in runs)
  assert list(one) == list(other) == [4, 8, 12]
  for step in one:
    # Of what follows the stop as of what comes before, each step counts.
    for name in ("loss", "grad_norm", "loss/mask", "loss/contrastive"):
      assert one[step][name] == other[step][name], (step, name)
  # Different batches have different losses, so equal ones are no accident.
  assert len({row["loss"] for row in one.values()}) == len(one)


def test_evaluations_are_equal(runs):
  (_, one), (_, other) = runs
  assert one["retrieval"] == other["retrieval"]
  for name, result in one["benchmarks"].items():
    assert result["per_class"] == other["benchmarks"][name]["per_class"]


def test_a_finished_run_is_not_trained_again(runs, config):
  workdir, before = runs[0]
  # As if killed while it was written, by a version that wrote it in place.
  for name in ("result.json", "data/shapes.json"):
    (workdir / name).write_text("{")
  again = train.train(config, workdir)
  assert json.loads((workdir / "result.json").read_text()) == again
  assert again["final"] == before["final"] and again["final"]["loss"] > 0
  assert again["steps"] == STEPS
  assert again["retrieval"] == before["retrieval"]
  assert checkpoint.load(workdir).step == STEPS


def changed(config, **fields):
  other = config.copy_and_resolve_references().unlock()
  for name, value in fields.items():
    part, _, field = name.rpartition("__")
    (other[part] if part else other)[field] = value
  return other


def test_what_would_break_the_run_is_refused(runs, config):
  """Also where all shapes stay the same, and before anything is touched."""
  workdir = runs[0][0]
  before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}
  other = changed(
    config, seed=3, data__lanes=2, model__num_heads=2, optim__peak_lr=1e-4
  )
  other.data.shapes.train_size = 48
  with pytest.raises(InputError) as raised:
    train.train(other, workdir)
  message = str(raised.value)
  for part in (
    "seed=0, not 3",
    "data.lanes=4, not 2",
    "model.num_heads=4, not 2",
    "data.shapes.train_size=32, not 48",
    "another --workdir",
  ):
    assert part in message
  assert "peak_lr" not in message
  after = {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}
  assert after == before


def test_a_run_that_is_beyond_its_end_says_so(runs, config, tmp_path):
  workdir = tmp_path / "run"
  shutil.copytree(runs[0][0], workdir)
  other = changed(config, total_steps=5, optim__peak_lr=1e-4)
  result = train.train(other, workdir)
  assert result["steps"] == STEPS
  assert result["final"] == runs[0][1]["final"]
  peak = config.optim.peak_lr
  changes = {"optim.peak_lr": [peak, 1e-4], "total_steps": [STEPS, 5]}
  assert result["changes"] == [{"step": STEPS, "fields": changes}]
  assert json.loads((workdir / "result.json").read_text()) == result
  stored = json.loads((workdir / "config.json").read_text())
  assert (stored["total_steps"], stored["optim"]["peak_lr"]) == (5, 1e-4)


def test_changes_are_told_and_kept(runs, config, tmp_path, caplog):
  workdir = tmp_path / "run"
  shutil.copytree(runs[1][0], workdir)
  shutil.rmtree(workdir / "checkpoints" / str(STEPS))
  longer = changed(config, total_steps=STEPS + 1, loss__focal=7.0)
  logging.get_absl_logger().propagate = True
  result = train.train(longer, workdir, StopAfter(1000))
  assert result["steps"] == STEPS + 1
  told = [r.message for r in caplog.records if "changed at" in r.message]
  assert told == [
    f"changed at step {STOP}: loss.focal: 20.0 -> 7.0",
    f"changed at step {STOP}: total_steps: {STEPS} -> {STEPS + 1}",
  ]
  fields = {
    "loss.focal": [20.0, 7.0],
    "total_steps": [STEPS, STEPS + 1],
  }
  kept = checkpoint.load(workdir).metadata["changes"]
  assert kept == result["changes"] == [{"step": STOP, "fields": fields}]


def test_a_run_whose_lease_was_taken_saves_nothing(runs, config, tmp_path):
  workdir = tmp_path / "run"
  shutil.copytree(runs[1][0], workdir)
  shutil.rmtree(workdir / "checkpoints" / str(STEPS))
  (workdir / "result.json").unlink()

  class Thief(StopAfter):
    def is_set(self):
      self.left -= 1
      if self.left == 2:
        assert (workdir / "lease.json").exists()
        (workdir / "lease.json").write_text('{"token": "x", "process": 7}')
      return False

  with pytest.raises(Unavailable, match="taken over by another run .process 7"):
    train.train(config, workdir, Thief(4))
  names = {path.name for path in (workdir / "checkpoints").iterdir()}
  assert names == {str(STOP)}
  assert not (workdir / "result.json").exists()
  assert json.loads((workdir / "lease.json").read_text())["token"] == "x"
