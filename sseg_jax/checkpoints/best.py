"""The checkpoints with the best scores, kept beside the newest ones."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from absl import logging
from etils import epath

from sseg_jax import files

FILE = "best.json"


class Best:
  """Scores of steps, and an Orbax preservation policy for the best of them.

  DIRECTORY/best.json holds the scores of all rated steps. A score counts only
  while the checkpoint of its step exists: a run that starts again from an older
  checkpoint computes the later scores again.
  """

  def __init__(self, directory: epath.Path, keep: int):
    """Reads the scores of an earlier start; `keep` steps are preserved."""
    self._file = directory / FILE
    self._keep = keep
    self._scores = read(directory) if keep else {}

  def rate(self, step: int, score: float, existing: Iterable[int]) -> bool:
    """Takes the score of `step`; returns whether it is one of the best.

    NaN is not a score. Of equal scores the earliest is the best.
    """
    if not self._keep or math.isnan(score):
      return False
    self._scores[step] = score
    return step in self._best({*existing, step})

  def write(self) -> None:
    """Writes the scores; only one process may call it."""
    text = json.dumps({"scores": self._scores}, indent=1) + "\n"
    files.write_text(self._file, text)

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> list[bool]:
    """Returns for each checkpoint whether it is one of the best."""
    del context
    best = self._best({c.step for c in checkpoints})
    return [c.step in best for c in checkpoints]

  def _best(self, existing: Iterable[int]) -> list[int]:
    return ranked(self._scores, existing)[: self._keep]


def ranked(scores: dict[int, float], existing: Iterable[int]) -> list[int]:
  """Returns the existing steps that have a score, the best first."""
  return sorted(scores.keys() & {*existing}, key=lambda s: (-scores[s], s))


def read(directory: epath.Path) -> dict[int, float]:
  """Returns the score of each step; {} if there are no scores."""
  file = directory / FILE
  try:
    scores = json.loads(file.read_text())["scores"]
    return {int(step): float(score) for step, score in scores.items()}
  except FileNotFoundError:
    return {}
  except (ValueError, KeyError, TypeError, AttributeError):
    # An unreadable file is no error: the checkpoints do not depend on it.
    logging.warning("%s is not readable: no step counts as the best", file)
    return {}
