"""Confusion counts and the scores drawn from them.

As mmsegmentation accumulates (core/evaluation/metrics.py): ignored pixels are
dropped, counts are summed over all images, then divided once.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from sseg_jax.images.reader import check_labels, ignored_label
from sseg_jax.inference.background import effective_threshold


class Confusion:
  """Counts of (label, prediction) pairs over any number of images.

  `counts[i, j]` are pixels of label i predicted as j. Predictions that are no
  class go to the last column: they miss their label but join no class, as in
  mmsegmentation, whose histograms leave them out.
  """

  def __init__(self, classes: int):
    """Starts from zero; `classes` includes the background if there is one."""
    self.counts = np.zeros((classes, classes + 1), np.int64)

  def add(
    self, labels: Int[np.ndarray, "h w"], predictions: Int[np.ndarray, "h w"]
  ) -> None:
    """Counts one image; labels of `images.reader.ignored_label` are dropped.

    InputError for any other label that is no class: it has no row.
    """
    c = len(self.counts)
    kept = _labelled(labels, c)
    labels, predictions = labels[kept], predictions[kept]
    inside = (predictions >= 0) & (predictions < c)
    pairs = labels.astype(np.int64) * (c + 1) + np.where(inside, predictions, c)
    self.counts += np.bincount(pairs, minlength=c * (c + 1)).reshape(c, c + 1)

  def iou(self) -> Float[np.ndarray, "c"]:
    """Intersection over union of each class; NaN where it never occurs."""
    hits = np.diagonal(self.counts)
    union = self.counts.sum(1) + self.counts[:, :-1].sum(0) - hits
    with np.errstate(invalid="ignore"):
      return hits / union

  def mean_iou(self) -> float:
    """Mean over the classes that occur as label or prediction, in 0..100."""
    return mean_iou(self.iou())

  def pixel_accuracy(self) -> float:
    """Share of labelled pixels that are right, in 0..100."""
    total = self.counts.sum()
    return 100 * float(np.trace(self.counts) / total) if total else float("nan")

  def summary(self, names: Sequence[str]) -> dict[str, Any]:
    """Returns `mIoU per_class pixel_accuracy`, as JSON can hold them.

    Values are in 0..100 with two decimals; None stands for NaN.

    Args:
      names: of the classes in label order, background included.
    """
    return {
      "mIoU": rounded(self.mean_iou()),
      "per_class": {
        name: rounded(100 * float(iou))
        for name, iou in zip(names, self.iou(), strict=True)
      },
      "pixel_accuracy": rounded(self.pixel_accuracy()),
    }


def rounded(value: float) -> float | None:
  """Returns a score with two decimals; None for NaN, which JSON has not."""
  return round(value, 2) if math.isfinite(value) else None


def speed(images: int, seconds: float) -> dict[str, Any]:
  """Returns `images seconds images_per_second` of a result."""
  return {
    "images": images,
    "seconds": round(seconds, 3),
    "images_per_second": round(images / seconds, 3),
  }


def _labelled(
  labels: Int[np.ndarray, "h w"], count: int
) -> Bool[np.ndarray, "h w"]:
  """Which pixels count; InputError for labels that are not 0..count-1."""
  check_labels(labels, count - 1, "labels of a benchmark")
  return labels != ignored_label(count)


def mean_iou(iou: Float[np.ndarray, "c"]) -> float:
  """Mean in 0..100 over classes that are not NaN; NaN if all are."""
  return (
    100 * float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")
  )


class ThresholdConfusions:
  """Confusions under the background rule for many thresholds, in one pass.

  A pixel has its class up to the first threshold it fails, then it is
  background: so a histogram over (label, class, thresholds passed) holds all.

  Attributes:
    thresholds: ascending, each once.
    counts: that histogram, int64 [label, class, thresholds passed].
  """

  def __init__(self, classes: int, thresholds: Sequence[float]):
    """Starts from zero; `classes` is without background."""
    self.thresholds = np.unique(np.asarray(thresholds, np.float64))
    t = len(self.thresholds)
    # As in `Confusion`, the last column is for what is no class.
    self.counts = np.zeros((classes + 1, classes + 1, t + 1), np.int64)

  def add(
    self,
    labels: Int[np.ndarray, "h w"],
    best: Float[np.ndarray, "h w"],
    index: Int[np.ndarray, "h w"],
  ) -> None:
    """Counts one image from the winning score and class of each pixel.

    Labels and classes out of range are treated as `Confusion.add` does.
    """
    bounds = effective_threshold(best, self.thresholds)
    rows, columns, t = self.counts.shape
    kept = _labelled(labels, rows)
    passed = np.searchsorted(bounds, best[kept], side="right")
    index = index[kept]
    none = columns - 1
    index = np.where((index >= 0) & (index < none), index, none)
    pairs = (labels[kept].astype(np.int64) * columns + index) * t + passed
    self.counts += np.bincount(pairs, minlength=self.counts.size).reshape(
      self.counts.shape
    )

  def curve(self) -> list[tuple[float, float]]:
    """Returns (threshold, mIoU in 0..100 or NaN), ascending by threshold."""
    return [(float(t), self.at(t).mean_iou()) for t in self.thresholds]

  def at(self, threshold: float) -> Confusion:
    """Returns the confusion at one of the thresholds, background being 0."""
    found = np.flatnonzero(self.thresholds == threshold)
    if not len(found):
      raise ValueError(f"threshold {threshold} is not in the grid")
    j = int(found[0])
    confusion = Confusion(len(self.counts))
    # Pixels that passed more than j thresholds passed the j-th.
    confusion.counts[:, 1:] = self.counts[:, :, j + 1 :].sum(-1)
    confusion.counts[:, 0] = self.counts[:, :, : j + 1].sum((1, 2))
    return confusion
