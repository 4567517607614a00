"""Pseudo-masks from the patch tokens of a frozen vision transformer (§3.4).

On a first read, go straight to `Tokens.generate`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key, Num

from sseg_jax.models import teacher, vit, vit_weights
from sseg_jax.models.layers import normalize_pixels, unit
from sseg_jax.pseudo_masks import kmeans, refine

# Squared distance, between features of unit length, over which a cell's share
# in a cluster falls by a factor of e.
_SHARPNESS = 0.1

# Generator -> the published weights it takes where the config names none.
USUAL_WEIGHTS = {
  "dino": "dino_vits8",  # §4.1
  "dinov2": "dinov2_vits14",
  "imagenet_vit": "deit_s16",
  "mae": "mae_vitb16",
}
# How the published code of each network resizes positions; used for files too.
_FILE_RULES = {
  name: vit.VIT_SIZES[name]["position_rule"]
  for name in ("deit_s16", "mae_vitb16")
}


@dataclasses.dataclass(frozen=True, eq=False)
class Tokens:
  """K-means over patch tokens; has the interface of `generator.PseudoMasks`.

  Attributes:
    k: masks an image.
    graphdef: structure of the `vit.ViT`.
    frozen: its parameters, an argument of `generate`.
    parts: (kind, layer) of each feature; several are put side by side, each of
      unit length.
    iterations: of K-means.
    metric: of K-means.
    init: of K-means.
    dtype: of the network's products; K-means is in float32.
    restarts: of K-means.
    smooth_radius: of `refine.smooth`, in patches; 0 leaves it out.
    smooth_temperature: of `refine.smooth`.
    upsample: cells of the label map a patch, along a side.
    colour_steps: of `refine.follow_colours`.
    scale: of the picture that the network sees, over the one given.
    clustering: `kmeans.kmeans`; an export takes `unrolled.kmeans`.
  """

  k: int
  graphdef: nnx.GraphDef
  frozen: Any
  parts: tuple[tuple[str, int], ...]
  iterations: int
  metric: str
  init: str
  dtype: Any
  restarts: int = 1
  smooth_radius: float = 0.0
  smooth_temperature: float = 0.05
  upsample: int = 1
  colour_steps: int = 0
  scale: float = 1.0
  clustering: Callable[..., kmeans.KMeans] = kmeans.kmeans

  @classmethod
  def build(
    cls, config, *, usual: str = "dino_vits8", abstract: bool = False
  ) -> "Tokens":
    """Loads the network; the fields are `config.pseudo_masks`'s.

    Args:
      config: a whole config.
      usual: published weights for an empty `pseudo_masks.weights`.
      abstract: shapes in place of the weights, which are not downloaded.

    Raises:
      InputError: for weights that are not available, or a feature that the
        network does not have.
    """
    fields = config.pseudo_masks
    dtype = jnp.dtype(config.dtype)
    load = vit_weights.abstract if abstract else vit_weights.load
    graphdef, frozen = load(
      fields.weights or usual,
      position_rule=fields.position_rule or None,
      file_rule=_FILE_RULES.get(usual),
      num_heads=fields.num_heads or None,
      dtype=dtype,
    )
    depth = nnx.merge(graphdef, frozen).depth
    return cls.of(config, graphdef, vit_weights.rounded(frozen, dtype), depth)

  @classmethod
  def of(
    cls, config, graphdef: nnx.GraphDef, frozen: Any, depth: int
  ) -> "Tokens":
    """Builds it for a network of `depth` blocks; see `build`."""
    fields = config.pseudo_masks
    return cls(
      k=fields.k,
      graphdef=graphdef,
      frozen=frozen,
      parts=parse_features(fields.feature, depth),
      iterations=fields.iterations,
      metric=fields.metric,
      init=fields.init,
      dtype=jnp.dtype(config.dtype),
      restarts=fields.restarts,
      smooth_radius=fields.smooth_radius,
      smooth_temperature=fields.smooth_temperature,
      upsample=fields.upsample,
      colour_steps=fields.colour_steps,
      scale=fields.scale,
    )

  def with_flash_attention(self) -> "Tokens":
    """Returns the same for TPUs, with attention in one kernel."""
    model = nnx.merge(self.graphdef, self.frozen)
    model.use_flash_attention()
    return dataclasses.replace(self, graphdef=nnx.graphdef(model))

  @functools.cached_property
  def patch(self) -> int:
    """Side of a patch in pixels of the picture that the network sees."""
    return nnx.merge(self.graphdef, self.frozen).patch

  @property
  def stride(self) -> int:
    """Side of a patch in pixels of the picture that is given, rounded."""
    return max(1, round(self.patch / self.scale))

  def features(
    self, frozen: Any, image: Num[Array, "b h w 3"]
  ) -> Float[Array, "b y x d"]:
    """Returns what is clustered, float32; image values 0..255."""
    model = nnx.merge(self.graphdef, frozen)
    image = self.scaled(image)
    found = read_features(
      model, normalize_pixels(image, self.dtype), self.parts
    )
    b, height, width, _ = image.shape
    size = (b, height // self.patch, width // self.patch, -1)
    return found.reshape(size)

  def scaled(self, image: Num[Array, "b h w 3"]) -> Num[Array, "b y x 3"]:
    """Resizes to `scale`, rounded to whole patches; 1 leaves it as it is."""
    if self.scale == 1:
      return image
    height, width = (
      self.patch * max(1, round(side * self.scale / self.patch))
      for side in image.shape[1:3]
    )
    size = (len(image), height, width, 3)
    return jax.image.resize(image.astype(jnp.float32), size, "linear")

  def generate(
    self,
    frozen: Any,
    image: Num[Array, "b h w 3"],
    keys: Key[Array, "b"] | None,
  ) -> tuple[Int[Array, "b cells_y cells_x"], Bool[Array, "b k"]]:
    """Returns label maps and which labels occur; image values 0..255."""
    cells = self.features(frozen, image)
    return self.cluster(cells, image, keys)

  def cluster(
    self,
    cells: Float[Array, "b h w d"],
    image: Num[Array, "b height width 3"],
    keys: Key[Array, "b"] | None,
  ) -> tuple[Int[Array, "b cells_y cells_x"], Bool[Array, "b k"]]:
    """Returns what `generate` does, from the result of `features`."""
    if self.smooth_radius:
      cells = refine.smooth(
        cells, radius=self.smooth_radius, temperature=self.smooth_temperature
      )
    clusters = self.grouped(cells, keys, self.k)
    b, h, w, _ = cells.shape
    if self.upsample == 1 and not self.colour_steps:
      return clusters.labels.reshape(b, h, w), clusters.valid
    labels = self._finer_labels(cells, clusters, image)
    present = labels[:, None] == jnp.arange(self.k)[None, :, None, None]
    return labels, present.any((2, 3))

  def grouped(
    self,
    cells: Float[Array, "b h w d"],
    keys: Key[Array, "b"] | None,
    k: int,
    folded: int | None = None,
  ) -> kmeans.KMeans:
    """Returns K-means of the cells, as points in the order of rows.

    Args:
      cells: as `features` gives them.
      keys: of each picture. None: `clustering` reads no keys.
      k: clusters a picture.
      folded: a number that is folded into each key, so that one key can start
        several clusterings.
    """
    how = {}
    if folded is not None:
      if keys is None:
        how["folded"] = folded
      else:
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys, folded)
    b, h, w, d = cells.shape
    return self.clustering(
      cells.reshape(b, h * w, d),
      keys,
      k=k,
      iterations=self.iterations,
      metric=self.metric,
      init=self.init,
      restarts=self.restarts,
      **how,
    )

  def _finer_labels(
    self,
    cells: Float[Array, "b h w d"],
    clusters: kmeans.KMeans,
    image: Num[Array, "b height width 3"],
  ) -> Int[Array, "b cells_y cells_x"]:
    """Interpolates nearness to the centers instead of labels."""
    b, h, w, d = cells.shape
    points = cells.reshape(b, h * w, d)
    if self.metric == "cosine":
      points = unit(points)
    centers = clusters.centers
    product = kmeans.matmul("bpd,bkd->bpk", points, centers)
    # Negative squared distances, without the term that all clusters share.
    nearness = 2 * product - (centers * centers).sum(-1)[:, None]
    nearness = nearness.reshape(b, h, w, self.k)
    nearness = refine.upsample(nearness, self.upsample)
    nearness = jnp.where(clusters.valid[:, None, None], nearness, -jnp.inf)
    if self.colour_steps:
      size = (b, h * self.upsample, w * self.upsample, 3)
      colours = image.astype(jnp.float32) / 255
      colours = jax.image.resize(colours, size, "linear")  # with antialiasing
      shares = jax.nn.softmax(nearness / _SHARPNESS, -1)
      nearness = refine.follow_colours(shares, colours, self.colour_steps)
    return jnp.argmax(nearness, -1).astype(jnp.int32)


def parse_features(text: str, depth: int) -> tuple[tuple[str, int], ...]:
  """Reads `pseudo_masks.feature`; see `teacher.parse_features`."""
  return teacher.parse_features(text, depth, "pseudo_masks.feature")


def read_features(
  model: vit.ViT,
  image: Float[Array, "b h w 3"],
  parts: tuple[tuple[str, int], ...],
) -> Float[Array, "b p d"]:
  """Returns the patches' features, float32.

  The vectors of a single part keep their length. Several parts are normalised
  to unit length and concatenated, so that they have equal weight.
  """
  values = [
    value[:, model.prefix :].astype(jnp.float32)
    for value in model.features(image, parts)
  ]
  if len(values) == 1:
    return values[0]
  return jnp.concatenate([unit(value) for value in values], -1)
