"""Bilinear resizing, the same on every machine."""

import numpy as np
from jaxtyping import Float, Int, Num


def interpolation_table(
  source: int, target: int
) -> tuple[Int[np.ndarray, "t"], Int[np.ndarray, "t"], Float[np.ndarray, "t"]]:
  """Bilinear interpolation along one side, half-pixel centres, no antialias.

  Returns:
    For each target pixel the lower and the upper source pixel and the upper
    one's weight (OpenCV's INTER_LINEAR, torch's align_corners=False).
  """
  at = (np.arange(target) + 0.5) * (source / target) - 0.5
  at = np.clip(at, 0, source - 1)
  low = np.floor(at).astype(np.int32)
  high = np.minimum(low + 1, source - 1)
  return low, high, (at - low).astype(np.float32)


def resize(
  image: Num[np.ndarray, "h w d"], h: int, w: int
) -> Float[np.ndarray, "{h} {w} d"]:
  """Bilinear resize without antialias, values kept in 0..255 as float32."""
  out = np.asarray(image, np.float32)
  if out.shape[0] != h:
    low, high, weight = interpolation_table(out.shape[0], h)
    out = out[low] + (out[high] - out[low]) * weight[:, None, None]
  if out.shape[1] != w:
    low, high, weight = interpolation_table(out.shape[1], w)
    out = out[:, low] + (out[:, high] - out[:, low]) * weight[:, None]
  return out
