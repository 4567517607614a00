"""Which score of an evaluation decides what is best."""

import math
import pathlib
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from etils import epath

from sseg_jax import default_config, evaluator, train_step
from sseg_jax.images import drawing
from sseg_jax.inference import segmenter

RETRIEVAL = {"image_to_text_R@1": 4.0, "text_to_image_R@1": 6.0, "pairs": 9}
OUTPUT = {
  "benchmarks": {"a": {"mIoU": 10.0}, "b": {"mIoU": 30.0}, "c": {"mIoU": None}},
  "retrieval": RETRIEVAL | {"image_to_text_R@5": 50.0},
}


@pytest.mark.parametrize(
  ("name", "output", "score"),
  [
    ("", OUTPUT, 20.0),
    ("mIoU/b", OUTPUT, 30.0),
    ("retrieval/image_to_text_R_at_5", OUTPUT, 50.0),
    ("", {"benchmarks": {}, "retrieval": RETRIEVAL}, 5.0),
    ("mIoU/c", OUTPUT, math.nan),
    ("", {}, math.nan),  # of a process that does not evaluate
  ],
)
def test_best_score(name, output, score):
  config = default_config.get_config()
  config.checkpoint.best_score = name
  found = evaluator.best_score(config, output)
  assert found == pytest.approx(score, nan_ok=True)


class Writer:
  def __init__(self):
    self.written = {}

  def images(self, step, pictures):
    self.written |= {(step, name): p.shape for name, p in pictures.items()}


class Segmenter(segmenter.SSegSegmenter):
  """Says of each pixel that it is of the first class."""

  def __init__(self, *_):
    pass

  def set_weights(self, *_):
    pass


class Cats:
  class_names, has_background, split = ("cat",), False, None

  def __init__(self, name):
    self.name = name

  def __len__(self):
    return 1

  def __getitem__(self, index):
    raise NotImplementedError


@pytest.fixture
def scored(tmp_path, monkeypatch):
  """An evaluator that has just scored two benchmarks, and what it returned."""

  def evaluate_(segmenter, benchmark, *, observe, **_):
    sample = SimpleNamespace(
      image=np.zeros((8, 8, 3), np.uint8), labels=np.zeros((8, 8), np.int32)
    )
    observe(sample, sample.labels)
    return {"mIoU": 7.0}

  monkeypatch.setattr(evaluator, "SSegSegmenter", Segmenter)
  monkeypatch.setattr(evaluator.evaluation, "evaluate", evaluate_)
  benchmarks = [Cats("a"), Cats("b")]
  config = default_config.get_config()
  score = evaluator.Evaluator(config, benchmarks, epath.Path(tmp_path))
  writer, state = Writer(), train_step.TrainState(jnp.int32(3), {}, {}, None)
  result = score(state, 3, writer, 0)
  assert {n: r["mIoU"] for n, r in result["benchmarks"].items()} == {
    "a": 7.0,
    "b": 7.0,
  }
  assert not writer.written and not list(tmp_path.iterdir())
  return score, writer


def test_pictures_are_drawn_when_asked_for(scored, tmp_path):
  score, writer = scored
  score.draw()
  assert {name for _, name in writer.written} == {
    "predictions/a",
    "predictions/b",
  }
  assert [path.name for path in tmp_path.iterdir()] == ["predictions.png"]
  writer.written.clear()
  score.draw()
  assert not writer.written  # once


@pytest.mark.parametrize("failing", ["disk", "drawing"])
def test_a_failure_costs_the_picture_only(
  scored, tmp_path, monkeypatch, failing
):
  score, writer = scored
  if failing == "disk":
    if not pathlib.Path("/dev/full").exists():
      pytest.skip("needs Linux's /dev/full")
    (tmp_path / "predictions.png").symlink_to("/dev/full")
  else:
    monkeypatch.setattr(drawing, "grid", lambda *_, **__: 1 / 0)
  said = []
  monkeypatch.setattr(logging, "warning", lambda f, *a: said.append(f % a))
  score.draw()
  if failing == "disk":
    assert len(said) == 1 and "predictions.png: cannot be written" in said[0]
    assert len(writer.written) == 2
  else:
    assert len(said) == 2 and "ZeroDivisionError" in said[0]
