"""Scores a segmenter on a benchmark, and finds its background threshold.

On a first read, go straight to `evaluate`. It is called between the steps of a
training (`evaluator.py`), and by the command `sseg_jax.evaluate`
(`checkpoint_scores.py`).
"""

import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sseg_jax import prompts
from sseg_jax.benchmarks import scored
from sseg_jax.benchmarks.counts import (
  Count,
  CountLabels,
  CountWithBackground,
)
from sseg_jax.benchmarks.miou import ThresholdConfusions, rounded, speed
from sseg_jax.benchmarks.retrieval import ranks, retrieval
from sseg_jax.benchmarks.sample import spread
from sseg_jax.benchmarks.unfinished import Unfinished
from sseg_jax.inference import background, protocols

if TYPE_CHECKING:
  from sseg_jax.benchmarks import Benchmark, Sample
  from sseg_jax.inference.segmenter import Segmenter

__all__ = [
  "choose_threshold",
  "evaluate",
  "find_threshold",
  "guess_threshold",
  "ranks",
  "retrieval",
  "spread",
]


# --- Scores -------------------------------------------------------------------


def evaluate(
  segmenter: "Segmenter",
  benchmark: "Benchmark",
  *,
  threshold: float | None = None,
  thresholds: Sequence[float] | None = None,
  templates: str | Sequence[str] = "simple",
  max_images: int = 0,
  batch_size: int = 32,
  observe: Callable[["Sample", np.ndarray], None] | None = None,
  progress: Callable[[int, int], None] | None = None,
  unfinished: Unfinished | None = None,
) -> dict[str, Any]:
  """Scores a segmenter on a benchmark, for all thresholds at once.

  Args:
    segmenter: anything with `scores`; see `segmenter.Segmenter`.
    benchmark: see `benchmarks`.
    threshold: background threshold of the reported scores, for instance from
      `find_threshold`; None finds one without labels (`guess_threshold`). It
      is not used if the benchmark has no background.
    thresholds: other thresholds, for the curve; None takes those that follow
      from the scores of the first pictures.
    templates: a key of `prompts.TEMPLATES` or templates.
    max_images: how many pictures are scored, spread evenly over the benchmark;
      0 for all.
    batch_size: how many pictures of one size are scored at once, at most.
    observe: gets each sample with its predicted labels.
    progress: gets the number of finished pictures and of all.
    unfinished: what an earlier call has counted; keeps the counts meanwhile.

  Returns:
    A dictionary that JSON can hold: `benchmark protocol mIoU per_class
    pixel_accuracy images seconds images_per_second templates synonyms
    threshold`. `protocol` is a name of `inference.protocols`. Scores are in
    0..100; `per_class` is in label order, with None for classes that never
    occur. If the benchmark has background, there is also `curve`, a list of
    thresholds with their mIoU. The curve is of the pictures that are scored, so
    no threshold may be chosen on it.
  """
  if isinstance(templates, str):
    templates = prompts.templates(templates)
  indices = spread(len(benchmark), max_images)
  bound = threshold
  find, own = _labels_of(segmenter, benchmark, threshold, thresholds)
  if own is None and benchmark.has_background and bound is None:
    bound = guess_threshold(
      segmenter, benchmark, templates=templates, batch_size=batch_size
    ).value
  count: Any = own or (
    CountWithBackground(benchmark, float(bound or 0), thresholds)
    if benchmark.has_background
    else Count(benchmark)
  )
  kept = unfinished or Unfinished()
  kept.add("counts", count)
  start = time.perf_counter() - kept.seconds
  for samples, *found in scored.pictures(
    segmenter, benchmark, indices[kept.done :], templates, batch_size, find
  ):
    for sample, predicted in zip(
      samples, count.add(samples, *found), strict=True
    ):
      if observe:
        observe(sample, predicted)
    kept.counted(samples, time.perf_counter() - start)
    if progress:
      progress(kept.done, len(indices))
  kept.write()
  return {
    "benchmark": benchmark.name,
    "protocol": _protocol(segmenter),
    **count.confusion().summary(count.names),
    **speed(len(indices), kept.seconds or 1e-9),
    "templates": list(templates),
    "synonyms": scored.synonyms_of(segmenter),
    "threshold": None,
    **count.of_thresholds(),
  }


def _labels_of(
  segmenter: Any,
  benchmark: "Benchmark",
  threshold: float | None,
  thresholds: Sequence[float] | None,
) -> tuple[Callable | None, CountLabels | None]:
  """Returns how a segmenter decides labels itself, and what counts them.

  (None, None) for a segmenter that gives scores, as most do.
  """
  if hasattr(segmenter, "labels_of"):  # labels made elsewhere
    return (
      lambda samples, _, __: (segmenter.labels_of(samples, benchmark)[None],),
      CountLabels(benchmark),
    )
  rule = getattr(getattr(segmenter, "protocol", None), "rule", "picture")
  if not benchmark.has_background or rule == "picture":
    return None, None
  if threshold is None:
    raise ValueError(f"{benchmark.name}: the rule {rule} needs a threshold")
  count = CountLabels(benchmark, threshold, thresholds)

  def find(samples, images, class_set):
    return (segmenter.labels_many(images, class_set, count.thresholds),)

  return find, count


