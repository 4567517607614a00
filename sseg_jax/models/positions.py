"""Resizing of a table of position embeddings, exactly as its authors do it.

Three rules are in use, all bicubic as in PyTorch's `interpolate` with
align_corners=False, and they differ by more than rounding:

- "dino": the scale factor (cells + 0.1) / grid, which PyTorch then uses in the
  sampling coordinates too (facebookresearch/dino, vision_transformer.py;
  DINOv2 without registers).
- "size": the scale factor is cells / grid (transformers).
- "antialias": the same scale factor, and a wider kernel if the table shrinks
  (DINOv2 with registers).
"""

import functools

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

RULES = ("dino", "size", "antialias")
# Sharpness of the cubic: PyTorch's own, and Pillow's, which PyTorch follows
# with antialias (aten/src/ATen/native/UpSample.h, UpSampleKernel.cpp).
_TORCH, _PILLOW = -0.75, -0.5


def resize_positions(
  table: Float[Array, "g g d"], size: tuple[int, int], rule: str
) -> Float[Array, "h w d"]:
  """Resizes a square table to `size`, by one of `RULES`; float32."""
  grid = table.shape[0]
  table = table.astype(jnp.float32)
  if size == (grid, grid):
    return table  # the original code with the rule "dino" tests for this too
  rows = resize_matrix(grid, size[0], rule)
  columns = resize_matrix(grid, size[1], rule)
  return jnp.einsum(
    "hg,gkd,wk->hwd", rows, table, columns, precision=lax.Precision.HIGHEST
  )


@functools.lru_cache(256)
def resize_matrix(
  size_in: int, size_out: int, rule: str
) -> Float[np.ndarray, "{size_out} {size_in}"]:
  """Returns the weights of each input for each output, along one side."""
  if rule not in RULES:
    raise ValueError(f"rule={rule!r}; use one of {RULES}")
  offset = 0.1 if rule == "dino" else 0.0
  scale = size_in / (size_out + offset)
  centers = (np.arange(size_out) + 0.5) * scale - 0.5
  if rule == "antialias":
    width = max(scale, 1.0)
    taps = np.arange(size_in)
    weights = _cubic((centers[:, None] - taps) / width, _PILLOW)
    weights /= weights.sum(1, keepdims=True)
    return weights.astype(np.float32)
  # Four inputs each; those outside the table take the value at its border.
  weights = np.zeros((size_out, size_in))
  first = np.floor(centers).astype(int) - 1
  for tap in range(4):
    place = first + tap
    np.add.at(
      weights,
      (np.arange(size_out), np.clip(place, 0, size_in - 1)),
      _cubic(centers - place, _TORCH),
    )
  return weights.astype(np.float32)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
  """Keys' cubic convolution kernel (1981)."""
  x = np.abs(x)
  near = ((a + 2) * x - (a + 3)) * x * x + 1
  far = a * (((x - 5) * x + 8) * x - 4)
  return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
