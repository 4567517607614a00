"""What a query and a picture are embedded from: three forms.

`Decoder` is the paper's form, `MaskPooled` is this project's; `SSeg` calls two
methods: `features` returns features of the queries and of the picture's parts,
`embed` projects the parts and takes their mean. `Segments`, of the paper's
baseline B2, has `of` in place of `features`.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sseg_jax.errors import InputError
from sseg_jax.models import pooling
from sseg_jax.models.conv import ConvNet
from sseg_jax.models.described import Described, Seen
from sseg_jax.models.layers import RegionLayer, unit
from sseg_jax.models.outputs import ImageFeatures
from sseg_jax.models.vit_pyramid import TOKENS

EMBEDDINGS = ("decoder", "mask_pooled", "segments")
POOL_MASKS = ("soft", "hard", "pseudo")
_INSIDE = 14.0  # mask logit in a pseudo-mask, as of a share of 1 in `snap`

Maps = dict[str, tuple[Array, ...]]  # level -> its maps [b, h/s, w/s, c]


def by_regions(model: Any) -> bool:
  """Whether a picture is embedded from given regions while training.

  If not, it is always embedded from its queries. `model` is `config.model`.
  """
  if model.query_embedding == "mask_pooled":
    return model.pool_masks == "pseudo"
  return model.query_embedding == "segments"


@dataclasses.dataclass(frozen=True, kw_only=True)
class QueryEmbedding(abc.ABC):
  """The interface of both forms. Holds settings; parameters are `SSeg`'s.

  Attributes:
    mean: "before" or "after" the projection.
    normalize_queries: whether "after" averages vectors of unit length.
    counted_queries: which the mean counts: "all", or "owners" of some pixel.
    levels: what is pooled under masks: levels of the backbone, "pixel" for the
      pixel decoder's features, "stem" for those of a network of its own.
    region_hidden: width of a layer that pooled features pass; 0 for none.
  """

  mean: str
  normalize_queries: bool
  counted_queries: str
  levels: tuple[str, ...] = ()
  region_hidden: int = 0

  @abc.abstractmethod
  def width(self, channels: dict[str, int]) -> int:
    """Returns the number of features, from the channels of each level."""

  @abc.abstractmethod
  def features(
    self,
    seen: Seen,
    regions: Float[Array, "b k H W"] | None,
    stem: ConvNet | None,
    region: RegionLayer | None,
  ) -> Described:
    """Returns features of queries and of the picture's parts.

    Args:
      seen: see `Seen`.
      regions: see `SSeg.image_features`.
      stem: the network of the level "stem", if that is pooled.
      region: a layer that pooled features pass, or None.
    """

  def embed(
    self,
    project: Callable[..., Array],
    parts: Float[Array, "b k d"],
    counts: Float[Array, "b k"],
    *,
    train: bool = False,
    valid: Bool[Array, "b"] | None = None,
  ) -> tuple[Float[Array, "b k e"], Float[Array, "b e"]]:
    """Returns embeddings of the parts of pictures, and of whole pictures.

    The embedding of a picture is the mean over its parts.

    Args:
      project: maps features to the joint space; takes `train` and `valid`.
      parts: `Described.part_features`.
      counts: `Described.counts`.
      train: the projection's batch norm takes the batch's statistics.
      valid: the pictures that count for these; None for all.
    """
    if self.mean == "before":
      # §3.5: "a single feature … by taking the average", then the projection.
      # The statistics of a batch norm come from the average, as in GroupViT.
      mean = mean_of(parts.astype(jnp.float32), counts)
      pooled = project(mean, train=train, valid=valid)
      return project(parts), pooled
    embedded = project(parts, train=train, valid=valid)
    units = unit(embedded) if self.normalize_queries else embedded
    return embedded, mean_of(units, counts)

  def _counts(self, owned: Float[Array, "b n h w"]) -> Float[Array, "b n"]:
    """Returns 1 for counted queries, from `pooling.owned_pixels`."""
    if self.counted_queries == "owners":
      return owned.any((2, 3)).astype(jnp.float32)
    return jnp.ones(owned.shape[:2])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoder(QueryEmbedding):
  """The paper's form (§3.5): the features that the decoder gives each query."""

  def width(self, channels: dict[str, int]) -> int:
    """Returns the decoder's width."""
    return channels["decoder"]

  def features(
    self,
    seen: Seen,
    regions: Array | None = None,
    stem: ConvNet | None = None,
    region: RegionLayer | None = None,
  ) -> Described:
    """Returns the decoder's features; reads nothing but `seen`."""
    queries = seen.masks.query_features
    counts = self._counts(pooling.owned_pixels(seen.logits))
    return Described(queries, queries, counts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskPooled(QueryEmbedding):
  """Features averaged under each query's mask, with its outline and place.

  No gradient reaches the masks.

  Attributes:
    masks: under which masks: "soft", "hard" or "pseudo" (`default_config.py`).
    outline: whether the outline of a mask is described too.
    place: whether its place and size are.
    stride: pixels of a cell of the masks pooled, for "pseudo".
    regions: how many regions a picture has at most.
    by_regions: whether given regions take the queries' place (`by_regions`).
  """

  masks: str
  outline: bool
  place: bool
  stride: int
  regions: int
  by_regions: bool

  def width(self, channels: dict[str, int]) -> int:
    """Returns the number of pooled features and of what describes a mask."""
    width = sum(channels[level] for level in self.levels)
    width += pooling.OUTLINE_SIZE if self.outline else 0
    return width + (pooling.PLACE_SIZE if self.place else 0)

  def features(
    self,
    seen: Seen,
    regions: Float[Array, "b k H W"] | None = None,
    stem: ConvNet | None = None,
    region: RegionLayer | None = None,
  ) -> Described:
    """Pools under the queries' masks and, if they are given, the regions."""
    owned = pooling.owned_pixels(seen.logits)
    maps, of_all = self._maps(seen, stem)
    shares = self._shares(seen, owned)
    queries = self._describe(maps, shares, region)
    shown = shares.any((2, 3))
    counts = self._counts(owned)
    if self.by_regions and regions is None and seen.labels is not None:
      regions = self._region_shares(seen.pixels, seen.labels)
    if not self.by_regions or regions is None:
      return Described(queries, queries, counts, shown)
    parts = self._describe(maps | of_all, regions, region)
    counts = regions.any((2, 3)).astype(jnp.float32)
    return Described(queries, parts, counts, shown)

  def _maps(self, seen: Seen, stem: ConvNet | None) -> tuple[Maps, Maps]:
    """Returns maps of the pictures that get masks, and some of all pictures."""
    maps: Maps = {name: (value,) for name, value in seen.levels.items()}
    maps["pixel"] = (seen.masks.pixel_features,)
    of_all: Maps = {}
    if stem is not None:
      of_all["stem"] = tuple(stem(seen.pixels).values())
      some = slice(None, None, seen.masks_every)
      maps["stem"] = tuple(value[some] for value in of_all["stem"])
    return maps, of_all

  def _shares(
    self, seen: Seen, owned: Float[Array, "b n h w"]
  ) -> Float[Array, "b n H W"]:
    """Returns how much of each cell belongs to a query, in [0, 1]."""
    if self.masks == "soft":
      return jax.nn.sigmoid(seen.logits)
    if self.masks == "hard":
      return owned
    _, h, w, _ = seen.pixels.shape
    return pooling.visible(seen.snapped, (h // self.stride, w // self.stride))

  def _region_shares(
    self, pixels: Float[Array, "b H W 3"], labels: Int[Array, "b y x"]
  ) -> Float[Array, "b k h w"]:
    one = labels[:, None] == jnp.arange(self.regions)[None, :, None, None]
    _, h, w, _ = pixels.shape
    return pooling.region_shares(labels, one.any((2, 3)), (h, w), self.stride)

  def _describe(
    self,
    maps: Maps,
    shares: Float[Array, "b n H W"],
    region: RegionLayer | None,
  ) -> Float[Array, "b n d"]:
    """Returns the features under masks, with their outlines and places."""
    parts = [
      pooling.pool_under_masks(value, shares)
      for level in self.levels
      for value in maps[level]
    ]
    if self.outline:
      parts.append(pooling.outline(shares).astype(parts[0].dtype))
    if self.place:
      parts.append(pooling.place(shares).astype(parts[0].dtype))
    described = jnp.concatenate(parts, -1)
    return described if region is None else region(described)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segments(MaskPooled):
  """B2 (Table 3): masks are the pseudo-masks, described by a ViT's tokens."""

  def of(
    self,
    pixels: Float[Array, "b h w 3"],
    levels: dict[str, Array],
    regions: Float[Array, "b k H W"] | None,
    labels: Int[Array, "b y x"] | None,
  ) -> ImageFeatures:
    """Returns the masks and their features.

    Args:
      pixels: normalised images.
      levels: the backbone's maps by name.
      regions: see `SSeg.image_features`. In training they come without
        `labels`; nothing needs masks then, and their logits are 0.
      labels: the pseudo-masks as a map, -1 or less for none.
    """
    mask_logits = jnp.zeros((1, pixels.shape[0], self.regions, 1, 1))
    if labels is not None:
      one = labels[:, None] == jnp.arange(self.regions)[None, :, None, None]
      mask_logits = jnp.where(one, _INSIDE, -_INSIDE)[None]
      if regions is None:
        regions = self._region_shares(pixels, labels)
    if regions is None:
      raise InputError(
        "model.query_embedding='segments' has no masks but the pseudo-masks of"
        " a picture; use evaluate.refine='pseudo_masks'"
      )
    parts = self._describe({k: (x,) for k, x in levels.items()}, regions, None)
    counts = regions.any((2, 3)).astype(jnp.float32)
    return ImageFeatures(mask_logits, parts, parts, counts)


def build(config: Any) -> QueryEmbedding:
  """Returns the form that `config.model.query_embedding` names."""
  c = config.model
  how: dict[str, Any] = dict(
    mean=c.mean,
    normalize_queries=c.normalize_queries,
    counted_queries=c.counted_queries,
  )
  if c.query_embedding == "decoder":
    return Decoder(**how)
  how |= dict(
    stride=c.pool_stride,
    regions=config.pseudo_masks.k,
    by_regions=by_regions(c),
  )
  if c.query_embedding == "segments":
    return Segments(
      **how, levels=(TOKENS,), masks="pseudo", outline=False, place=False
    )
  return MaskPooled(
    **how,
    levels=tuple(c.pool_feature.split("+")),
    masks=c.pool_masks,
    outline=c.pool_outline,
    place=c.pool_place,
    region_hidden=c.region_hidden,
  )


def mean_of(
  x: Float[Array, "b n d"], weights: Float[Array, "b n"]
) -> Float[Array, "b d"]:
  """Returns the mean over the n whose weight is 1; zeros if there is none."""
  total = jnp.maximum(weights.sum(1, keepdims=True), 1)
  return jnp.einsum("bnd,bn->bd", x, weights) / total
