"""S-Seg: MaskFormer and a text transformer in one embedding space (§3).

On a first read, go to `SSeg.image_features`. The functions below the class are
the boundary to plain JAX: parameters and statistics as nested dictionaries of
arrays.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from sseg_jax import errors, tokenizer
from sseg_jax.models import backbones, pooling, remat, swin
from sseg_jax.models.conv import ConvNet
from sseg_jax.models.dropout import ExampleRngs
from sseg_jax.models.layers import (
  Projection,
  RegionLayer,
  normalize_pixels,
  unit,
)
from sseg_jax.models.maskformer import MaskFormer
from sseg_jax.models.text import TextTower

PIXEL_DECODERS = ("fpn", "transformer_encoder")
POOL_MASKS = ("soft", "hard", "pseudo")
EMBEDDINGS = ("decoder", "mask_pooled")
Variables = dict[Any, Any]  # nested dictionaries of arrays


class ImageFeatures(NamedTuple):
  """What the image tower gives before anything is projected.

  Attributes:
    mask_logits: as in `ImageOutputs`.
    query_features: likewise.
    part_features: [b, k, d], what the picture is embedded from: the queries'
      again, or those of the regions that stand in for them.
    counts: float32 [b, k], 1 for the parts that the mean counts, else 0.
  """

  mask_logits: Array
  query_features: Array
  part_features: Array
  counts: Array


class ImageOutputs(NamedTuple):
  """What the image tower gives. Embeddings are not of unit length.

  Attributes:
    mask_logits: float32 [layers, b, n, h/4, w/4], the last decoder layer last;
      in evaluation the last layer alone.
    query_features: [b, n, d], what a query is embedded from.
    query_embeddings: float32 [b, n, e], each query projected.
    part_embeddings: float32 [b, k, e], of what the picture is embedded from:
      the queries' again, or those of the regions that stand in for them.
    image_embedding: float32 [b, e], for the contrastive loss.
  """

  mask_logits: Array
  query_features: Array
  query_embeddings: Array
  part_embeddings: Array
  image_embedding: Array


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
  if value not in allowed:
    raise errors.InputError(
      f"{name}={value!r} is not one of {', '.join(allowed)}"
    )


def _check_ranges(config: Any) -> None:
  """Raises InputError for sizes, rates and scales that make no network."""
  sizes = {
    "model": (
      "hidden_dim",
      "mask_dim",
      "num_queries",
      "decoder_layers",
      "num_heads",
      "ffn_dim",
      "embed_dim",
      "proj_hidden",
    ),
    "text": ("width", "layers", "num_heads", "context_length"),
  }
  if config.model.pixel_decoder == "transformer_encoder":
    sizes["model"] += ("encoder_layers",)
  rates = {"model": ("dropout", "drop_path"), "text": ("dropout",)}
  scales = {"loss": ("init_temperature", "max_logit_scale")}
  for fields, fits, wanted in (
    (sizes, lambda x: x >= 1, "at least 1"),
    (rates, lambda x: 0 <= x < 1, "from 0 to below 1"),
    (scales, lambda x: x > 0, "over 0"),
  ):
    for part, names in fields.items():
      for name in names:
        value = config[part][name]
        if not fits(value):
          raise errors.InputError(f"{part}.{name}={value}: must be {wanted}")


def _weighted_mean(x: Array, weights: Array) -> Array:
  """Averages [b,n,d] over the n whose weight [b,n] is 1; zeros for none."""
  total = jnp.maximum(weights.sum(1, keepdims=True), 1)
  return jnp.einsum("bnd,bn->bd", x, weights) / total


class SSeg(nnx.Module):
  """The model: image tower, text tower, two projections, a logit scale."""

  def __init__(self, config: Any, *, rngs: nnx.Rngs):
    """Builds the network from random weights.

    Args:
      config: fields as in `default_config.py`.
      rngs: the stream `params`.

    Raises:
      InputError: if a field of `config.model` has an unknown value.
    """
    c, t = config.model, config.text
    _check_ranges(config)
    _one_of("model.pixel_decoder", c.pixel_decoder, PIXEL_DECODERS)
    _one_of("model.query_embedding", c.query_embedding, EMBEDDINGS)
    _one_of("model.pool_masks", c.pool_masks, POOL_MASKS)
    _one_of("model.counted_queries", c.counted_queries, ("all", "owners"))
    _one_of("model.mean", c.mean, ("before", "after"))
    _one_of("model.proj_norm", c.proj_norm, ("bn", "ln", "none"))
    _one_of("model.memory", c.memory, ("res2", "res3", "res4", "res5"))
    _one_of("dtype", config.dtype, ("bfloat16", "float32"))
    if c.hidden_dim % c.num_heads:
      raise errors.InputError(
        f"model.hidden_dim={c.hidden_dim} is not a multiple of"
        f" model.num_heads={c.num_heads}"
      )
    remat.check(c.remat)
    dtype = jnp.dtype(config.dtype)
    self.dtype = dtype
    self.backbone = backbones.build(
      c.backbone,
      drop_path=c.drop_path,
      remat=c.remat,
      dtype=dtype,
      rngs=rngs,
    )
    self.maskformer = MaskFormer(
      self.backbone.channels,
      hidden_dim=c.hidden_dim,
      mask_dim=c.mask_dim,
      num_queries=c.num_queries,
      decoder_layers=c.decoder_layers,
      num_heads=c.num_heads,
      ffn_dim=c.ffn_dim,
      dropout=c.dropout,
      memory=c.memory,
      deep_supervision=c.deep_supervision,
      encoder_layers=(
        c.encoder_layers if c.pixel_decoder == "transformer_encoder" else 0
      ),
      remat=c.remat,
      dtype=dtype,
      rngs=rngs,
    )
    self.pool_feature = c.pool_feature
    self.regions = config.pseudo_masks.k
    self.query_embedding = c.query_embedding
    self.pool_masks = c.pool_masks
    self.pool_outline = c.pool_outline
    self.pool_place = c.pool_place
    self.pool_stride = c.pool_stride
    self.region_hidden = c.region_hidden
    self.counted_queries = c.counted_queries
    self.mean = c.mean
    self.normalize_queries = c.normalize_queries
    width = c.hidden_dim
    if c.query_embedding == "mask_pooled":
      channels = {
        **self.backbone.channels,
        "pixel": c.hidden_dim,
        "stem": sum(c.stem_widths),
      }
      pooled = c.pool_feature.split("+")
      for level in pooled:
        _one_of("model.pool_feature", level, tuple(channels))
      width = sum(channels[level] for level in pooled)
      width += pooling.OUTLINE_SIZE if c.pool_outline else 0
      width += pooling.PLACE_SIZE if c.pool_place else 0
      if "stem" in pooled:
        if not 1 <= len(c.stem_widths) == len(c.stem_depths) <= 4:
          raise errors.InputError(
            f"model.stem_widths={c.stem_widths} and model.stem_depths="
            f"{c.stem_depths}: give one to four stages, as many in both"
          )
        # A config that was read from JSON has lists.
        self.stem = ConvNet(
          widths=tuple(c.stem_widths),
          depths=tuple(c.stem_depths),
          remat=c.remat,
          dtype=dtype,
          rngs=rngs,
        )
      if c.region_hidden:
        self.region = RegionLayer(
          width, c.region_hidden, dtype=dtype, rngs=rngs
        )
        width = c.region_hidden
    projection = functools.partial(
      Projection,
      hidden=c.proj_hidden,
      d_out=c.embed_dim,
      norm=c.proj_norm,
      dtype=dtype,
      rngs=rngs,
    )
    self.image_projection = projection(width)
    self.text = TextTower(
      vocab_size=tokenizer.VOCAB_SIZE,
      context_length=t.context_length,
      width=t.width,
      layers=t.layers,
      num_heads=t.num_heads,
      dropout=t.dropout,
      remat=c.remat,
      dtype=dtype,
      rngs=rngs,
    )
    self.text_projection = projection(t.width)
    self.logit_scale = nnx.Param(
      jnp.asarray(-math.log(config.loss.init_temperature), jnp.float32)
    )

  def encode_image(
    self,
    image: Array,
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
    valid: Bool[Array, "b"] | None = None,
    regions: Float[Array, "b k H W"] | None = None,
    labels: Int[Array, "b y x"] | None = None,
    masks_every: int = 1,
  ) -> ImageOutputs:
    """Gives N masks, an embedding for each, and one for the picture.

    `image_features`, whose arguments these are, then `embed_image`.
    """
    features = self.image_features(
      image,
      train=train,
      rngs=rngs,
      valid=valid,
      regions=regions,
      labels=labels,
      masks_every=masks_every,
    )
    return self.embed_image(features, train=train, valid=valid)

  def image_features(
    self,
    image: Array,
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
    valid: Bool[Array, "b"] | None = None,
    regions: Float[Array, "b k H W"] | None = None,
    labels: Int[Array, "b y x"] | None = None,
    masks_every: int = 1,
  ) -> ImageFeatures:
    """Gives N masks, and what they and the picture are embedded from.

    But for a backbone's batch norm, no picture looks at another.

    Args:
      image: RGB in 0..255, [b, h, w, 3]; sides are multiples of 32.
      train: dropout, batch statistics and the masks of every decoder layer.
      rngs: of the pictures, where `train`.
      valid: the pictures that count for batch statistics; None for all.
      regions: shares in [0, 1] of each cell of `pool_stride` pixels. With
        `pool_masks="pseudo"` the picture's embedding is made from them, not
        from the queries' own masks; empty ones are not counted.
      labels: regions of the picture, -1 or less for none. The last layer's
        masks are snapped to them first (`pooling.snap`), and have the finer
        resolution of both. They stand in for `regions` too.
      masks_every: of so many pictures only one, the first, gets masks; the
        outputs with an axis n then have that many rows fewer. Needs `regions`,
        and a `pool_feature` that does without the backbone.
    """
    h, w = image.shape[1:3]
    if h % backbones.LARGEST_STRIDE or w % backbones.LARGEST_STRIDE:
      raise errors.InputError(
        f"image size {h}x{w} is not a multiple of {backbones.LARGEST_STRIDE}"
      )
    pixels = normalize_pixels(image, self.dtype)
    some = slice(None, None, masks_every)
    rngs = None if rngs is None else rngs.fork(some)
    levels = self.backbone(
      pixels[some],
      train=train,
      rngs=rngs,
      valid=None if valid is None else valid[some],
    )
    masks = self.maskformer(levels, train=train, rngs=rngs)
    mask_logits = masks.mask_logits
    logits = jax.lax.stop_gradient(mask_logits[-1])
    snapped = logits
    if labels is not None:
      snapped = pooling.snap(logits, labels, self.regions)
      mask_logits = snapped[None]
    owned = pooling.owned_pixels(logits)
    if self.query_embedding == "decoder":
      features = masks.query_features
    else:
      maps: dict[str, tuple[Array, ...]]
      maps = {name: (value,) for name, value in levels.items()}
      maps["pixel"] = (masks.pixel_features,)
      words: dict[str, tuple[Array, ...]] = {}  # of all pictures
      if "stem" in self.pool_feature.split("+"):
        words["stem"] = tuple(self.stem(pixels).values())
        maps["stem"] = tuple(value[some] for value in words["stem"])
      shares = {
        "soft": lambda: jax.nn.sigmoid(logits),
        "hard": lambda: owned,
        "pseudo": lambda: pooling.visible(
          snapped, (h // self.pool_stride, w // self.pool_stride)
        ),
      }[self.pool_masks]()
      features = self._describe(maps, shares)
    counts = jnp.ones(owned.shape[:2])  # [b, n]
    if self.counted_queries == "owners":
      counts = owned.any((2, 3)).astype(jnp.float32)

    # What the picture is embedded from: queries, or what stands in for them.
    parts = features
    by_regions = (
      self.query_embedding == "mask_pooled" and self.pool_masks == "pseudo"
    )
    if by_regions and regions is None and labels is not None:
      one = labels[:, None] == jnp.arange(self.regions)[None, :, None, None]
      regions = pooling.region_shares(
        labels, one.any((2, 3)), (h, w), self.pool_stride
      )
    if by_regions and regions is not None:
      parts = self._describe(maps | words, regions)
      counts = regions.any((2, 3)).astype(jnp.float32)
    return ImageFeatures(mask_logits, features, parts, counts)

  def embed_image(
    self,
    features: ImageFeatures,
    *,
    train: bool = False,
    valid: Bool[Array, "b"] | None = None,
  ) -> ImageOutputs:
    """Projects what `image_features` gives; `train` and `valid` as there."""
    queries = features.query_features
    of_parts, pooled = self.embed_parts(
      features.part_features, features.counts, train=train, valid=valid
    )
    each = of_parts
    if features.part_features is not queries:
      each = self._project(queries)
    return ImageOutputs(features.mask_logits, queries, each, of_parts, pooled)

  def embed_parts(
    self,
    parts: Float[Array, "b k d"],
    counts: Float[Array, "b k"],
    *,
    train: bool = False,
    valid: Bool[Array, "b"] | None = None,
  ) -> tuple[Float[Array, "b k e"], Float[Array, "b e"]]:
    """Projects the parts of pictures, and embeds the pictures by their mean.

    Args:
      parts: what a picture is embedded from (`ImageFeatures.part_features`).
      counts: 1 for the parts that the mean counts, else 0.
      train: the projection's batch norm takes the batch's statistics.
      valid: the pictures that count for these; None for all.
    """
    if self.mean == "before":
      # §3.5: "a single feature … by taking the average", then the projection.
      # The statistics of a batch norm come from the average, as in GroupViT.
      mean = _weighted_mean(parts.astype(jnp.float32), counts)
      pooled = self._project(mean, train=train, valid=valid)
      return self._project(parts), pooled
    embedded = self._project(parts, train=train, valid=valid)
    units = unit(embedded) if self.normalize_queries else embedded
    return embedded, _weighted_mean(units, counts)

  def _project(self, x: Array, **how: Any) -> Array:
    return self.image_projection(x, **how).astype(jnp.float32)

  def _describe(
    self, maps: dict[str, tuple[Array, ...]], shares: Float[Array, "b n H W"]
  ) -> Float[Array, "b n d"]:
    """Returns what masks are embedded from: features under them, outlines."""
    parts = [
      pooling.pool_under_masks(value, shares)
      for level in self.pool_feature.split("+")
      for value in maps[level]
    ]
    if self.pool_outline:
      parts.append(pooling.outline(shares).astype(parts[0].dtype))
    if self.pool_place:
      parts.append(pooling.place(shares).astype(parts[0].dtype))
    described = jnp.concatenate(parts, -1)
    return self.region(described) if self.region_hidden else described

  def encode_text(
    self,
    tokens: Int[Array, "b l"],
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
    valid: Bool[Array, "b"] | None = None,
  ) -> Float[Array, "b e"]:
    """Embeds token ids, as `tokenizer.Tokenizer` gives them; float32.

    `train`, `rngs` and `valid` as in `image_features`.
    """
    features = self.text(tokens, train=train, rngs=rngs)
    return self.embed_text(features, train=train, valid=valid)

  def embed_text(
    self,
    features: Float[Array, "b d"],
    *,
    train: bool = False,
    valid: Bool[Array, "b"] | None = None,
  ) -> Float[Array, "b e"]:
    """Projects the text tower's features (`self.text`); float32."""
    projected = self.text_projection(features, train=train, valid=valid)
    return projected.astype(jnp.float32)


