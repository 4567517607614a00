"""The two functions that every format holds, pure and of few arguments.

`embed_classes` is the text tower, from token ids to class embeddings.
`segment` is the rest, from a picture to scores and labels: normalisation, image
tower, class probabilities, combiner and background rule. Both take all weights
as one flat dictionary, named as in `weights.safetensors`.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sseg_jax.checkpoints import named_arrays
from sseg_jax.inference import scoring
from sseg_jax.models import sseg, teacher, teacher_tail
from sseg_jax.models.layers import resize_bilinear, unit
from sseg_jax.models.pooling import in_front
from sseg_jax.pseudo_masks import eye, generator, pixels, tokens, unrolled

Weights = Mapping[str, Any]  # arrays by name


@dataclasses.dataclass(frozen=True)
class Towers:
  """A network as two pure functions, with its weights beside it.

  Attributes:
    graphdef: static structure of the network.
    regions: what makes the regions that masks are snapped to, or the eye of a
      network that has one; else None.
    config: of the run, completed, computed in float32.
    combiner: one of `scoring.COMBINERS`.
    image_size: side of the square pictures that `segment` takes.
    weights: arrays by name: `params/…`, `model_state/…`, and `frozen/…` of the
      network that makes regions, if there is one.
    refine: one of `field_rules.REFINEMENTS`.
  """

  graphdef: Any
  regions: Any
  config: Any
  combiner: str
  image_size: int
  weights: Weights
  refine: str = "none"

  # Of `segment`.
  outputs: ClassVar[tuple[str, ...]] = ("scores", "labels")

  @property
  def width(self) -> int:
    """Length of a class embedding."""
    return self.config.model.embed_dim

  @property
  def context_length(self) -> int:
    """Numbers that stand for a word in a template."""
    return self.config.text.context_length

  @functools.cached_property
  def segment_here(self) -> Callable[..., tuple[Array, ...]]:
    """`segment` as a program for this machine, its weights given already."""
    weights = jax.device_put(dict(self.weights))
    return functools.partial(jax.jit(self.segment), weights)

  @property
  def refined(self) -> bool:
    """Whether masks are snapped to regions."""
    return self.refine == "pseudo_masks"

  def embed_classes(
    self, weights: Weights, tokens: Int[Array, "c t l"]
  ) -> Float[Array, "c e"]:
    """Returns class embeddings of unit length: the mean over t templates."""
    tree = named_arrays.nested(weights, int_keys=True)
    classes, templates, length = tokens.shape
    rows = tokens.reshape(classes * templates, length)
    each = sseg.apply_text(
      self.graphdef, tree["params"], tree.get("model_state", {}), rows
    )
    each = each.astype(jnp.float32)
    return unit(each.reshape(classes, templates, each.shape[-1]).mean(1))

  def segment(
    self,
    weights: Weights,
    images: Float[Array, "b h w 3"],
    classes: Float[Array, "c e"],
    threshold: Float[Array, ""],
  ) -> tuple[Array, ...]:
    """Returns scores [b,h,w,c] and labels int32 [b,h,w] of each pixel.

    Args:
      weights: as `self.weights`.
      images: RGB in 0..255, of `image_size`.
      classes: from `embed_classes`.
      threshold: a pixel whose best score is below it is background, label 0;
        the surest pixel of a picture never is. Words have the labels from 1
        on. With 0 every pixel has a word.
    """
    tree = named_arrays.nested(weights, int_keys=True)
    params = tree["params"]
    outputs = self._look(tree, images)
    probabilities = scoring.class_probabilities(
      outputs.query_embeddings,
      classes,
      params["logit_scale"],
      max_logit_scale=float(self.config.loss.max_logit_scale),
    )
    logits = outputs.mask_logits[-1].astype(jnp.float32)
    # As `sliding_window.assemble`, whose resize knows no unknown batch.
    logits = resize_bilinear(logits, (images.shape[1], images.shape[2]))
    scores = self._combine(logits, probabilities)
    return scores, self.labels(scores, threshold)

  def labels(
    self, scores: Float[Array, "b h w c"], threshold: Float[Array, ""]
  ) -> Int[Array, "b h w"]:
    """Returns labels by the background rule; see `segment`."""
    best = scores.max(-1)
    limit = jnp.minimum(threshold, best.max((1, 2)))[:, None, None]
    labels = jnp.argmax(scores, -1).astype(jnp.int32) + 1
    return jnp.where(best >= limit, labels, 0)

  def _look(self, tree: Any, images: Array) -> sseg.ImageOutputs:
    """As `look.Look`."""
    params, state = tree["params"], tree.get("model_state", {})
    if isinstance(self.regions, eye.Eye):
      see = functools.partial(
        self.regions.see,
        state[teacher.NAME],
        keys=None,
        trained=params.get(teacher_tail.NAME),
      )
      seen = self._one_by_one(see, images)
      return sseg.apply_image(self.graphdef, params, state, images, seen=seen)
    snap: tuple[Array, ...] = ()
    if self.regions is not None:
      snap = (self._labels(tree.get("frozen", {}), images),)
    return sseg.apply_image(self.graphdef, params, state, images, *snap)

  def _combine(self, logits: Array, probabilities: Array) -> Array:
    """As `scoring.combine`, whose look-ups ONNX takes for one picture alone."""
    if self.combiner == "hard":
      chosen = jnp.argmax(logits, axis=1)
    elif self.combiner == "smallest":
      chosen = in_front(logits)
    elif self.combiner == "mean":
      # `jax.nn.log_sigmoid` becomes NaN in ONNX from logits of some 90.
      small = jnp.log1p(jnp.exp(-jnp.abs(logits)))
      share = jax.nn.softmax(jnp.minimum(logits, 0) - small, axis=1)
      return jnp.einsum("bnhw,bnc->bhwc", share, probabilities)
    else:
      return scoring.combine(logits, probabilities, self.combiner)
    queries = jnp.arange(logits.shape[1])[None, :, None, None]
    share = (chosen[:, None] == queries).astype(jnp.float32)
    return jnp.einsum(
      "bnhw,bnc->bhwc",
      share,
      probabilities,
      precision=jax.lax.Precision.HIGHEST,
    )

  def _labels(self, frozen: Any, images: Array) -> Array:
    if isinstance(self.regions, pixels.Pixels):
      return self.regions.generate(frozen, images, None)[0]
    keys = None
    if not isinstance(self.regions, tokens.Tokens):
      keys = jax.random.key(0)[None]
    see = functools.partial(self.regions.generate, frozen, keys=keys)
    return self._one_by_one(see, images)[0]

  def _one_by_one(self, see: Callable, images: Array) -> Any:
    """Sees one picture at a time, because the batch's size is unknown."""

    def one(image):
      return jax.tree.map(lambda x: x[0], see(image[None]))

    return jax.lax.map(one, images)


