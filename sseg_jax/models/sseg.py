"""S-Seg: MaskFormer and a text transformer in one embedding space (§3).

On a first read, go to `SSeg.image_features`. The functions below are the
boundary to plain JAX: parameters and statistics as nested dictionaries.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from sseg_jax import errors
from sseg_jax.models import (
  backbones,
  fields,
  fixed_classes,
  image_tower,
  pooling,
  query_embedding,
  swin_attention,
  teacher,
  text,
)
from sseg_jax.models.described import Seen
from sseg_jax.models.dropout import ExampleRngs
from sseg_jax.models.keys import parameter_keys
from sseg_jax.models.layers import Projection, normalize_pixels, unit
from sseg_jax.models.outputs import ImageFeatures, ImageOutputs

Variables = dict[Any, Any]  # nested dictionaries of arrays


class SSeg(nnx.Module):
  """The model: image tower, text tower, two projections, a logit scale.

  `image_tower.Tower` says what the image tower has.
  """

  def __init__(self, config: Any, *, rngs: nnx.Rngs):
    """Builds the network from random weights.

    Args:
      config: fields as in `default_config.py`.
      rngs: the stream `params`.

    Raises:
      InputError: if a field has a value that makes no network (`fields`).
    """
    fields.check(config)
    c = config.model
    dtype = jnp.dtype(config.dtype)
    self.dtype = dtype
    self.embedding = query_embedding.build(config)
    self.regions = config.pseudo_masks.k
    tower = image_tower.build(config, self.embedding, rngs=rngs)
    self.backbone, self.maskformer = tower.backbone, tower.maskformer
    self.stem, self.region = tower.stem, tower.region
    self.teacher, self.region_input = tower.eye, tower.region_input
    self.teacher_masks, self.teacher_tail = tower.teacher_masks, tower.tail
    projection = functools.partial(
      Projection,
      hidden=c.proj_hidden,
      d_out=c.embed_dim,
      norm=c.proj_norm,
      heads=c.proj_heads,
      dtype=dtype,
      rngs=rngs,
    )
    self.image_projection = projection(tower.width)
    self.form = config.loss.contrastive_form
    self.max_words = config.loss.max_words
    self.text = text.build(config, dtype=dtype, rngs=rngs)
    self.text_projection = projection(config.text.width)
    self.logit_scale = nnx.Param(
      jnp.asarray(-math.log(config.loss.init_temperature), jnp.float32)
    )

  def encode_image(
    self,
    image: Any,
    *,
    train: bool = False,
    valid: Bool[Array, "b"] | None = None,
    seen: teacher.Regions | None = None,
    **how: Any,
  ) -> ImageOutputs:
    """Returns n masks, an embedding of each, and one of the picture.

    Calls `image_features`, which has the same arguments, or with an eye
    `region_features`, which takes `seen`; then `embed_image`.
    """
    if seen is not None:
      features = self.region_features(seen, train=train, valid=valid, **how)
    else:
      features = self.image_features(image, train=train, valid=valid, **how)
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
    """Returns n masks, and features to embed them and the picture from.

    Pictures depend on each other through a backbone's batch norm alone.

    Args:
      image: RGB in 0..255, [b, h, w, 3]; sides are multiples of 32.
      train: dropout, batch statistics and the masks of every decoder layer.
      rngs: of the pictures; needed if `train`.
      valid: the pictures that count for batch statistics; None for all.
      regions: the share, in [0, 1], that each region has of each cell of
        `pool_stride` pixels. If `query_embedding.by_regions`, the picture is
        embedded from them and not from the queries; empty ones do not count.
      labels: regions of the picture as a map, -1 or less for none. The last
        layer's masks are snapped to them (`pooling.snap`), at the finer of both
        resolutions. Used as `regions` too, if those are not given.
      masks_every: the first of every so many pictures gets masks: outputs with
        an axis n have b / masks_every rows. Needs `regions` of level "stem".
    """
    h, w = image.shape[1:3]
    if h % backbones.LARGEST_STRIDE or w % backbones.LARGEST_STRIDE:
      raise errors.InputError(
        f"image size {h}x{w} is not a multiple of {backbones.LARGEST_STRIDE}"
      )
    pixels = normalize_pixels(image, self.dtype)
    some = slice(None, None, masks_every)
    rngs = rngs and rngs.fork(some)
    levels = self.backbone(
      pixels[some],
      train=train,
      rngs=rngs,
      valid=None if valid is None else valid[some],
    )
    if isinstance(self.embedding, query_embedding.Segments):
      return self.embedding.of(pixels, levels, regions, labels)
    masks = self.maskformer(levels, train=train, rngs=rngs)
    mask_logits = masks.mask_logits
    snapped = logits = jax.lax.stop_gradient(mask_logits[-1])
    if labels is not None:
      snapped = pooling.snap(logits, labels, self.regions)
      mask_logits = snapped[None]
    seen = Seen(pixels, labels, levels, masks, logits, snapped, masks_every)
    found = self.embedding.features(seen, regions, self.stem, self.region)
    mask_logits = mask_logits if train else found.masks(mask_logits)
    return ImageFeatures(mask_logits, *found[:3])

  def region_features(
    self,
    seen: teacher.Regions,
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
    valid: Bool[Array, "b"] | None = None,
  ) -> ImageFeatures:
    """Returns the same as `image_features` of what an eye saw.

    Regions are the parts of a picture, and its queries too, unless `seen`, from
    `pseudo_masks.eye`, has tokens for `teacher_masks` to decode at test.
    """
    assert self.region_input is not None, "a model without an eye"
    counted = seen.exist if valid is None else seen.exist & valid[:, None]
    features = self.region_input(
      seen.features, counted, train=train, rngs=rngs
    ).astype(self.dtype)
    counts = seen.exist.astype(jnp.float32)
    if self.teacher_masks is None or seen.tokens is None or train:
      return ImageFeatures(seen.mask_logits[None], features, features, counts)
    own = self.teacher_masks.regions_of(seen)
    queries = self.region_input(own.features, own.exist).astype(self.dtype)
    return ImageFeatures(own.mask_logits[None], queries, features, counts)

  def embed_image(
    self,
    features: ImageFeatures,
    *,
    train: bool = False,
    valid: Bool[Array, "b"] | None = None,
  ) -> ImageOutputs:
    """Projects the result of `image_features`; `train` and `valid` as there."""
    queries = features.query_features
    of_parts, pooled = self.embed_parts(
      features.part_features, features.counts, train=train, valid=valid
    )
    same = features.part_features is queries
    each = of_parts if same else self._project(queries)
    return ImageOutputs(
      features.mask_logits, queries, each, of_parts, pooled, features.counts
    )

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
      parts: `ImageFeatures.part_features`.
      counts: 1 for the parts that the mean counts, else 0.
      train: the projection's batch norm takes the batch's statistics.
      valid: the pictures that count for these; None for all.
    """
    return self.embedding.embed(
      self._project, parts, counts, train=train, valid=valid
    )

  def _project(
    self, x: Array, *, train: bool = False, valid: Array | None = None
  ) -> Array:
    projected = self.image_projection(x, train=train, valid=valid)
    return projected.astype(jnp.float32)

  def encode_text(
    self,
    tokens: Int[Array, "b l"],
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
    valid: Bool[Array, "b"] | None = None,
  ) -> Float[Array, "b e"]:
    """Embeds token ids, as `tokenizer.Tokenizer` gives them; float32.

    With the form "words" it is the mean of the words' embeddings, each of unit
    length. `train`, `rngs` and `valid` as in `image_features`.
    """
    features, words = self.text_features(tokens, train=train, rngs=rngs)
    embedded = self.embed_text(features, train=train, valid=valid)
    if words is None:
      return embedded
    return query_embedding.mean_of(unit(embedded), words.astype(jnp.float32))

  def text_features(
    self,
    tokens: Int[Array, "b l"],
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
  ) -> tuple[Float[Array, "b *w d"], Bool[Array, "b w"] | None]:
    """Returns what the contrastive loss compares of texts, not projected.

    That is one feature of each text and None; with the form "words" features
    of its words, and which exist.
    """
    if self.form == "words":
      return self.text.words(tokens, self.max_words, train=train, rngs=rngs)
    return self.text(tokens, train=train, rngs=rngs), None

  def embed_text(
    self,
    features: Float[Array, "b *w d"],
    *,
    train: bool = False,
    valid: Bool[Array, "b"] | None = None,
  ) -> Float[Array, "b *w e"]:
    """Projects the text tower's features (`self.text`); float32."""
    projected = self.text_projection(features, train=train, valid=valid)
    return projected.astype(jnp.float32)


