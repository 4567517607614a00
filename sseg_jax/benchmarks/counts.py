"""Counts the pixels of a benchmark from the winning class of each pixel.

The two classes have the same methods; `evaluation.evaluate` chooses one.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sseg_jax.benchmarks.miou import Confusion, ThresholdConfusions, rounded
from sseg_jax.benchmarks.sample import Benchmark, Sample
from sseg_jax.inference import background


class Count:
  """Counts the pixels of a benchmark without background.

  Attributes:
    names: of the classes in label order.
  """

  def __init__(self, benchmark: Benchmark):
    """Starts from zero."""
    self.names = benchmark.class_names
    self._confusion = Confusion(len(self.names))

  def add(
    self,
    samples: Sequence[Sample],
    bests: Float[np.ndarray, "b h w"],
    indexes: Int[np.ndarray, "b h w"],
  ) -> Iterator[Int[np.ndarray, "h w"]]:
    """Counts samples of one size, and yields the predicted labels of each."""
    for sample, index in zip(samples, indexes, strict=True):
      self._confusion.add(sample.labels, index)
      yield index

  def confusion(self) -> Confusion:
    """Returns what the reported scores are of."""
    return self._confusion

  def of_thresholds(self) -> dict[str, Any]:
    """Returns the part of the result that is about thresholds."""
    return {}


class CountWithBackground:
  """Counts the pixels of a benchmark with background, for many thresholds.

  Attributes:
    names: "background", then the classes in label order.
  """

  def __init__(
    self,
    benchmark: Benchmark,
    threshold: float,
    thresholds: Sequence[float] | None,
  ):
    """Starts from zero.

    Args:
      benchmark: what is scored.
      threshold: of the reported scores.
      thresholds: others, for the curve; None takes those that follow from the
        scores of the first pictures.
    """
    self.names = ("background", *benchmark.class_names)
    self._threshold = threshold
    self._more = thresholds
    self._sweep: ThresholdConfusions | None = None

  def add(
    self,
    samples: Sequence[Sample],
    bests: Float[np.ndarray, "b h w"],
    indexes: Int[np.ndarray, "b h w"],
  ) -> Iterator[Int[np.ndarray, "h w"]]:
    """As `Count.add`."""
    if self._sweep is None:
      more = background.grid(bests) if self._more is None else self._more
      self._sweep = ThresholdConfusions(
        len(self.names) - 1, (*more, self._threshold)
      )
    for sample, best, index in zip(samples, bests, indexes, strict=True):
      self._sweep.add(sample.labels, best, index)
      yield background.apply_threshold(best, index, self._threshold)

  def confusion(self) -> Confusion:
    """As `Count.confusion`: that of the threshold of the reported scores."""
    return self._counted().at(self._threshold)

  def of_thresholds(self) -> dict[str, Any]:
    """Returns the threshold, and the mIoU of all thresholds."""
    return {
      "threshold": self._threshold,
      "curve": [
        {"threshold": t, "mIoU": rounded(miou)}
        for t, miou in self._counted().curve()
      ],
    }

  def _counted(self) -> ThresholdConfusions:
    if self._sweep is None:
      raise ValueError("no picture was counted")
    return self._sweep
