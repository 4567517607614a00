"""Colours for labels."""

import functools

import numpy as np
from jaxtyping import UInt8


@functools.cache
def _palette() -> UInt8[np.ndarray, "256 3"]:
  """Returns 256 colours, each as far as possible from those before it.

  Index 0 is black, for background. The rest is chosen greedily among saturated
  RGB values by distance in CIELAB, so the first few are easy to tell apart.
  """
  levels = np.linspace(0, 1, 14)
  rgb = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1)
  rgb = rgb.reshape(-1, 3)
  lab = _lab(rgb)
  chroma = np.hypot(lab[:, 1], lab[:, 2])
  kept = (lab[:, 0] > 38) & (lab[:, 0] < 90) & (chroma > 28)
  rgb, lab = rgb[kept], lab[kept]
  # Lightness weighs less: hue is what a reader matches with the legend.
  lab = lab * (0.7, 1, 1)
  first = int(np.argmin(np.abs(rgb - (0.9, 0.1, 0.15)).sum(1)))
  chosen = [first]
  distance = np.linalg.norm(lab - lab[first], axis=1)
  for _ in range(254):
    chosen.append(int(distance.argmax()))
    distance = np.minimum(
      distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1)
    )
  colours = np.concatenate([np.zeros((1, 3)), rgb[chosen]])
  return np.round(colours * 255).astype(np.uint8)


def _lab(rgb: np.ndarray) -> np.ndarray:
  linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
  xyz = linear @ np.array(
    [
      [0.4124, 0.2126, 0.0193],
      [0.3576, 0.7152, 0.1192],
      [0.1805, 0.0722, 0.9505],
    ]
  )
  xyz = xyz / (0.9505, 1.0, 1.089)
  f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
  x, y, z = f.T
  return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def palette(
  classes: int, *, has_background: bool
) -> UInt8[np.ndarray, "classes 3"]:
  """Colours of labels 0..classes-1; black for label 0 if it is background.

  Of more than 255 classes (with background, 256) some share their colours.
  """
  table = _palette()
  labels = np.arange(classes) + (not has_background)
  labels[labels > 255] = (labels[labels > 255] - 1) % 255 + 1
  return table[labels]
