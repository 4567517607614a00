"""Cuts a picture into windows, and joins the scores of the windows again.

A picture is resized with its ratio kept, and windows are laid over it so that
they overlap. Where windows overlap, their scores are averaged. The result is
resized to the picture. GroupViT, TCL and OVSegmentor test in this way.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from sseg_jax.images import reader
from sseg_jax.inference.scoring import combine

LONG_SIDE_CAP = 2048  # GroupViT's img_scale=(2048, 448)
# The largest stride of networks. A picture smaller than the window is padded to
# a multiple of it, or of what its network needs (`look.Look.multiple`).
PAD = 32
LARGEST_SIZE = 4096  # of `image_size`: a window of it takes some hundred MB


def multiple_for(stride: int) -> int:
  """Returns what sides are padded to a multiple of, for a network's stride.

  PAD, so that few sizes are compiled, unless the stride does not divide it.
  """
  return stride if PAD % stride else PAD


def evaluation_size(
  h: int, w: int, short_side: int, long_side: int = LONG_SIDE_CAP
) -> tuple[int, int]:
  """Keep-ratio size of a picture at test.

  The short side becomes `short_side` unless the long side would pass
  `long_side`. Sides are rounded half up (mmcv's `rescale_size`,
  img_scale=(2048, 448)).
  """
  factor = min(max(long_side, short_side) / max(h, w), short_side / min(h, w))
  return max(1, int(h * factor + 0.5)), max(1, int(w * factor + 0.5))


def window_starts(side: int, crop: int, stride: int) -> list[int]:
  """First pixels of the windows along one side; the last is shifted inside.

  mmsegmentation, models/segmentors/encoder_decoder.py.
  """
  count = max(side - crop + stride - 1, 0) // stride + 1
  return [max(min(i * stride, side - crop), 0) for i in range(count)]


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where the windows of all pictures of one size lie. All sizes are (h, w).

  Attributes:
    picture: size of the pictures.
    resized: size to which they are resized before they are cut.
    window: size of each window.
    canvas: size that all windows cover together. It depends on their number
      alone, so that pictures of many sizes share few compiled programs.
    starts: row and column of the first pixel of each window.
  """

  picture: tuple[int, int]
  resized: tuple[int, int]
  window: tuple[int, int]
  canvas: tuple[int, int]
  starts: tuple[tuple[int, int], ...]

  @classmethod
  def of(
    cls, h: int, w: int, *, image_size: int, stride: int, multiple: int = PAD
  ) -> "Layout":
    """Lays out windows of `image_size` over a picture of h x w pixels.

    Where the picture is below the window, it is padded up to a `multiple`.
    """
    resized = evaluation_size(h, w, image_size)
    window = (
      min(image_size, -(-resized[0] // multiple) * multiple),
      min(image_size, -(-resized[1] // multiple) * multiple),
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

  @classmethod
  def of_window(cls, h: int, w: int, multiple: int = PAD) -> "Layout":
    """Lays out one window over all of a picture, which is not resized."""
    window = -(-h // multiple) * multiple, -(-w // multiple) * multiple
    return cls((h, w), (h, w), window, window, ((0, 0),))

  def cut(
    self, image: Num[np.ndarray, "h w 3"]
  ) -> Float[np.ndarray, "g wh ww 3"]:
    """Resizes an image, pads it to the window and cuts the windows out."""
    image = reader.resize(image, *self.resized)
    pad = [
      (0, max(0, c - s)) for c, s in zip(self.window, self.resized, strict=True)
    ]
    image = np.pad(image, (*pad, (0, 0)), mode="edge")
    h, w = self.window
    return np.stack([image[y : y + h, x : x + w] for y, x in self.starts])

  def places(self) -> "Places":
    """Where scores go; tables are padded to multiples of 32: few shapes."""
    rows, columns = (
      tuple(
        np.pad(part, (0, -target % PAD))
        for part in reader.interpolation_table(source, target)
      )
      for source, target in zip(self.resized, self.picture, strict=True)
    )
    return Places(np.array(self.starts, np.int32), rows, columns)


class Places(NamedTuple):
  """Where the scores of windows go: arrays, so they cost no compilation.

  Attributes:
    starts: row and column of the first pixel of each window.
    rows: `reader.interpolation_table` of the rows: the lower and the upper
      source row of each row of the picture, and the weight of the upper one.
    columns: the same for the columns.
  """

  starts: Int[Array | np.ndarray, "g 2"]
  rows: tuple[Array | np.ndarray, ...]
  columns: tuple[Array | np.ndarray, ...]


@functools.partial(
  jax.jit, static_argnames=("images", "window", "canvas", "combiner")
)
def assemble(
  mask_logits: Float[Array, "v n mh mw"],
  probabilities: Float[Array, "v n c"],
  places: Places,
  *,
  images: int,
  window: tuple[int, int],
  canvas: tuple[int, int],
  combiner: str,
) -> Float[Array, "b h w c"]:
  """Returns class scores of whole pictures from those of their windows.

  Windows that overlap are averaged; then the result is resized to the picture
  by the two interpolation tables.

  Args:
    mask_logits: of each window; the windows of the first picture come first.
    probabilities: of each window's queries.
    places: see `Places`.
    images: number of pictures. The first `images * g` windows are theirs; the
      rest only fills the batch.
    window: height and width of a window, `Layout.window`.
    canvas: height and width of all windows together, `Layout.canvas`.
    combiner: see `scoring.combine`.

  Returns:
    Scores of `images` pictures; h and w are the lengths of the tables.
  """
  g = places.starts.shape[0]
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
    y, x = places.starts[i]
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
  low, high, weight = places.rows
  above = scores[:, low]
  scores = above + (scores[:, high] - above) * weight[None, :, None, None]
  low, high, weight = places.columns
  left = scores[:, :, low]
  return left + (scores[:, :, high] - left) * weight[None, None, :, None]


@functools.partial(
  jax.jit, static_argnames=("images", "window", "canvas", "combiner")
)
def assemble_winners(
  mask_logits: Float[Array, "v n mh mw"],
  probabilities: Float[Array, "v n c"],
  classes: Int[Array, ""],
  places: Places,
  **how: Any,
) -> tuple[Float[Array, "b h w"], Int[Array, "b h w"]]:
  """Returns the best score of each pixel and its class, as `assemble` scores.

  Args:
    mask_logits: as for `assemble`.
    probabilities: as for `assemble`.
    classes: how many of the columns of `probabilities` are classes; the others
      only fill the array and never win.
    places: as for `assemble`.
    **how: `images`, `window`, `canvas` and `combiner`, as for `assemble`.
  """
  scores = assemble(mask_logits, probabilities, places, **how)
  real = jnp.arange(scores.shape[-1]) < classes
  scores = jnp.where(real[None, None, None], scores, -1.0)
  return scores.max(-1), jnp.argmax(scores, -1).astype(jnp.int32)
