"""Pictures of a benchmark with what a segmenter finds in them, in batches."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sseg_jax import prompts, synonyms
from sseg_jax.benchmarks.sample import Benchmark, Sample

if TYPE_CHECKING:
  from sseg_jax.inference.segmenter import Segmenter


def pictures(
  segmenter: "Segmenter",
  benchmark: Benchmark,
  indices: Sequence[int],
  templates: str | Sequence[str],
  batch_size: int,
  find: Callable | None = None,
) -> Iterator[tuple[Any, ...]]:
  """Yields some samples of one size, with the best score and class by pixel.

  Args:
    segmenter: see `segmenter.Segmenter`.
    benchmark: see `benchmarks`.
    indices: of the samples, in this order.
    templates: a key of `prompts.TEMPLATES` or templates.
    batch_size: how many samples come at once, at most.
    find: `find(samples, images, class_set)` returns other arrays instead, one
      row a sample.
  """
  from sseg_jax.inference.class_set import ClassSet
  from sseg_jax.inference.segmenter import winners

  if isinstance(templates, str):
    templates = prompts.templates(templates)
  class_set = ClassSet(
    benchmark.class_names,
    tuple(templates),
    synonyms.of_classes(synonyms_of(segmenter), benchmark.class_names),
  )
  for samples in _batches((benchmark[i] for i in indices), batch_size):
    images = np.stack([sample.image for sample in samples])
    found = (
      find(samples, images, class_set)
      if find
      else winners(segmenter, images, class_set)
    )
    yield samples, *found


def synonyms_of(segmenter: "Segmenter") -> str:
  """Returns the key of `synonyms.SYNONYMS` that a segmenter asks for."""
  return getattr(segmenter, "synonyms", "none")


def _batches(
  samples: Iterator[Sample], batch_size: int
) -> Iterator[list[Sample]]:
  """Yields successive samples of one size together."""
  for _, group in itertools.groupby(samples, lambda s: s.image.shape):
    while batch := list(itertools.islice(group, batch_size)):
      yield batch
