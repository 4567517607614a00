"""The types that every benchmark returns."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, UInt8


@dataclasses.dataclass(frozen=True)
class Sample:
  """One picture with its truth."""

  id: str
  image: UInt8[np.ndarray, "h w 3"]
  labels: Int[np.ndarray, "h w"]  # `images.reader.ignored_label` is ignored


@runtime_checkable
class Benchmark(Protocol):
  """A sequence of samples with the names of their classes."""

  name: str
  class_names: tuple[str, ...]  # without background
  has_background: bool  # labels 0 background and 1..c, else 0..c-1
  split: str | None  # as asked for; None if the data set has no splits

  def __len__(self) -> int:
    """Number of samples."""
    ...

  def __getitem__(self, index: int) -> Sample:
    """Reads one sample; InputError names the file that is wrong."""
    ...


def without_background(
  labels: Int[np.ndarray, "h w"],
) -> Int[np.ndarray, "h w"]:
  """Moves 1..c to 0..c-1 and ignores the background.

  mmsegmentation's `reduce_zero_label`: 0 becomes 255, 255 stays.
  """
  return np.where((labels == 0) | (labels == 255), 255, labels - 1)


def spread(size: int, wanted: int) -> list[int]:
  """Returns `wanted` of 0 … size-1, evenly spread; all for 0 or too many."""
  if not 0 < wanted < size:
    return list(range(size))
  return [i * size // wanted for i in range(wanted)]


class Keeper:
  """Keeps a few samples of a benchmark with what was found in them.

  It is an `observe` of `evaluation.evaluate` and of `oracle.score`.

  Attributes:
    kept: (sample, what was found), in the order of the calls.
  """

  def __init__(self, benchmark: Benchmark, max_images: int, wanted: int):
    """Chooses the samples; reads those chosen, for their ids.

    Args:
      benchmark: what is scored.
      max_images: number of pictures that are scored, spread over the benchmark;
        0 for all.
      wanted: how many of these are kept, spread evenly; 0 keeps none.
    """
    scored = spread(len(benchmark), max_images)
    places = spread(len(scored), wanted) if wanted else []
    self._benchmark = benchmark
    self._wanted = {benchmark[scored[i]].id: scored[i] for i in places}
    self.kept: list[tuple[Sample, np.ndarray]] = []

  def __call__(self, sample: Sample, found: np.ndarray) -> None:
    """Takes a sample, and labels or segments of its pixels."""
    if sample.id in self._wanted:
      self.kept.append((sample, found))

  def arrays(self) -> dict[str, np.ndarray]:
    """Returns what was found so far, for `unfinished.Unfinished`."""
    return {str(self._wanted[s.id]): found for s, found in self.kept}

  def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
    """Goes on from what `arrays` returned, and reads the samples again."""
    places = set(self._wanted.values())
    if not places >= {int(place) for place in arrays}:
      raise ValueError("other pictures")
    self.kept = [
      (self._benchmark[int(place)], found) for place, found in arrays.items()
    ]