def split(model: nnx.Module) -> tuple[nnx.GraphDef, Variables, Variables]:
  """Returns the static structure, parameters, and statistics of `model`."""
  parts: Any = nnx.split(model, nnx.Param, ...)
  graphdef, params, rest = parts
  return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(rest)


def build(
  config: Any, mesh: Mesh | None = None
) -> tuple[nnx.GraphDef, Variables, Variables]:
  """Returns the structure, and shapes of the parameters and the statistics.

  Args:
    config: fields as in `default_config.py`.
    mesh: TPUs over which batches are split, to use kernels that XLA cannot
      divide among devices by itself; None uses no such kernel.
  """
  network = fixed_classes.network(config) or SSeg
  model = nnx.eval_shape(lambda: network(config, rngs=parameter_keys(0)))
  if mesh is not None:
    swin_attention.use_kernels(model, mesh)
  return split(model)


def init(config: Any, seed: int) -> tuple[Variables, Variables]:
  """Returns random parameters and initial statistics, nested dictionaries."""
  network = fixed_classes.network(config) or SSeg

  def make(key):
    return split(network(config, rngs=parameter_keys(key)))[1:]

  return jax.jit(make)(jax.random.key(seed))


def apply_image(
  graphdef: nnx.GraphDef,
  params: Variables,
  model_state: Variables,
  image: Array,
  labels: Array | None = None,
  *,
  seen: teacher.Regions | None = None,
) -> ImageOutputs:
  """`SSeg.encode_image` in evaluation, as a pure function."""
  model = nnx.merge(graphdef, params, model_state)
  if seen is not None:
    return model.encode_image(None, seen=seen)
  return model.encode_image(image, labels=labels)


def apply_words(
  graphdef: nnx.GraphDef,
  params: Variables,
  model_state: Variables,
  tokens: Array,
) -> tuple[Array, Array]:
  """Returns embeddings of words [b, w, e] and which exist, bool [b, w].

  With another contrastive form than "words", a text is a single word.
  """
  model = nnx.merge(graphdef, params, model_state)
  features, words = model.text_features(tokens)
  embedded = model.embed_text(features)
  if words is None:
    return embedded[:, None], jnp.ones((len(tokens), 1), bool)
  return embedded, words


def apply_text(
  graphdef: nnx.GraphDef,
  params: Variables,
  model_state: Variables,
  tokens: Array,
) -> Array:
  """`SSeg.encode_text` in evaluation, as a pure function."""
  return nnx.merge(graphdef, params, model_state).encode_text(tokens)
