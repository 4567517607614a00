"""Counts the pixels of a benchmark from the winning class of each pixel.

All classes have the same methods; `evaluation.evaluate` chooses one.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sseg_jax.benchmarks.miou import Confusion, ThresholdConfusions, rounded
from sseg_jax.benchmarks.sample import Benchmark, Sample
from sseg_jax.inference import background

_EVEN = tuple(round(0.05 * i, 2) for i in range(1, 20))


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

  def arrays(self) -> dict[str, np.ndarray]:
    """Returns all that was counted, for `unfinished.Unfinished`."""
    return {"confusion": self._confusion.counts}

  def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
    """Goes on from what `arrays` returned; ValueError if it does not fit."""
    self._confusion.counts = _like(self._confusion.counts, arrays["confusion"])


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

  def arrays(self) -> dict[str, np.ndarray]:
    """As `Count.arrays`."""
    if self._sweep is None:
      return {}
    return {"thresholds": self._sweep.thresholds, "counts": self._sweep.counts}

  def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
    """As `Count.restore`."""
    thresholds = arrays["thresholds"].tolist()
    sweep = ThresholdConfusions(len(self.names) - 1, thresholds)
    sweep.counts = _like(sweep.counts, arrays["counts"])
    self._sweep = sweep

  def _counted(self) -> ThresholdConfusions:
    if self._sweep is None:
      raise ValueError("no picture was counted")
    return self._sweep


class CountLabels:
  """Counts the pixels of a benchmark from labels that are already decided.

  Attributes:
    names: of the labels, background included.
    thresholds: for each of which there are labels; () without thresholds.
  """

  def __init__(
    self,
    benchmark: Benchmark,
    threshold: float | None = None,
    thresholds: Sequence[float] | None = None,
  ):
    """Starts from zero.

    Args:
      benchmark: what is scored.
      threshold: of the reported scores; None if labels have no threshold.
      thresholds: others, for the curve; None takes 0.05, 0.1, … 0.95.
    """
    background_ = ("background",) if benchmark.has_background else ()
    self.names = (*background_, *benchmark.class_names)
    self._threshold = threshold
    self.thresholds: tuple[float, ...] = ()
    if threshold is not None:
      more = _EVEN if thresholds is None else thresholds
      self.thresholds = tuple(sorted({*more, threshold}))
    many = max(1, len(self.thresholds))
    self._confusions = [Confusion(len(self.names)) for _ in range(many)]
    self._chosen = self.thresholds.index(threshold) if self.thresholds else 0

  def add(
    self, samples: Sequence[Sample], labels: Int[np.ndarray, "t b h w"]
  ) -> Iterator[Int[np.ndarray, "h w"]]:
    """Counts samples of one size, and yields the reported labels of each."""
    for i, sample in enumerate(samples):
      for confusion, found in zip(self._confusions, labels, strict=True):
        confusion.add(sample.labels, found[i])
      yield labels[self._chosen][i]

  def confusion(self) -> Confusion:
    """As `Count.confusion`."""
    return self._confusions[self._chosen]

  def of_thresholds(self) -> dict[str, Any]:
    """As `CountWithBackground.of_thresholds`; {} without thresholds."""
    if not self.thresholds:
      return {}
    points = zip(self.thresholds, self._confusions, strict=True)
    return {
      "threshold": self._threshold,
      "curve": [
        {"threshold": t, "mIoU": rounded(confusion.mean_iou())}
        for t, confusion in points
      ],
    }

  def arrays(self) -> dict[str, np.ndarray]:
    """As `Count.arrays`."""
    return {"confusions": np.stack([c.counts for c in self._confusions])}

  def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
    """As `Count.restore`."""
    found = _like(self.arrays()["confusions"], arrays["confusions"])
    for confusion, counts in zip(self._confusions, found, strict=True):
      confusion.counts = counts


def _like(
  zeros: Int[np.ndarray, "..."], counts: np.ndarray
) -> Int[np.ndarray, "..."]:
  """Returns counts that can be added to; ValueError if of another shape."""
  if counts.shape != zeros.shape or counts.dtype != zeros.dtype:
    raise ValueError(f"{counts.dtype} {counts.shape} for {zeros.shape}")
  return counts.copy()
