"""Geometry of Swin's shifted windows: cutting, joining, and their regions."""

import functools
from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Shaped

AnyArray = TypeVar("AnyArray", Array, np.ndarray)


def partition(
  x: Shaped[AnyArray, "b h w d"], window: int
) -> Shaped[AnyArray, "m t d"]:
  """Cuts each map into its windows, row by row; t = window²."""
  b, h, w, d = x.shape
  x = x.reshape(b, h // window, window, w // window, window, d)
  return x.swapaxes(2, 3).reshape(-1, window**2, d)


def join(
  x: Shaped[AnyArray, "m t d"], window: int, height: int, width: int
) -> Shaped[AnyArray, "b {height} {width} d"]:
  """Puts windows back together: the inverse of `partition`."""
  d = x.shape[-1]
  x = x.reshape(-1, height // window, width // window, window, window, d)
  return x.swapaxes(2, 3).reshape(-1, height, width, d)


def pad_to_multiple(
  x: Shaped[Array, "b h w d"], multiple: int
) -> Shaped[Array, "b _ _ d"]:
  """Appends zeros below and to the right up to multiples of `multiple`."""
  _, h, w, _ = x.shape
  if h % multiple == 0 and w % multiple == 0:
    return x
  return jnp.pad(x, ((0, 0), (0, -h % multiple), (0, -w % multiple), (0, 0)))


@functools.cache
def relative_position_index(window: int) -> Int[np.ndarray, "t t"]:
  """Returns the row of the bias table for each (query, key) pair of a window.

  Tokens count row by row; the row is `(dy + window - 1) * (2 window - 1) + dx +
  window - 1`, with d the query's coordinate minus the key's.
  """
  y, x = np.divmod(np.arange(window**2), window)
  dy = y[:, None] - y[None, :] + window - 1
  dx = x[:, None] - x[None, :] + window - 1
  return dy * (2 * window - 1) + dx


@functools.cache
def shift_regions(
  height: int, width: int, window: int, shift: int
) -> Int[np.ndarray, "n t"]:
  """Returns the region of each token, for n windows of a shifted map.

  After a cyclic shift the last windows of each axis hold both ends of the map.
  Tokens of such a window attend to each other only within a region.
  """

  def axis_regions(size):
    at = np.arange(size)
    return (at >= size - window).astype(int) + (at >= size - shift)

  regions = 3 * axis_regions(height)[:, None] + axis_regions(width)
  return partition(regions[None, ..., None], window)[..., 0]
