"""Scores of class-agnostic segments whose labels an oracle gives (Table 1).

This measures how good a generator's pseudo-masks are, without any words: the
mIoU if every segment had its best class. The paper does not define its
protocol; here each segment takes its majority class.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from sseg_jax.benchmarks.miou import Confusion, rounded, speed
from sseg_jax.benchmarks.sample import Benchmark, Sample, spread
from sseg_jax.errors import InputError
from sseg_jax.images import reader
from sseg_jax.inference.padding import pad_rows
from sseg_jax.pseudo_masks.generator import PseudoMasks
from sseg_jax.pseudo_masks.sizes import resized, segment_size

__all__ = ["oracle_labels", "score", "segment_size"]

# Place in the benchmark, resized image, sample.
_Batch = list[tuple[int, np.ndarray, Sample]]


def oracle_labels(
  segments: Int[np.ndarray, "sh sw"],
  labels: Int[np.ndarray, "h w"],
  ignored: int = reader.IGNORED,
) -> Int[np.ndarray, "h w"]:
  """Gives each segment the class that most of its labelled pixels have.

  Args:
    segments: which segment each cell belongs to, any numbers; resized to the
      truth's size by torch's "nearest" (source index floor(target * in / out)).
    labels: the truth.
    ignored: label of pixels that do not count.

  Returns:
    int32 predictions at the truth's size. Of equally frequent classes the lower
    number wins. A segment without a labelled pixel gets 0, which no score sees.
  """
  h, w = labels.shape
  rows = np.arange(h) * segments.shape[0] // h
  columns = np.arange(w) * segments.shape[1] // w
  numbers, flat = np.unique(segments, return_inverse=True)
  index = flat.reshape(segments.shape)[rows[:, None], columns]  # [h, w]
  seen = labels != ignored
  classes = int(labels[seen].max(initial=0)) + 1
  pairs = index[seen] * classes + labels[seen]
  counts = np.bincount(pairs, minlength=len(numbers) * classes)
  best = counts.reshape(len(numbers), classes).argmax(1)
  return best[index].astype(np.int32)


def score(
  pseudo_masks: PseudoMasks,
  benchmark: Benchmark,
  *,
  image_size: int,
  seed: int = 0,
  seeds: int = 1,
  square: bool = False,
  max_images: int = 0,
  batch_size: int = 32,
  observe: Callable[[Sample, np.ndarray], None] | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
  """Scores a generator on a benchmark, with oracle labels.

  Args:
    pseudo_masks: see `pseudo_masks.generator.build`.
    benchmark: see `benchmarks`; its background counts as a class.
    image_size: short side at which pictures are segmented. Sides keep their
      ratio but for the rounding to multiples of the generator's stride.
    seed: of the generator's keys. A picture's key is folded from its place in
      the benchmark, so the result does not depend on `batch_size`.
    seeds: number of seeds to score, starting from `seed`. The generator's
      network runs only once for all.
    square: make both sides `image_size` instead.
    max_images: 0 for all; else that many, spread evenly over the benchmark.
    batch_size: pictures of one size segmented at once, at most.
    observe: gets each sample with its segments by the first seed.
    progress: gets the number of finished pictures and of all.

  Returns:
    The dictionary of `evaluation.evaluate`, with no templates and no threshold,
    `masks_per_image`: the mean number of segments, and `mIoU_seeds`: that of
    each seed. `mIoU` is the mean over seeds; other values are those of the
    first seed.

  Raises:
    InputError: if `image_size` is below the generator's stride.
  """
  if image_size < pseudo_masks.stride:
    raise InputError(
      f"image_size={image_size} is below the stride of the pseudo-masks,"
      f" {pseudo_masks.stride}; choose a larger one"
    )
  names = benchmark.class_names
  if benchmark.has_background:
    names = ("background", *names)
  confusions = [Confusion(len(names)) for _ in range(seeds)]
  ignored = reader.ignored_label(len(names))
  indices = spread(len(benchmark), max_images)
  segment = _segmented(pseudo_masks, range(seed, seed + seeds))
  start, done, masks = time.perf_counter(), 0, 0
  for batch in _batches(
    benchmark, indices, image_size, pseudo_masks.stride, batch_size, square
  ):
    segments, valid = segment(batch)
    masks += int(valid[0].sum())
    for i, (_, _, sample) in enumerate(batch):
      for confusion, found in zip(confusions, segments[:, i], strict=True):
        predicted = oracle_labels(found, sample.labels, ignored)
        confusion.add(sample.labels, predicted)
      if observe:
        observe(sample, segments[0, i])
    done += len(batch)
    if progress:
      progress(done, len(indices))
  seconds = time.perf_counter() - start
  scores = [c.mean_iou() for c in confusions]
  return {
    "benchmark": benchmark.name,
    **confusions[0].summary(names),
    "mIoU": rounded(float(np.mean(scores))),
    "mIoU_seeds": [rounded(score) for score in scores],
    **speed(len(indices), seconds),
    "templates": [],
    "synonyms": "none",
    "threshold": None,
    "masks_per_image": round(masks / len(indices), 2),
  }


def _segmented(
  pseudo_masks: PseudoMasks, seeds: Sequence[int]
) -> Callable[[_Batch], tuple[np.ndarray, np.ndarray]]:
  """Returns a function from a batch to its segments and which of them exist.

  Of shapes [seeds, b, sh, sw] and [seeds, b, k].
  """
  # Only clustering depends on the key; all seeds share the work before it.
  generate = jax.jit(jax.vmap(pseudo_masks.generate, (None, None, 0)))
  roots = jnp.stack([jax.random.key(seed) for seed in seeds])
  fold = jax.vmap(jax.random.fold_in, (None, 0))
  fold = jax.jit(jax.vmap(fold, (0, None)))
  frozen = jax.device_put(pseudo_masks.frozen)

  def segment(batch: _Batch) -> tuple[np.ndarray, np.ndarray]:
    images = pad_rows(np.stack([image for _, image, _ in batch]))
    places = pad_rows(np.array([place for place, _, _ in batch], np.uint32))
    found = jax.device_get(generate(frozen, images, fold(roots, places)))
    segments, valid = found
    return segments[:, : len(batch)], valid[:, : len(batch)]

  return segment


def _batches(
  benchmark: Benchmark,
  indices: list[int],
  image_size: int,
  stride: int,
  batch_size: int,
  square: bool,
) -> Iterator[_Batch]:
  """Yields (place, resized image, sample), grouped by size.

  A batch may join pictures that are not neighbours, because portrait and
  landscape photographs alternate.
  """
  waiting: dict[tuple[int, int], list] = {}
  for i in indices:
    sample = benchmark[i]
    shape = (1, 1) if square else sample.labels.shape
    size = segment_size(*shape, image_size=image_size, stride=stride)
    group = waiting.setdefault(size, [])
    group.append((i, resized(sample.image, *size), sample))
    if len(group) == batch_size:
      yield waiting.pop(size)
  yield from waiting.values()
