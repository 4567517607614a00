"""The task with label maps: the same network learns masks and their names.

The label maps are a person's, for an upper bound, or another model's, for
self-training. Classes are recognised by the embeddings of their names, so the
network takes any words afterwards.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sseg_jax import losses, prompts, tokenizer
from sseg_jax.inference import scoring
from sseg_jax.models import pooling, query_embedding, sseg
from sseg_jax.models.dropout import ExampleRngs
from sseg_jax.tasks import fixed_classes, soft_targets, true_masks
from sseg_jax.tasks import sseg as sseg_task
from sseg_jax.tasks.task import Metrics, Setup


def frozen(config: Any, class_names: tuple[str, ...]) -> dict[str, Any]:
  """Returns the arrays of the classes, which are never trained.

  Args:
    config: fields as in `default_config.py`.
    class_names: the name of each label, "background" first or nowhere.

  Returns:
    `class_tokens`, int32 [c,l]: a sentence for each name but "background".
    `class_targets`, float32 [labels,c]: for each label the probabilities that
    the classes should have (`_targets`).
  """
  names, has_background = class_names, False
  if class_names:
    names, has_background = prompts.without_background(
      class_names, "data.classes"
    )
  tokenize = tokenizer.Tokenizer(config.text.context_length)
  tokens = tokenize([f"a photo of a {name}." for name in names])
  targets = _targets(len(names), has_background)
  return {"class_tokens": tokens, "class_targets": targets}


def _targets(classes: int, has_background: bool) -> np.ndarray:
  """Returns the wanted probabilities of each label, float32 [labels,c].

  A class has one of its own. Background has no word: all classes shall be
  equally unlikely there, so that a threshold tells it from them (Dhamija et
  al. 2018, "Reducing network agnostophobia", entropic open-set loss).
  """
  targets = np.eye(classes, dtype=np.float32)
  if has_background:
    row = np.full((1, classes), 1 / max(1, classes), np.float32)
    targets = np.concatenate([row, targets])
  return targets


def step_loss(
  setup: Setup,
  model: Any,
  frozen: dict[str, Any],
  batch: dict[str, Array],
  key: Array,
) -> tuple[Float[Array, ""], Metrics]:
  """Returns `loss` with the arguments that every task gets (`task.Task`).

  A network with a fixed list of classes has a loss of its own.
  """
  if setup.config.model.head != "text":
    return fixed_classes.loss(setup.config, model, batch, key)
  regions = None
  if setup.config.loss.label_regions == "pseudo_masks":
    regions = sseg_task.pseudo_mask_labels(setup, frozen, batch)
  classes = frozen["class_tokens"], frozen["class_targets"]
  return loss(setup.config, model, classes, batch, key, regions)


def loss(
  config: Any,
  model: sseg.SSeg,
  classes: tuple[Int[Array, "c l"], Float[Array, "labels c"]],
  batch: dict[str, Array],
  key: Array,
  regions: tuple[Int[Array, "b y x"], Bool[Array, "b k"]] | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
  """Returns the weighted loss of true masks and true words, and metrics.

  There is one mask for each class in a picture, or each of the `regions` is
  one. Masks are matched as pseudo-masks are. Words are learned in one of two
  ways. With `model.pool_masks="pseudo"`, where the paper's task embeds
  pseudo-masks, these masks are embedded, and the loss is the cross-entropy of
  each mask's class. Otherwise the loss is the cross-entropy of each pixel's
  class, from the scores that inference uses (the "mean" combiner). So only the
  source of the masks and words differs from the paper's task. Ignored pixels
  have no cross-entropy; where classes are masks they belong to none, as in
  MaskFormer.

  Args:
    config: fields as in `default_config.py`.
    model: the network; its batch statistics are updated.
    classes: `class_tokens` and `class_targets` of `frozen`.
    batch: as in `train_step.train_step`, with "labels", int32 [b,h,w]. With
      "soft_labels", uint8 [b,p,h,w], the cross-entropy is that of all classes
      that a pixel, or the pixels of a mask, may have; masks stay as they are.
    key: random key of dropout.
    regions: label maps of pseudo-masks, and which of them exist
      (`loss.label_regions`). Each is named by the label of most of its pixels.
      One without a known label is not learned.
  """
  class_tokens, targets = (jnp.asarray(array) for array in classes)
  weights, k = config.loss, config.pseudo_masks.k
  masks, exists, shares = _learned(batch, len(targets), k, regions)
  counted = exists & batch["valid"][:, None]

  by_regions = query_embedding.by_regions(config.model)
  shown = None
  _, h, w, _ = batch["image"].shape
  if by_regions:
    stride = config.model.pool_stride
    shown = pooling.region_shares(masks, exists, (h, w), stride)
  every = weights.mask_every if by_regions else 1
  image_key, text_key = jax.random.split(key)
  image = model.encode_image(
    batch["image"],
    train=True,
    rngs=ExampleRngs.from_ids(image_key, batch["id"]),
    valid=batch["valid"],
    regions=shown,
    masks_every=every,
  )
  if config.text.frozen:
    text = jax.lax.stop_gradient(model.encode_text(class_tokens))
  else:
    text = model.encode_text(
      class_tokens,
      train=True,
      rngs=ExampleRngs.from_ids(text_key, jnp.arange(len(class_tokens))),
    )
  mask, metrics = losses.mask_loss(
    image.mask_logits,
    masks[::every],
    counted[::every],
    dice_weight=weights.dice,
    focal_weight=weights.focal,
    k=k,
    size=(h // weights.mask_stride, w // weights.mask_stride),
  )
  class_probabilities = functools.partial(
    scoring.class_probabilities,
    class_embeddings=scoring.class_embeddings(text, len(class_tokens)),
    logit_scale=model.logit_scale[...],
    max_logit_scale=weights.max_logit_scale,
  )
  if by_regions:
    name = "loss/region"
    wanted = jnp.einsum("bkl,lc->bkc", shares, targets, precision="highest")
    words = _region_loss(class_probabilities, image, wanted, counted)
  else:
    name = "loss/pixel"
    words = _pixel_loss(class_probabilities, image, batch, targets)
  total = weights.mask * mask + weights.contrastive * words
  return total, metrics | {"loss/mask": mask, name: words}


def _learned(
  batch: dict[str, Array],
  count: int,
  k: int,
  regions: tuple[Array, Array] | None,
) -> tuple[Int[Array, "b y x"], Bool[Array, "b k"], Float[Array, "b k labels"]]:
  """Returns label maps of masks, which of them exist, and what they are.

  That is how likely each of `count` labels is. Other arguments are `loss`'s.
  """
  labels, planes = batch["labels"], batch.get("soft_labels")
  if regions is None:
    masks = true_masks.of(labels, count, k)
    if planes is None:
      shares = jax.nn.one_hot(true_masks.names(masks.present, k), count)
    else:
      shares = soft_targets.of_masks(masks.labels, labels, planes, k, count)
    return masks.labels, masks.exists, shares
  maps, present = regions
  known = true_masks.known(labels, count)
  fine = losses.resize_labels(maps, (labels.shape[1], labels.shape[2]))
  fine, names = jnp.where(known, fine, k), jnp.where(known, labels, 0)
  shares = soft_targets.of_masks(fine, names, planes, k, count)
  exists = present & (shares > 0).any(-1)
  if planes is None:
    shares = jax.nn.one_hot(shares.argmax(-1), count)
  return maps, exists, shares


def _region_loss(
  class_probabilities: Callable[[Array], Array],
  image: sseg.ImageOutputs,
  wanted: Array,
  counted: Array,
) -> Array:
  """Returns the cross-entropy of each mask's class, the mean over masks."""
  # Set to 0 before the logarithm: a NaN would reach every gradient.
  parts = jnp.where(counted[..., None], image.part_embeddings, 0)
  log_p = _log(class_probabilities(parts))  # [b, k, c]
  each = -(wanted * log_p).sum(-1)
  return (each * counted).sum() / jnp.maximum(1, counted.sum())


