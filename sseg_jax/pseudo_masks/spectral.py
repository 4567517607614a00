"""Pseudo-masks by normalised cut over the colours of cells (Table 1)."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key, Num

from sseg_jax.models.layers import unit
from sseg_jax.pseudo_masks import kmeans, pixels

# Steps of the subspace iteration. Eigenvalues of the cut lie close together;
# what is still mixed after these steps separates no large regions.
_STEPS = 60
# Colours further apart than this, with channels in 0..1, have low affinity
# (Shi and Malik, 2000, take 10 to 20 % of the range).
_COLOUR_SCALE = 0.15


@dataclasses.dataclass(frozen=True)
class Spectral(pixels.WithoutNetwork):
  """K-means over the first k eigenvectors of the normalised affinity.

  Cells of `stride` pixels, all connected, by the closeness of their colours and
  weighted positions; rows of the eigenvectors have unit length (Ng, Jordan and
  Weiss, 2001). The paper's row of Table 1 takes stride 8 and says no more. Has
  the interface of `generator.PseudoMasks`.
  """

  k: int
  stride: int
  iterations: int
  init: str
  position_weight: float

  @classmethod
  def build(cls, config) -> "Spectral":
    """Builds from a whole config; the fields are `config.pseudo_masks`'s."""
    fields = config.pseudo_masks
    return cls(
      k=fields.k,
      stride=fields.stride,
      iterations=fields.iterations,
      init=fields.init,
      position_weight=fields.position_weight,
    )

  def generate(
    self, frozen: dict, image: Num[Array, "b h w 3"], keys: Key[Array, "b"]
  ) -> tuple[Int[Array, "b cells_y cells_x"], Bool[Array, "b k"]]:
    """Returns label maps and which labels occur; image values 0..255."""
    del frozen
    cells = pixels.features(
      image, stride=self.stride, position_weight=self.position_weight
    )
    b, h, w, d = cells.shape
    # One example after the other: an affinity has as many rows and columns as
    # there are cells.
    vectors = lax.map(
      lambda points: eigenvectors(points, self.k), cells.reshape(b, h * w, d)
    )
    clusters = kmeans.kmeans(
      unit(vectors),
      keys,
      k=self.k,
      iterations=self.iterations,
      init=self.init,
    )
    return clusters.labels.reshape(b, h, w), clusters.valid


def eigenvectors(points: Float[Array, "p d"], k: int) -> Float[Array, "p k"]:
  """Returns the first k eigenvectors of D^-1/2 W D^-1/2, largest value first.

  W holds exp(-distance² / (2 scale²)). Subspace iteration: products of matrices
  alone, no eigensolver over all cells. Columns beyond the number of points are
  zero.
  """
  square = (points * points).sum(-1)
  product = kmeans.matmul("pd,qd->pq", points, points)
  distance = jnp.maximum(square[:, None] + square[None] - 2 * product, 0)
  affinity = jnp.exp(-distance / (2 * _COLOUR_SCALE**2))
  root = lax.rsqrt(affinity.sum(-1))
  affinity = affinity * root[:, None] * root[None]
  # Two extra columns make the last of the kept columns converge faster.
  width = min(k + 2, len(points))
  start = jax.random.normal(jax.random.key(0), (len(points), width))

  def step(_, basis):
    product = kmeans.matmul("pq,qk->pk", affinity, basis)
    return jnp.linalg.qr(product)[0]

  basis = lax.fori_loop(0, _STEPS, step, start)
  small = kmeans.matmul("pk,pq,ql->kl", basis, affinity, basis)  # Rayleigh-Ritz
  _, rotation = jnp.linalg.eigh(small)
  vectors = kmeans.matmul("pk,kl->pl", basis, rotation)[:, ::-1][:, :k]
  return jnp.pad(vectors, ((0, 0), (0, k - vectors.shape[1])))
