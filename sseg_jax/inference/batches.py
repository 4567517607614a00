"""Batches of pictures, which have one size each."""

from collections.abc import Sequence

import numpy as np

from sseg_jax.errors import InputError


def check(size: int) -> None:
  """Raises InputError for a batch of less than one picture."""
  if size < 1:
    raise InputError(f"batch_size={size} must be at least 1")


def of_one_shape(images: Sequence[np.ndarray], size: int) -> list[list[int]]:
  """Returns the indices of batches of images of one shape.

  Args:
    images: of any shapes, in any order.
    size: most images in a batch.
  """
  shapes: dict[tuple[int, ...], list[int]] = {}
  for index, image in enumerate(images):
    shapes.setdefault(image.shape, []).append(index)
  return [
    indices[first : first + size]
    for indices in shapes.values()
    for first in range(0, len(indices), size)
  ]
