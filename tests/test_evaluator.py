"""Which score of an evaluation decides what is best."""

import math
import pathlib

import numpy as np
import pytest
from absl import logging
from etils import epath

from sseg_jax import default_config, errors, evaluator, visualize

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


@pytest.mark.skipif(
  not pathlib.Path("/dev/full").exists(), reason="needs Linux's /dev/full"
)
def test_a_full_disk_costs_the_picture_only(tmp_path, monkeypatch):
  (tmp_path / "predictions.png").symlink_to("/dev/full")
  picture = np.zeros((8, 8, 3), np.uint8)
  with pytest.raises(errors.InputError, match="No space.*; make room there"):
    visualize.save(tmp_path / "predictions.png", picture)
  said = []
  monkeypatch.setattr(logging, "warning", lambda f, *a: said.append(f % a))
  score = evaluator.Evaluator(
    default_config.get_config(), [], epath.Path(tmp_path)
  )
  score._draw(picture)
  assert len(said) == 1 and "predictions.png: cannot be written" in said[0]
