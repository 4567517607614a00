"""Pixel-adaptive mask refinement (PAMR): scores follow the edges of a picture.

Each pixel takes the average of its neighbours' scores, weighted by how alike
their colours are, several times. Without any training.

Source: Araslanov and Roth, "Single-Stage Semantic Segmentation from Image
Labels", CVPR 2020 (visinf/1-stage-wseg `models/mods/pamr.py`), as TCL uses it
(khanrc/tcl `models/tcl/tcl.py`, `apply_pamr`).
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sseg_jax.models.layers import resize_bilinear

# TCL's settings.
DILATIONS = (1, 2, 4, 8, 12, 24)
ITERATIONS = 10
# TCL refines masks where its decoder makes them: at a quarter of the window.
STRIDE = 4
# The eight neighbours, as rows and columns of a dilation.
_AROUND = tuple(
  (y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)
)


def refined(
  window: Float[np.ndarray, "h w 3"], scores: Float[np.ndarray, "h w c"]
) -> Float[np.ndarray, "h w c"]:
  """Refines the scores of a window as TCL does, at a quarter of its size.

  Args:
    window: RGB, of any scale: only ratios of differences count.
    scores: of the classes, at the window's size.

  Returns:
    float32 at the window's size.
  """
  return np.asarray(_refined(jnp.asarray(window), jnp.asarray(scores)))


@jax.jit
def _refined(
  window: Float[Array, "h w 3"], scores: Float[Array, "h w c"]
) -> Float[Array, "h w c"]:
  h, w, _ = scores.shape
  size = -(-h // STRIDE), -(-w // STRIDE)
  image = jnp.moveaxis(window.astype(jnp.float32), -1, 0)
  for axis, target in enumerate(size, 1):
    image = _corner_aligned(image, axis, target)
  maps = resize_bilinear(jnp.moveaxis(scores, -1, 0), size)
  return jnp.moveaxis(resize_bilinear(pamr(image, maps), (h, w)), 0, -1)


def pamr(
  image: Float[Array, "d h w"],
  maps: Float[Array, "c h w"],
  dilations: Sequence[int] = DILATIONS,
  iterations: int = ITERATIONS,
) -> Float[Array, "c h w"]:
  """Averages maps over neighbours that look alike, `iterations` times.

  Beyond the border the pixels of the border are repeated.

  Args:
    image: colours, of any scale.
    maps: what is refined, at the picture's size.
    dilations: distances of the eight neighbours in pixels.
    iterations: how often.
  """
  places = [(d * y, d * x) for d in dilations for y, x in _AROUND]
  weights = affinities(image, dilations)

  def step(_, maps):
    near = _shifted(maps, places)
    return functools.reduce(
      jnp.add, (w[None] * m for w, m in zip(weights, near, strict=True))
    )

  return jax.lax.fori_loop(0, iterations, step, maps.astype(jnp.float32))


def affinities(
  image: Float[Array, "d h w"], dilations: Sequence[int] = DILATIONS
) -> Float[Array, "p h w"]:
  """Returns the weights of each pixel's neighbours, which sum to one.

  That is the softmax over all neighbours of -|x - n| / (1e-8 + 0.1 s), averaged
  over colours. s is the standard deviation of the pixel and its neighbours; the
  pixel itself counts once for each dilation.

  Args:
    image: colours, of any scale.
    dilations: distances of the eight neighbours in pixels.
  """
  image = image.astype(jnp.float32)
  places = [(d * y, d * x) for d in dilations for y, x in _AROUND]
  near = jnp.stack(_shifted(image, places))  # [p, d, h, w]
  itself = jnp.broadcast_to(image, (len(dilations), *image.shape))
  taps = jnp.concatenate([near, itself])
  spread = taps.std(0, ddof=1, keepdims=True)
  logits = -jnp.abs(image[None] - near) / (1e-8 + 0.1 * spread)
  return jax.nn.softmax(logits.mean(1), axis=0)


def _shifted(
  maps: Float[Array, "c h w"], places: Sequence[tuple[int, int]]
) -> list[Float[Array, "c h w"]]:
  """Returns the maps as seen from each pixel, so many rows and columns away."""
  _, h, w = maps.shape
  far = max(max(abs(y), abs(x)) for y, x in places)
  padded = jnp.pad(maps, ((0, 0), (far, far), (far, far)), mode="edge")
  return [
    padded[:, far + y : far + y + h, far + x : far + x + w] for y, x in places
  ]


def _corner_aligned(
  image: Float[Array, "d h w"], axis: int, target: int
) -> Float[Array, "d _ _"]:
  """Resizes one axis by torch's "bilinear" with align_corners."""
  source = image.shape[axis]
  at = np.linspace(0, source - 1, target) if target > 1 else np.zeros(1)
  low = np.minimum(at.astype(np.int32), source - 1)
  high = np.minimum(low + 1, source - 1)
  weight = np.expand_dims((at - low).astype(np.float32), (0, 3 - axis))
  below, above = image.take(low, axis), image.take(high, axis)
  return below + (above - below) * weight
