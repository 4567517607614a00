"""Which score of an evaluation decides what is best."""

import math

import pytest

from sseg_jax import default_config, evaluator

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
