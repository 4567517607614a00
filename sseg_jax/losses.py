"""The losses of masks (dice and focal); `contrastive` is in a file of its own.

All are computed in float32 and normalised by counts over the whole batch they
are given: under `jax.jit` with shardings that is the global batch.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sseg_jax import matching
from sseg_jax.contrastive import contrastive
from sseg_jax.models.layers import resize_bilinear, resize_labels

__all__ = ["contrastive", "dice", "focal", "mask_loss", "matched"]

# Precision of the products that enlarge masks. On TPUs it keeps 16 bits of each
# logit, more than the earlier products leave exact, in half as many passes as
# full precision.
_HIGH = lax.Precision.HIGH


def dice(
  mask_logits: Float[Array, "*layers b k h w"],
  masks: Float[Array, "b k h w"],
  valid: Bool[Array, "b k"],
  count: Float[Array, ""] | None = None,
) -> Float[Array, "*layers"]:
  """Returns the dice loss, summed over valid masks and divided by their number.

  `masks` are binary. If the masks are a part of a larger batch, `count` is the
  number of valid masks in that batch. The denominator is not squared, and 1 is
  added to numerator and denominator.
  Source: MaskFormer mask_former/modeling/criterion.py.
  """
  logits, masks = _only(valid, mask_logits), _only(valid, masks)
  return _mean_of_valid(_dice(logits, masks), valid, count)


def _dice(mask_logits, masks):  # [*layers, b, k, h, w] -> [*layers, b, k]
  probs = jax.nn.sigmoid(mask_logits.astype(jnp.float32))
  masks = _with_layers(masks.astype(jnp.float32), probs)
  overlap = (probs * masks).sum((-2, -1))
  area = probs.sum((-2, -1)) + masks.sum((-2, -1))
  return 1 - (2 * overlap + 1) / (area + 1)


def focal(
  mask_logits: Float[Array, "*layers b k h w"],
  masks: Float[Array, "b k h w"],
  valid: Bool[Array, "b k"],
  count: Float[Array, ""] | None = None,
) -> Float[Array, "*layers"]:
  """Returns the focal loss: mean over pixels, then over masks as in `dice`.

  `masks` are binary. Pixels inside a mask have the weight 0.25 (alpha), pixels
  outside have 0.75; gamma is 2.
  Source: MaskFormer mask_former/modeling/criterion.py.
  """
  logits, masks = _only(valid, mask_logits), _only(valid, masks)
  return _mean_of_valid(_focal(logits, masks), valid, count)


def _focal(mask_logits, masks):  # [*layers, b, k, h, w] -> [*layers, b, k]
  inside = _with_layers(masks > 0.5, mask_logits)
  # The logit of the right answer. One expression then serves pixels inside and
  # outside, and no rounded probability enters the logarithm or the power.
  right = jnp.where(inside, 1.0, -1.0) * mask_logits.astype(jnp.float32)
  alpha = jnp.where(inside, matching.FOCAL_ALPHA, 1 - matching.FOCAL_ALPHA)
  loss = alpha * jax.nn.softplus(-right)
  loss *= jax.nn.sigmoid(-right) ** matching.FOCAL_GAMMA
  return loss.mean((-2, -1))


def mask_loss(
  mask_logits: Float[Array, "layers b n h w"],
  labels: Int[Array, "b H W"],
  valid: Bool[Array, "b k"],
  *,
  dice_weight: float,
  focal_weight: float,
  k: int,
  size: tuple[int, int] | None = None,
  count: Float[Array, ""] | None = None,
  index: Int[Array, "layers b k"] | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """Returns the mask loss summed over layers, and the last layer's parts.

  Mask j is where `labels` is j; labels outside 0..k-1 belong to no mask. Each
  layer is matched separately, at the size of the logits (`matched`), unless
  `index` says which query each mask has. The loss is computed at `size`; None
  means the size of the label map, or of the logits if they are larger.
  Unmatched queries are not penalised.
  If these pictures are a part of a larger batch, `count` is the number of valid
  masks in that batch; the loss is divided by it.

  Source: S-Seg §3.4, Eq. 1; MaskFormer
  mask_former/modeling/{matcher,criterion}.py.
  """
  _, b, _, h, w = mask_logits.shape
  flat = _flat(mask_logits)
  if index is None:
    index = matched(
      mask_logits, labels, valid, k=k, dice=dice_weight, focal=focal_weight
    )

  if size is None:
    size = max(labels.shape[1], h), max(labels.shape[2], w)
  labels = resize_labels(labels, size)

  # The backward pass computes this again, so that no enlarged array is stored.
  @jax.checkpoint
  def of_layer(layer):
    logits, index = layer
    # The k matched queries of n are gathered first, so only they are enlarged.
    matched = jnp.take_along_axis(logits, index[..., None, None], axis=1)
    matched = _only(valid, matched)
    matched = resize_bilinear(matched.reshape(b, k, h, w), size, _HIGH)
    masks = _one_hot(labels, k)
    return _dice(matched, masks), _focal(matched, masks)

  dice_losses, focal_losses = (  # [layers] each
    _mean_of_valid(x, valid, count) for x in lax.map(of_layer, (flat, index))
  )
  loss = (dice_weight * dice_losses + focal_weight * focal_losses).sum()
  metrics = {"dice": dice_losses[-1], "focal": focal_losses[-1]}
  return loss, metrics


def matched(
  mask_logits: Float[Array, "layers b n h w"],
  labels: Int[Array, "b H W"],
  valid: Bool[Array, "b k"],
  *,
  k: int,
  dice: float,
  focal: float,
  more: Float[Array, "layers b k n"] | None = None,
) -> Int[Array, "layers b k"]:
  """Returns the query that each mask is matched with, layer by layer.

  The arguments are those of `mask_loss`; `more` is added to the cost, as that
  of the classes is.
  """
  layers, b, n, h, w = mask_logits.shape
  # Layers are taken one by one, because a core's memory holds the arrays of one
  # layer.
  small = _one_hot(resize_labels(labels, (h, w)), k).reshape(b, k, 1, h * w)
  cost = lax.map(
    lambda logits: matching.cost_matrix(logits, small, dice=dice, focal=focal),
    lax.stop_gradient(_flat(mask_logits)),
  )  # [layers, b, k, n]
  if more is not None:
    cost += lax.stop_gradient(more)
  # One call solves all layers, so the solver's loop runs once, not once a
  # layer. The batch axis stays first, so that merging the two axes needs no
  # communication between chips.
  index = matching.match(
    jnp.swapaxes(cost, 0, 1).reshape(b * layers, k, n),
    jnp.repeat(valid, layers, axis=0),
  )
  return jnp.swapaxes(index.reshape(b, layers, k), 0, 1)


def _flat(mask_logits):  # [layers, b, n, h, w] -> [layers, b, n, 1, h * w]
  # Pixels stay in one axis, because TPUs pad the last axis to 128.
  return mask_logits.reshape(*mask_logits.shape[:3], 1, -1)


def _one_hot(labels, k):  # [b, h, w] -> [b, k, h, w]
  return jax.nn.one_hot(labels, k, axis=1, dtype=jnp.float32)


def _with_layers(x, like):  # [b, ...] -> [1.., b, ...], of like's rank
  return lax.expand_dims(x, range(like.ndim - x.ndim))


def _only(valid, x):  # [b, k], [*layers, b, k, h, w]
  """Sets invalid entries to 0: a NaN there would reach every gradient.

  A `where` after the loss is too late, since its gradient there is 0 * NaN.
  """
  return jnp.where(_with_layers(valid[..., None, None], x), x, 0)


def _mean_of_valid(per_mask, valid, count):  # [*layers, b, k] -> [*layers]
  if count is None:
    count = valid.sum(dtype=jnp.float32)
  count = jnp.maximum(1.0, count)
  valid = _with_layers(valid, per_mask)
  return jnp.where(valid, per_mask, 0).sum((-2, -1)) / count
