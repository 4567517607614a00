"""The supervised losses of networks with a fixed list of classes.

Label maps are a person's or another model's. Ignored pixels have no
cross-entropy and belong to no mask.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, UInt8

from sseg_jax import losses
from sseg_jax.models import fixed_classes
from sseg_jax.models.dropout import ExampleRngs
from sseg_jax.models.layers import resize_bilinear, resize_labels
from sseg_jax.tasks import soft_targets, true_masks
from sseg_jax.tasks.task import Metrics


def loss(
  config: Any, model: Any, batch: dict[str, Array], key: Array
) -> tuple[Float[Array, ""], Metrics]:
  """Returns the weighted loss of `model.head`'s network, and metrics.

  Args:
    config: fields as in `default_config.py`.
    model: the network; its batch statistics are updated.
    batch: as in `train_step.train_step`, with "labels", int32 [b,h,w]. With
      "soft_labels", uint8 [b,p,h,w], the cross-entropy is that of all classes
      that a pixel, or the pixels of a mask, may have.
    key: random key of dropout.
  """
  outputs = model(
    batch["image"],
    train=True,
    rngs=ExampleRngs.from_ids(key, batch["id"]),
    valid=batch["valid"],
  )
  if isinstance(outputs, fixed_classes.MaskOutputs):
    return _of_masks(config, outputs, batch)
  return _of_pixels(config, outputs, batch)


def _of_masks(
  config: Any, outputs: fixed_classes.MaskOutputs, batch: dict[str, Array]
) -> tuple[Float[Array, ""], Metrics]:
  """Returns MaskFormer's loss: masks, and the class of every query.

  Classes take part in the matching by their probabilities. A query without a
  mask shall be "no object".
  Source: MaskFormer mask_former/modeling/{matcher,criterion}.py.
  """
  weights, k = config.loss, config.pseudo_masks.k
  count = len(config.data.classes)
  masks = true_masks.of(batch["labels"], count, k)
  counted = masks.exists & batch["valid"][:, None]
  names = true_masks.names(masks.present, k)  # [b, k]
  probabilities = jax.nn.softmax(outputs.class_logits, axis=-1)
  # [layers, b, n, c] at the class of each mask: [layers, b, k, n].
  of_masks = jnp.take_along_axis(
    probabilities, names[None, :, None], axis=-1
  ).swapaxes(-1, -2)
  how: dict[str, Any] = {"dice": weights.dice, "focal": weights.focal}
  index = losses.matched(
    outputs.mask_logits,
    masks.labels,
    counted,
    k=k,
    more=-weights.classes * of_masks,
    **how,
  )
  _, h, w, _ = batch["image"].shape
  mask, metrics = losses.mask_loss(
    outputs.mask_logits,
    masks.labels,
    counted,
    dice_weight=weights.dice,
    focal_weight=weights.focal,
    k=k,
    size=(h // weights.mask_stride, w // weights.mask_stride),
    index=index,
  )
  planes, shares = batch.get("soft_labels"), None
  if planes is not None:
    shares = soft_targets.of_masks(
      masks.labels, batch["labels"], planes, k, count
    )
  classes = class_loss(
    outputs.class_logits,
    jnp.where(counted, names, count),
    index,
    batch["valid"],
    weights.no_object,
    shares,
  )
  total = weights.mask * mask + weights.classes * classes
  return total, metrics | {"loss/mask": mask, "loss/class": classes}


def class_loss(
  logits: Float[Array, "layers b n _"],
  names: Int[Array, "b k"],
  index: Int[Array, "layers b k"],
  valid: Array,
  no_object: float,
  shares: Float[Array, "b k _"] | None = None,
) -> Float[Array, ""]:
  """Returns the cross-entropy of every query's class, summed over layers.

  Args:
    logits: "no object" last.
    names: the class of each mask, or that of "no object" where there is none.
    index: the query that each mask is matched with; the k of a picture differ.
    valid: bool [b], the pictures that count.
    no_object: weight of a query that shall be "no object"; others have 1. The
      mean over queries is weighted too, as torch's `cross_entropy` does.
    shares: probabilities of the classes of each mask, without "no object". They
      take the place of its one class in the cross-entropy.
  """
  layers, b, n, c = logits.shape
  rows = jnp.arange(b)[None, :, None]
  wanted = jnp.full((layers, b, n), c - 1)
  wanted = wanted.at[jnp.arange(layers)[:, None, None], rows, index].set(
    jnp.broadcast_to(names, (layers, *names.shape))
  )
  logits = jnp.where(valid[None, :, None, None], logits, 0)
  each = optax.softmax_cross_entropy_with_integer_labels(logits, wanted)
  if shares is not None:
    found = jnp.take_along_axis(logits, index[..., None], axis=2)
    log_p = jax.nn.log_softmax(found, axis=-1)[..., :-1]  # [layers, b, k, c]
    soft = -(shares[None] * log_p).sum(-1)
    chosen = jnp.where(
      names[None] == c - 1, jnp.take_along_axis(each, index, axis=2), soft
    )
    each = each.at[jnp.arange(layers)[:, None, None], rows, index].set(chosen)
  weight = jnp.where(wanted == c - 1, no_object, 1.0)
  weight = weight * valid[None, :, None]
  total = jnp.maximum(weight.sum((1, 2)), 1e-6)
  return ((each * weight).sum((1, 2)) / total).sum()


def _of_pixels(
  config: Any, outputs: Any, batch: dict[str, Array]
) -> tuple[Float[Array, ""], Metrics]:
  """Returns the class of each pixel, from UperNet's two heads or from one."""
  weights = config.loss

  def compared(logits: Array) -> Array:
    return pixel_loss(
      logits,
      batch["labels"],
      batch["valid"],
      weights.mask_stride,
      batch.get("soft_labels"),
    )

  total = compared(outputs.logits)
  metrics = {"loss/pixel": total}
  if outputs.auxiliary is not None:
    metrics["loss/auxiliary"] = compared(outputs.auxiliary)
    total += weights.auxiliary * metrics["loss/auxiliary"]
  return weights.classes * total, metrics


def pixel_loss(
  logits: Float[Array, "b y x c"],
  labels: Int[Array, "b h w"],
  valid: Array,
  stride: int,
  planes: UInt8[Array, "b p h w"] | None = None,
) -> Float[Array, ""]:
  """Returns the cross-entropy of each pixel's class, the mean over pixels.

  Logits are enlarged to the label map. Labels that are no class, as 255, and
  pictures that are not `valid` do not count. With `stride` n, every n-th pixel
  of a side is compared. With `planes` a pixel's class is not sure: see
  `soft_targets.expected`.
  """
  size = labels.shape[1] // stride, labels.shape[2] // stride
  labels = resize_labels(labels, size)
  seen = (labels >= 0) & (labels < logits.shape[-1]) & valid[:, None, None]
  logits = jnp.where(valid[:, None, None, None], logits, 0)
  large = resize_bilinear(logits.transpose(0, 3, 1, 2), size)
  large = large.transpose(0, 2, 3, 1)
  if planes is not None:
    planes = resize_labels(planes, size)
  each = soft_targets.expected(
    jnp.where(seen, labels, 0),
    planes,
    lambda names: optax.softmax_cross_entropy_with_integer_labels(large, names),
  )
  return (each * seen).sum() / jnp.maximum(1, seen.sum())
