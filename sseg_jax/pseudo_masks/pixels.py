"""Pseudo-masks from colour and position, without a network."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num

from sseg_jax import errors
from sseg_jax.pseudo_masks import kmeans


class WithoutNetwork:
  """A generator of pseudo-masks that needs no network."""

  @property
  def frozen(self) -> dict:
    """No parameters."""
    return {}


@dataclasses.dataclass(frozen=True)
class Pixels(WithoutNetwork):
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
  fit_every: int
  # An export takes `unrolled.kmeans`, which needs no keys.
  cluster: Callable[..., kmeans.KMeans] = kmeans.kmeans

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
      fit_every=fields.fit_every,
    )

  def generate(
    self,
    frozen: dict,
    image: Num[Array, "b h w 3"],
    keys: Key[Array, "b"] | None,
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
    points = cells.reshape(b, h * w, d)
    some, every = points, self.fit_every
    if every > 1:
      first = every // 2
      some = cells[:, first::every, first::every].reshape(b, -1, d)
      if not some.shape[1]:
        raise errors.InputError(
          f"pseudo_masks.fit_every={every}: too many for {h} x {w} cells"
        )
    clusters = self.cluster(
      some,
      keys,
      k=self.k,
      iterations=self.iterations,
      metric=self.metric,
      init=self.init,
    )
    if every > 1:
      clusters = kmeans.assign(clusters, points)
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
  if stride > 1 or not median_passes:
    image = image.astype(jnp.float32)
    image = image.reshape(b, h, stride, w, stride, 3).mean((2, 4))
  for _ in range(median_passes):
    # Without the barrier, XLA computes a pass again for each use of it.
    image = jax.lax.optimization_barrier(median_3x3(image))
  colour = image.astype(jnp.float32) / 255
  y, x = jnp.meshgrid(
    (jnp.arange(h) + 0.5) / h, (jnp.arange(w) + 0.5) / w, indexing="ij"
  )
  position = position_weight * jnp.stack([y, x], -1)
  position = jnp.broadcast_to(position[None], (b, h, w, 2))
  return jnp.concatenate([colour, position], -1)


def median_3x3(values: Num[Array, "b h w c"]) -> Num[Array, "b h w c"]:
  """Returns the median of each 3x3 neighbourhood; edges are repeated.

  Columns of three are sorted once for the three neighbourhoods they are in. The
  median of nine is then that of the largest minimum, the median of medians and
  the smallest maximum (Smith, "Implementing median filters in XC4000E FPGAs",
  1996). Works on uint8 as well, which is much faster on a CPU.
  """
  # Not `jnp.pad`: where the batch's size is unknown, it pads that as well, by
  # nothing, which a converter to ONNX takes for one picture.
  padded = jnp.concatenate([values[:, :1], values, values[:, -1:]], 1)
  padded = jnp.concatenate([padded[:, :, :1], padded, padded[:, :, -1:]], 2)
  low, high = jnp.minimum, jnp.maximum

  def middle(a, b, c):
    return high(low(a, b), low(high(a, b), c))

  def sideways(x):
    return x[:, :, :-2], x[:, :, 1:-1], x[:, :, 2:]

  a, b, c = padded[:, :-2], padded[:, 1:-1], padded[:, 2:]
  x, y, z = sideways(low(low(a, b), c))
  largest_minimum = high(high(x, y), z)
  x, y, z = sideways(high(high(a, b), c))
  smallest_maximum = low(low(x, y), z)
  median_of_medians = middle(*sideways(middle(a, b, c)))
  return middle(largest_minimum, median_of_medians, smallest_maximum)


def majority_3x3(labels: Int[Array, "b h w"], k: int) -> Int[Array, "b h w"]:
  """Returns each 3x3 neighbourhood's most frequent label; the lowest of equals.

  This removes specks, and borders one cell wide where two colours mix.
  """
  _, h, w = labels.shape
  votes = labels[..., None] == jnp.arange(k)[None, None, None]
  votes = votes.astype(jnp.int32)
  votes = jnp.pad(votes, ((0, 0), (1, 1), (1, 1), (0, 0)))
  rows = votes[:, :-2] + votes[:, 1:-1] + votes[:, 2:]
  total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
  return jnp.argmax(total, -1).astype(jnp.int32)
