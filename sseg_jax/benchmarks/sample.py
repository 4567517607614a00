"""The types that every benchmark returns."""

import dataclasses
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