def _unrolled(made: tokens.Tokens) -> tokens.Tokens:
  """Returns the same without loops, and without keys."""
  return dataclasses.replace(made, clustering=unrolled.kmeans)


def build(
  params: Any,
  model_state: Any,
  config: Any,
  *,
  combiner: str | None = None,
  image_size: int | None = None,
  refine: str | None = None,
  made: type[Towers] = Towers,
) -> Towers:
  """Returns a network as pure functions, `made`.

  The other arguments are as `SSegSegmenter`'s.
  """
  config = as_float32(config)
  refine = refine or config.evaluate.refine
  regions: Any = None
  tree = {"params": params, "model_state": model_state}
  if teacher.is_eye(config):
    regions = eye.for_pictures(config, refine)
    regions = dataclasses.replace(regions, tokens=_unrolled(regions.tokens))
  elif refine == "pseudo_masks":
    regions = generator.build(config)
    if isinstance(regions, pixels.Pixels):
      regions = dataclasses.replace(regions, cluster=unrolled.kmeans)
    elif isinstance(regions, tokens.Tokens):
      regions = _unrolled(regions)
    tree["frozen"] = regions.frozen
  weights = {k: np.asarray(v) for k, v in named_arrays.flat(tree).items()}
  return made(
    sseg.build(config)[0],
    regions,
    config,
    combiner or config.evaluate.combiner,
    int(image_size or config.evaluate.image_size),
    weights,
    refine,
  )


def as_float32(config: Any) -> Any:
  """Returns a copy that computes in float32, which every runtime can."""
  config = copy.deepcopy(config)
  with config.unlocked():
    config.dtype = "float32"
  return config