def _protocol(segmenter: "Segmenter") -> str:
  return getattr(getattr(segmenter, "protocol", None), "name", protocols.OWN)


# --- The threshold of the background ------------------------------------------


def find_threshold(
  segmenter: "Segmenter",
  benchmark: "Benchmark",
  training: "Benchmark | None" = None,
  *,
  fixed: float | None = None,
  metadata: Mapping[str, Any] = types.MappingProxyType({}),
  templates: str | Sequence[str] = "simple",
  max_images: int = 100,
  observe: Callable[["Sample"], None] | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> tuple[background.Threshold, dict[str, Any] | None]:
  """Finds the background threshold of a benchmark.

  It takes the first of these that exists: `fixed`; the threshold that is stored
  for this benchmark; one chosen on the training split; the stored default; one
  found from scores without labels.

  Args:
    segmenter: as for `evaluate`.
    benchmark: the benchmark that will be scored.
    training: the training split of the same benchmark, which shares no picture
      with it; None if there is none.
    fixed: a number that a person gave.
    metadata: of the checkpoint; see `background.stored`.
    templates: a key of `prompts.TEMPLATES` or templates.
    max_images: how many pictures are looked at, at most.
    observe: gets each sample that the threshold is chosen on.
    progress: as for `evaluate`, while a threshold is chosen.

  Returns:
    The threshold, and what `choose_threshold` returns if it was chosen here.
  """
  if fixed is not None:
    background.check_flag(fixed)
    return background.Threshold(float(fixed), "given"), None
  known = background.stored(
    metadata,
    benchmark.name,
    len(benchmark.class_names),
    getattr(segmenter, "combiner", ""),
  )
  own = known and benchmark.name in metadata["thresholds"]
  if known and (own or training is None):
    return known, None
  how: dict[str, Any] = {"templates": templates, "max_images": max_images}
  if training is not None:
    chosen = choose_threshold(
      segmenter, training, observe=observe, progress=progress, **how
    )
    source = f"chosen on {chosen['images']} pictures of {training.split}"
    return background.Threshold(chosen["threshold"], source), chosen
  return guess_threshold(segmenter, benchmark, **how), None


def choose_threshold(
  segmenter: "Segmenter",
  benchmark: "Benchmark",
  *,
  templates: str | Sequence[str] = "simple",
  max_images: int = 100,
  batch_size: int = 32,
  observe: Callable[["Sample"], None] | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
  """Chooses a background threshold by the labels of a training split.

  Args:
    segmenter: as for `evaluate`.
    benchmark: has background; its pictures may not be scored afterwards.
    templates: a key of `prompts.TEMPLATES` or templates.
    max_images: as for `evaluate`.
    batch_size: as for `evaluate`.
    observe: gets each sample.
    progress: gets the number of finished pictures and of all.

  Returns:
    `threshold`, the one with the highest mIoU; that `mIoU`; the number of
    `images`; and for comparison `without_labels`: threshold and mIoU of
    `guess_threshold`.
  """
  indices = spread(len(benchmark), max_images)
  rows, done = [], 0
  for samples, bests, indexes in scored.pictures(
    segmenter, benchmark, indices, templates, batch_size
  ):
    for sample, best, index in zip(samples, bests, indexes, strict=True):
      # Small types, because all pictures are kept until the grid is known.
      labels = sample.labels.astype(np.int16)
      rows.append((labels, best.astype(np.float32), index.astype(np.int16)))
      if observe:
        observe(sample)
    done += len(samples)
    if progress:
      progress(done, len(indices))
  scores = [best for _, best, _ in rows]
  guessed = _guess(segmenter, benchmark, scores).value
  sweep = ThresholdConfusions(
    len(benchmark.class_names), (*background.grid(scores), guessed)
  )
  for labels, best, index in rows:
    sweep.add(labels, best, index)
  threshold, miou = background.choose(sweep.curve())
  return {
    "threshold": threshold,
    "mIoU": rounded(miou),
    "images": len(indices),
    "without_labels": {
      "threshold": guessed,
      "mIoU": rounded(sweep.at(guessed).mean_iou()),
    },
  }


def guess_threshold(
  segmenter: "Segmenter",
  benchmark: "Benchmark",
  *,
  templates: str | Sequence[str] = "simple",
  max_images: int = 100,
  batch_size: int = 32,
) -> background.Threshold:
  """Finds a threshold from scores alone (`background.without_labels`).

  It reads no label, so the benchmark may be the one that is scored.
  """
  indices = spread(len(benchmark), max_images)
  scores = [
    best
    for _, bests, _ in scored.pictures(
      segmenter, benchmark, indices, templates, batch_size
    )
    for best in bests
  ]
  return _guess(segmenter, benchmark, scores)


def _guess(
  segmenter: "Segmenter", benchmark: "Benchmark", scores: Sequence[np.ndarray]
) -> background.Threshold:
  combiner = getattr(segmenter, "combiner", "")
  return background.without_labels(scores, len(benchmark.class_names), combiner)
