"""Pseudo-masks from colour and position alone: no network, no weights."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num

from sseg_jax import errors
from sseg_jax.pseudo_masks import kmeans


@dataclasses.dataclass(frozen=True)
class Pixels:
  """K-means over the colours and positions of cells of `stride` pixels.

  The paper's pixel K-means row (S-Seg, Table 1) takes stride 8. Has the
  interface of `generator.PseudoMasks`.
  """

  k: int
  stride: int
  iterations: int
  metric: str
  init: str
  position_weight: float
  median_passes: int
  merge_distance: float
  majority_passes: int

  @classmethod
  def build(cls, config) -> "Pixels":
    """Builds from a whole config; the fields are `config.pseudo_masks`'s."""
    fields = config.pseudo_masks
    return cls(
      k=fields.k,
      stride=fields.stride,
      iterations=fields.iterations,
      metric=fields.metric,
      init=fields.init,
      position_weight=fields.position_weight,
      median_passes=fields.median_passes,
      merge_distance=fields.merge_distance,
      majority_passes=fields.majority_passes,
    )

  @property
  def frozen(self) -> dict:
    """No parameters."""
    return {}

  def generate(
    self, frozen: dict, image: Num[Array, "b h w 3"], keys: Key[Array, "b"]
  ) -> tuple[Int[Array, "b cells_y cells_x"], Bool[Array, "b k"]]:
    """Returns label maps and which labels occur; image values 0..255."""
    del frozen
    cells = features(
      image,
      stride=self.stride,
      position_weight=self.position_weight,
      median_passes=self.median_passes,
    )
    b, h, w, d = cells.shape
    clusters = kmeans.kmeans(
      cells.reshape(b, h * w, d),
      keys,
      k=self.k,
      iterations=self.iterations,
      metric=self.metric,
      init=self.init,
    )
    if self.merge_distance:
      clusters = kmeans.merge(clusters, self.merge_distance)
    labels = clusters.labels.reshape(b, h, w)
    if not self.majority_passes:
      return labels, clusters.valid
    for _ in range(self.majority_passes):
      labels = majority_3x3(labels, self.k)
    present = labels[:, None] == jnp.arange(self.k)[None, :, None, None]
    return labels, present.any((2, 3))


def features(
  image: Num[Array, "b h w 3"],
  *,
  stride: int,
  position_weight: float,
  median_passes: int = 0,
) -> Float[Array, "b h//{stride} w//{stride} 5"]:
  """Returns each cell's mean RGB in [0, 1] and its weighted position (y, x).

  Positions are cell centers as shares of the image's sides. Medians over 3x3
  cells take fine texture out of the colours and leave edges in. Raises
  `InputError` where a side is not a multiple of the stride.
  """
  b, height, width, _ = image.shape
  if height % stride or width % stride:
    raise errors.InputError(
      f"image of {height}x{width} pixels: pseudo_masks.stride={stride} must "
      f"divide both sides; resize the image or change the stride"
    )
  h, w = height // stride, width // stride
  colour = image.astype(jnp.float32) / 255
  colour = colour.reshape(b, h, stride, w, stride, 3).mean((2, 4))
  for _ in range(median_passes):
    colour = median_3x3(colour)
  y, x = jnp.meshgrid(
    (jnp.arange(h) + 0.5) / h, (jnp.arange(w) + 0.5) / w, indexing="ij"
  )
  position = position_weight * jnp.stack([y, x], -1)
  position = jnp.broadcast_to(position[None], (b, h, w, 2))
  return jnp.concatenate([colour, position], -1)


# Exchanges that bring the median of nine values to place 4 (Paeth, Graphics
# Gems, 1990), as elementwise minima and maxima.
_MEDIAN_OF_NINE = (
  *((1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8)),
  *((0, 3), (5, 8), (4, 7), (3, 6), (1, 4), (2, 5), (4, 7), (4, 2), (6, 4)),
  (4, 2),
)


def median_3x3(values: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
  """Returns the median of each 3x3 neighbourhood; edges are repeated."""
  _, h, w, _ = values.shape
  padded = jnp.pad(values, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
  v = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
  for low, high in _MEDIAN_OF_NINE:
    v[low], v[high] = jnp.minimum(v[low], v[high]), jnp.maximum(v[low], v[high])
  return v[4]


def majority_3x3(labels: Int[Array, "b h w"], k: int) -> Int[Array, "b h w"]:
  """Returns each 3x3 neighbourhood's most frequent label; the lowest of equals.

  Takes away specks, and the rims one cell wide where two colours mix.
  """
  _, h, w = labels.shape
  votes = labels[..., None] == jnp.arange(k)[None, None, None]
  votes = votes.astype(jnp.int32)
  votes = jnp.pad(votes, ((0, 0), (1, 1), (1, 1), (0, 0)))
  rows = votes[:, :-2] + votes[:, 1:-1] + votes[:, 2:]
  total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
  return jnp.argmax(total, -1).astype(jnp.int32)
