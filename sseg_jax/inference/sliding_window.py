"""Geometry of test images: size, sliding window, and the way back.

As GroupViT, TCL and OVSegmentor test: keep-ratio resize, windows over the long
side, scores averaged over visits and resized to the picture.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from sseg_jax.images import reader
from sseg_jax.inference.scoring import combine

LONG_SIDE_CAP = 2048  # GroupViT's img_scale=(2048, 448)
# The network's largest stride. A picture smaller than the window is padded to a
# multiple of it.
PAD = 32


def evaluation_size(h: int, w: int, short_side: int) -> tuple[int, int]:
  """Keep-ratio size of a picture at test.

  The short side becomes `short_side` unless the long side would pass 2048.
  Sides are rounded half up (mmcv's `rescale_size`, img_scale=(2048, 448)).
  """
  factor = min(
    max(LONG_SIDE_CAP, short_side) / max(h, w), short_side / min(h, w)
  )
  return max(1, int(h * factor + 0.5)), max(1, int(w * factor + 0.5))


def window_starts(side: int, crop: int, stride: int) -> list[int]:
  """First pixels of the windows along one side; the last is shifted inside.

  mmsegmentation, models/segmentors/encoder_decoder.py.
  """
  count = max(side - crop + stride - 1, 0) // stride + 1
  return [max(min(i * stride, side - crop), 0) for i in range(count)]


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where the windows of all pictures of one size lie."""

  picture: tuple[int, int]
  resized: tuple[int, int]
  window: tuple[int, int]
  canvas: tuple[int, int]  # depends on the number of windows: few shapes
  starts: tuple[tuple[int, int], ...]  # row and column of each window

  @classmethod
  def of(cls, h: int, w: int, *, image_size: int, stride: int) -> "Layout":
    """Lays out windows of `image_size` over a picture of h x w pixels."""
    resized = evaluation_size(h, w, image_size)
    # Padded up to a multiple of PAD where the picture is below the window.
    window = (
      min(image_size, -(-resized[0] // PAD) * PAD),
      min(image_size, -(-resized[1] // PAD) * PAD),
    )
    rows, columns = (
      window_starts(s, c, stride) for s, c in zip(resized, window, strict=True)
    )
    canvas = (
      window[0] + (len(rows) - 1) * stride,
      window[1] + (len(columns) - 1) * stride,
    )
    starts = tuple((y, x) for y in rows for x in columns)
    return cls((h, w), resized, window, canvas, starts)

  def cut(
    self, image: UInt8[np.ndarray, "h w 3"]
  ) -> Float[np.ndarray, "g wh ww 3"]:
    """Resizes an image, pads it to the window and cuts the windows out."""
    image = reader.resize(image, *self.resized)
    pad = [
      (0, max(0, c - s)) for c, s in zip(self.window, self.resized, strict=True)
    ]
    image = np.pad(image, (*pad, (0, 0)), mode="edge")
    h, w = self.window
    return np.stack([image[y : y + h, x : x + w] for y, x in self.starts])

  def tables(self) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Interpolation back to the picture, padded to multiples of 32."""
    rows, columns = (
      tuple(
        np.pad(part, (0, -target % PAD))
        for part in reader.interpolation_table(source, target)
      )
      for source, target in zip(self.resized, self.picture, strict=True)
    )
    return rows, columns


@functools.partial(
  jax.jit, static_argnames=("images", "window", "canvas", "combiner", "reduce")
)
def assemble(
  mask_logits: Float[Array, "v n mh mw"],
  probabilities: Float[Array, "v n c"],
  classes: Int[Array, ""],
  starts: Int[Array, "g 2"],
  rows: tuple[Array, Array, Array],
  columns: tuple[Array, Array, Array],
  *,
  images: int,
  window: tuple[int, int],
  canvas: tuple[int, int],
  combiner: str,
  reduce: bool,
):
  """Windows to scores at the pictures' size, or to the winner of each pixel.

  Returns `[images, h', w', c]`, or with `reduce` the best score and its class,
  each `[images, h', w']`, where h' and w' are the lengths of the tables.

  The first `images * g` windows count, image by image; the rest pads the batch.
  With `reduce`, the first `classes` columns of the probabilities count.
  Overlapping windows are averaged by the number of visits, then resized by the
  two interpolation tables.
  """
  g = starts.shape[0]
  c = probabilities.shape[-1]
  mask_logits = mask_logits[: images * g].reshape(
    images, g, *mask_logits.shape[1:]
  )
  probabilities = probabilities[: images * g].reshape(images, g, -1, c)

  def add(i, carry):
    total, visits = carry
    logits = mask_logits[:, i].astype(jnp.float32)
    logits = jax.image.resize(logits, (*logits.shape[:2], *window), "bilinear")
    scores = combine(logits, probabilities[:, i], combiner)
    y, x = starts[i]
    corner = (0, y, x, 0)
    seen = jax.lax.dynamic_slice(total, corner, scores.shape)
    total = jax.lax.dynamic_update_slice(total, seen + scores, corner)
    seen = jax.lax.dynamic_slice(visits, (y, x), window)
    return total, jax.lax.dynamic_update_slice(visits, seen + 1, (y, x))

  total = jnp.zeros((images, *canvas, c), jnp.float32)
  total, visits = jax.lax.fori_loop(
    0, g, add, (total, jnp.zeros(canvas, jnp.float32))
  )
  scores = total / jnp.maximum(visits, 1)[None, ..., None]
  low, high, weight = rows
  above = scores[:, low]
  scores = above + (scores[:, high] - above) * weight[None, :, None, None]
  low, high, weight = columns
  left = scores[:, :, low]
  scores = left + (scores[:, :, high] - left) * weight[None, None, :, None]
  if not reduce:
    return scores
  real = jnp.arange(c) < classes
  scores = jnp.where(real[None, None, None], scores, -1.0)
  return scores.max(-1), jnp.argmax(scores, -1).astype(jnp.int32)