def split(model: SSeg) -> tuple[nnx.GraphDef, Variables, Variables]:
  """Returns the static structure, parameters, and statistics of `model`."""
  parts: Any = nnx.split(model, nnx.Param, ...)
  graphdef, params, rest = parts
  return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(rest)


def build(
  config: Any, mesh: Mesh | None = None
) -> tuple[nnx.GraphDef, Variables, Variables]:
  """Returns the structure, and shapes in place of parameters and statistics.

  Args:
    config: fields as in `default_config.py`.
    mesh: of TPUs, over which batches are split, for kernels that XLA cannot
      divide among them; None uses none.
  """
  model = nnx.eval_shape(lambda: SSeg(config, rngs=nnx.Rngs(0)))
  if mesh is not None:
    swin.use_kernels(model, mesh)
  return split(model)


def init(config: Any, seed: int) -> tuple[Variables, Variables]:
  """Returns random parameters and initial statistics, nested dictionaries."""

  def make(key):
    return split(SSeg(config, rngs=nnx.Rngs(params=key)))[1:]

  return jax.jit(make)(jax.random.key(seed))


def apply_image(
  graphdef: nnx.GraphDef,
  params: Variables,
  model_state: Variables,
  image: Array,
  labels: Array | None = None,
) -> ImageOutputs:
  """`SSeg.encode_image` in evaluation, as a pure function."""
  model = nnx.merge(graphdef, params, model_state)
  return model.encode_image(image, labels=labels)


def apply_text(
  graphdef: nnx.GraphDef,
  params: Variables,
  model_state: Variables,
  tokens: Array,
) -> Array:
  """`SSeg.encode_text` in evaluation, as a pure function."""
  return nnx.merge(graphdef, params, model_state).encode_text(tokens)