def _pixel_loss(
  class_probabilities: Callable[[Array], Array],
  image: sseg.ImageOutputs,
  batch: dict[str, Array],
  targets: Array,
) -> Array:
  """Returns the cross-entropy of each pixel's class, the mean over pixels."""
  labels, valid = batch["labels"], batch["valid"][:, None, None]
  queries = jnp.where(valid, image.query_embeddings, 0)
  mask_logits = jnp.where(valid[..., None], image.mask_logits[-1], 0)
  probabilities = class_probabilities(queries)
  scores = scoring.combine(mask_logits, probabilities, "mean")
  _, h, w, _ = scores.shape  # [b, h/4, w/4, c]
  small = jnp.where(true_masks.known(labels, len(targets)), labels, -1)
  small = losses.resize_labels(small, (h, w))
  seen = (small >= 0) & valid
  log_p, planes = _log(scores), batch.get("soft_labels")
  if planes is not None:
    planes = losses.resize_labels(planes, (h, w))
  each = soft_targets.expected(
    jnp.maximum(small, 0), planes, lambda name: -(targets[name] * log_p).sum(-1)
  )
  return (each * seen).sum() / jnp.maximum(1, seen.sum())


def _log(probabilities: Array) -> Array:
  return jnp.log(jnp.clip(probabilities, 1e-6, 1.0))
