"""What makes clusters of tokens follow objects: before K-means and after it.

Nothing here is in the paper, and all of it is off by default. It costs little
compared with a network's forward pass, and needs no parameters.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sseg_jax.models.layers import resize_bilinear, unit
from sseg_jax.pseudo_masks import kmeans

# Distances, in cells, of the neighbours that a cell is compared with.
_DILATIONS = (1, 2, 4)
# Contrast below which two colours count as alike, as a share of the standard
# deviation of the colours around.
_CONTRAST = 0.3


def smooth(
  cells: Float[Array, "b h w d"], *, radius: float, temperature: float
) -> Float[Array, "b h w d"]:
  """Averages each cell with cells that are near it and like it.

  One step of mean shift in space and features, that is, a bilateral filter:
  weights are softmax(cosine / temperature - distance² / (2 radius²)) over all
  cells. It removes differences of single tokens and keeps edges.

  Args:
    cells: features; taken at unit length.
    radius: standard deviation in space, in cells.
    temperature: of the cosine; small keeps to the most alike.

  Returns:
    Features of unit length.
  """
  b, h, w, d = cells.shape
  points = unit(cells.reshape(b, h * w, d))
  y, x = jnp.meshgrid(jnp.arange(h), jnp.arange(w), indexing="ij")
  place = jnp.stack([y.ravel(), x.ravel()], -1).astype(jnp.float32)
  apart = ((place[:, None] - place[None]) ** 2).sum(-1)  # [p, p]
  logits = kmeans.matmul("bpd,bqd->bpq", points, points) / temperature
  weights = jax.nn.softmax(logits - (apart / (2 * radius**2))[None], -1)
  points = unit(kmeans.matmul("bpq,bqd->bpd", weights, points))
  return points.reshape(b, h, w, d)


def upsample(
  values: Float[Array, "b h w k"], factor: int
) -> Float[Array, "b h*{factor} w*{factor} k"]:
  """Interpolates bilinearly."""
  _, h, w, _ = values.shape
  values = jnp.moveaxis(values, -1, 1)
  values = resize_bilinear(values, (h * factor, w * factor))
  return jnp.moveaxis(values, 1, -1)


def follow_colours(
  shares: Float[Array, "b h w k"],
  colours: Float[Array, "b h w c"],
  steps: int,
) -> Float[Array, "b h w k"]:
  """Aligns soft masks with the edges of the picture.

  Each step replaces a cell's shares by a mean over 24 cells around it, more of
  those whose colour is like its own (pixel-adaptive mask refinement, Araslanov
  and Roth, CVPR 2020, §3.3).
  """
  around = jnp.stack(_neighbours(colours))  # [n, b, h, w, c]
  spread = around.std(0) + 1e-3
  contrast = jnp.abs(around - colours[None]) / (_CONTRAST * spread)[None]
  weights = jax.nn.softmax(-contrast.mean(-1), axis=0)[..., None]
  for _ in range(steps):
    moved = _neighbours(shares)
    shares = sum(
      (w * s for w, s in zip(weights, moved, strict=True)),
      jnp.zeros_like(shares),
    )
  return shares


def _neighbours(x: Array) -> list[Array]:
  """Returns x [b,h,w,c] moved to each of the places around; edges repeated."""
  _, h, w, _ = x.shape
  m = max(_DILATIONS)
  padded = jnp.pad(x, ((0, 0), (m, m), (m, m), (0, 0)), mode="edge")
  return [
    padded[:, m + dy * i : m + dy * i + h, m + dx * i : m + dx * i + w]
    for i in _DILATIONS
    for dy in (-1, 0, 1)
    for dx in (-1, 0, 1)
    if dy or dx
  ]
