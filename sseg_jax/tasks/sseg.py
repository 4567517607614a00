"""The paper's task: masks from clusters, words from captions.

On a first read, go straight to `loss`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sseg_jax import contrastive, losses, region_words, word_bags
from sseg_jax.models import pooling, query_embedding, sseg, teacher
from sseg_jax.models.dropout import ExampleRngs
from sseg_jax.pseudo_masks import eye
from sseg_jax.tasks.task import Metrics, Setup


def pseudo_mask_labels(
  setup: Setup, frozen: dict[str, Any], batch: dict[str, Array]
) -> tuple[Array, Array]:
  """Returns label maps int32 [b,h/s,w/s] and which masks exist, bool [b,k].

  The clusters of a picture depend only on the picture, its id and the seed.
  """
  config = setup.config
  if config.pseudo_masks.mode == "cached":
    labels = batch["pseudo_labels"]
    return labels, _present(labels, config.pseudo_masks.k)
  image = batch.get("teacher_image", batch["image"])
  labels, present = setup.generator.generate(
    frozen["pseudo_masks"], image, keys_of(setup, batch)
  )
  return jax.lax.stop_gradient(labels), present


def _present(labels: Array, k: int) -> Array:
  """Returns which of k masks occur in label maps, bool [b, k]."""
  masks = labels[:, None] == jnp.arange(k)[None, :, None, None]
  return masks.any((2, 3))


class Features(NamedTuple):
  """What the towers compute for each pair, for the contrastive loss.

  Attributes:
    parts, counts: `sseg.ImageFeatures.part_features` and `.counts`.
    text: output of the text tower before the projection: [b, d], or of each
      word [b, w, d]. Of words that stand for themselves alone (`_is_bag`), only
      their ids, float32 [b, w].
    words: float32 [b, w], 1 for words that exist, else 0; None where texts
      have no words.
  """

  parts: Array
  counts: Array
  text: Array
  words: Array | None = None


def towers(
  setup: Setup,
  model: sseg.SSeg,
  batch: dict[str, Array],
  labels: Array,
  present: Array,
  key: Array,
  count: Array | None = None,
) -> tuple[tuple[Features, Array], Metrics]:
  """Returns each pair's features and the weighted mask loss, and metrics.

  `labels` and `present` come from `pseudo_mask_labels`. `count` is the number
  of valid masks in the whole batch, if `batch` is only a part of it
  (`losses.mask_loss`).
  """
  config, weights = setup.config, setup.config.loss
  valid, every = batch["valid"], weights.mask_every
  _, h, w, _ = batch["image"].shape
  regions = None
  if query_embedding.by_regions(config.model):
    stride = config.model.pool_stride
    regions = pooling.region_shares(labels, present, (h, w), stride)
  image_key, text_key = jax.random.split(key)
  image = model.image_features(
    batch["image"],
    train=True,
    rngs=ExampleRngs.from_ids(image_key, batch["id"]),
    valid=valid,
    regions=regions,
    masks_every=every,
  )
  text, words = _texts(model, batch, text_key)
  features = Features(image.part_features, image.counts, text, words)
  if config.model.query_embedding == "segments":  # learns no masks
    return (features, jnp.zeros(())), {}
  counted = (present & valid[:, None])[::every]
  mask, metrics = _mask_loss(
    setup, image.mask_logits, labels[::every], counted, (h, w), count
  )
  return (features, weights.mask * mask), metrics


def _with_eye(
  setup: Setup, model: sseg.SSeg, batch: dict[str, Array], key: Array
) -> tuple[tuple[Features, Array], Metrics]:
  """Returns what `towers` does, of regions that a frozen eye sees."""
  image_key, text_key = jax.random.split(key)
  rngs = ExampleRngs.from_ids(image_key, batch["id"])
  seen, labels = regions_seen(setup, model, batch)
  image = model.region_features(
    seen, train=True, rngs=rngs, valid=batch["valid"]
  )
  text, words = _texts(model, batch, text_key)
  features = Features(image.part_features, image.counts, text, words)
  if model.teacher_masks is None:
    return (features, jnp.zeros(())), {}
  assert labels is not None, "batches have labels where masks are learned"
  some = slice(None, None, setup.config.loss.mask_every)
  labels, tokens = labels[some], seen.tokens
  if tokens is None:  # the features of all pictures are stored
    assert model.teacher is not None and isinstance(setup.generator, eye.Eye)
    pictures = batch.get("teacher_image", batch["image"])[some]
    tokens = setup.generator.tokens_of(model.teacher.arrays(), pictures)
    tokens = jax.lax.stop_gradient(tokens)
  else:
    tokens = tokens[some]
  logits = model.teacher_masks(tokens, train=True, rngs=rngs.fork(some))
  counted = _present(labels, setup.config.pseudo_masks.k)
  counted &= batch["valid"][some, None]
  size = setup.config.image_size
  mask, metrics = _mask_loss(setup, logits, labels, counted, (size, size))
  return (features, setup.config.loss.mask * mask), metrics


def _mask_loss(
  setup: Setup,
  logits: Array,
  labels: Array,
  counted: Array,
  size: tuple[int, int],
  count: Array | None = None,
) -> tuple[Array, Metrics]:
  """Returns `losses.mask_loss` of pictures of a `size`, and metrics."""
  weights = setup.config.loss
  mask, metrics = losses.mask_loss(
    logits,
    labels,
    counted,
    dice_weight=weights.dice,
    focal_weight=weights.focal,
    k=setup.config.pseudo_masks.k,
    size=(size[0] // weights.mask_stride, size[1] // weights.mask_stride),
    count=count,
  )
  return mask, metrics | {"loss/mask": mask}


def _texts(
  model: sseg.SSeg, batch: dict[str, Array], key: Array
) -> tuple[Array, Array | None]:
  """Returns `Features.text` and `.words` of a batch."""
  if _is_bag(model):
    ids, exist = model.text.word_ids(batch["text"], model.max_words)
    return ids.astype(jnp.float32), exist.astype(jnp.float32)
  text, words = model.text_features(
    batch["text"],
    train=True,
    rngs=ExampleRngs.from_ids(key, batch["id"]),
  )
  return text, None if words is None else words.astype(jnp.float32)


def _is_bag(model: sseg.SSeg) -> bool:
  """Whether texts are bags of words, each embedded without the others."""
  return model.form == "words" and model.text.is_bag


def regions_seen(
  setup: Setup, model: sseg.SSeg, batch: dict[str, Array]
) -> tuple[teacher.Regions, Array | None]:
  """Returns the regions of a batch, and the labels of the first clustering.

  They are from the records, or seen now. Labels in records are None where
  nothing learns masks.
  """
  if setup.config.pseudo_masks.mode == "cached":
    features = batch["region_features"].astype(jnp.float32)
    # The features of a region that does not exist are stored as zeros.
    exist = (features != 0).any(-1)
    nothing = jnp.zeros((*features.shape[:2], 1, 1))
    labels = batch.get("pseudo_labels")
    return teacher.Regions(nothing, features, exist), labels
  assert model.teacher is not None and isinstance(setup.generator, eye.Eye)
  trained = None
  if model.teacher_tail is not None:
    trained = nnx.to_pure_dict(nnx.state(model.teacher_tail))
  labels, seen = setup.generator.look(
    model.teacher.arrays(),
    batch.get("teacher_image", batch["image"]),
    keys_of(setup, batch),
    trained,
  )
  return seen, labels


def keys_of(setup: Setup, batch: dict[str, Array]) -> Array:
  """Returns a random key for each picture, from its id and the seed."""
  key = jax.random.key(setup.config.seed)
  return jax.vmap(lambda i: jax.random.fold_in(key, i))(batch["id"])


def compare(
  setup: Setup, model: sseg.SSeg, features: Features, valid: Array
) -> tuple[Array, Metrics]:
  """Returns the weighted losses of captions of a whole batch, and metrics."""
  weights = setup.config.loss
  each, image = model.embed_parts(
    features.parts, features.counts, train=True, valid=valid
  )
  how: dict[str, Any] = dict(
    max_logit_scale=weights.max_logit_scale,
    block=weights.contrastive_block,
    mesh=setup.mesh,
  )
  scale = model.logit_scale[...]
  if weights.contrastive_form == "global":
    text = model.embed_text(features.text, train=True, valid=valid)
    loss, metrics = contrastive.contrastive(image, text, scale, valid, **how)
  else:
    pictures = contrastive.Pictures(each, features.counts > 0)
    heads = setup.config.model.proj_heads

    def of_regions(captions, vocabulary=None):
      loss, metrics = contrastive.of_regions(
        pictures,
        captions,
        scale,
        valid,
        form=weights.contrastive_form,
        sharpness=weights.sharpness,
        heads=heads,
        **how,
      )
      if weights.region_words:
        metrics["loss/region_words"] = region_words.regions_to_words(
          *(pictures, vocabulary, scale, valid),
          q=weights.region_words_q,
          heads=heads,
          **how,
        )
      return loss, metrics

    loss, metrics = _of_captions(setup, model, features, valid, of_regions)
  total = weights.contrastive * loss
  if weights.region_words:
    total += weights.region_words * metrics["loss/region_words"]
  return total, metrics | {"loss/contrastive": loss}


def _of_captions(
  setup: Setup,
  model: sseg.SSeg,
  features: Features,
  valid: Array,
  of_regions: Callable[..., tuple[Array, Metrics]],
) -> tuple[Array, Metrics]:
  """Returns `of_regions` of the captions.

  In a bag of words each different word is embedded and compared once, if a
  batch has at most a quarter as many of them as places.
  """

  def of_captions(text):  # embeddings [b, w, e], or [b, e]
    words = features.words
    if words is None:  # a caption is compared as a whole
      text, words = text[:, None], jnp.ones((len(text), 1))
    return of_regions(contrastive.Captions(text, words > 0))

  def whole(text):  # the same before the projection
    return of_captions(model.embed_text(text, train=True, valid=valid))

  if not _is_bag(model):
    return whole(features.text)
  assert features.words is not None
  ids, stands = features.text.astype(jnp.int32), features.words > 0
  config = setup.config
  if config.model.proj_norm == "bn":  # counts words as often as they stand
    return whole(model.text.of_ids(ids))
  exist = stands & valid[:, None]

  def once(most, found):
    different, places, _ = found
    text = model.embed_text(model.text.of_ids(different), train=True)
    shares = word_bags.shares(places, exist, most)
    vocabulary = contrastive.Vocabulary(text, shares)
    captions: contrastive.Captions | contrastive.Vocabulary = vocabulary
    if config.loss.contrastive_block:  # of captions
      each = text[jnp.minimum(places, most - 1)]
      captions = contrastive.Captions(each, stands)
    return of_regions(captions, vocabulary)

  def otherwise():
    if config.loss.region_words:  # needs to know which words are the same
      return once(ids.size, word_bags.different(ids, exist, ids.size))
    return whole(model.text.of_ids(ids))

  most = ids.size // 4
  few = word_bags.different(ids, exist, most)
  return jax.lax.cond(few[2], lambda: once(most, few), otherwise)


def loss(
  setup: Setup,
  model: sseg.SSeg,
  frozen: dict[str, Any],
  batch: dict[str, Array],
  key: Array,
) -> tuple[Float[Array, ""], Metrics]:
  """Returns Eq. 4: weighted mask loss plus weighted contrastive loss.

  A model with a frozen eye has a mask loss with `model.teacher_masks` alone.
  """
  if teacher.is_eye(setup.config):
    (features, mask), metrics = _with_eye(setup, model, batch, key)
  else:
    labels, present = pseudo_mask_labels(setup, frozen, batch)
    (features, mask), metrics = towers(
      setup, model, batch, labels, present, key
    )
  contrastive, more = compare(setup, model, features, batch["valid"])
  return mask + contrastive, metrics | more
