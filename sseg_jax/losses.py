"""The losses: contrastive and of masks (dice and focal).

All are computed in float32 and normalised by counts over the whole batch they
are given: under `jax.jit` with shardings that is the global batch.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from sseg_jax import matching
from sseg_jax.models.layers import (
  clamped_scale,
  resize_bilinear,
  resize_labels,
  unit,
)

# What an excluded pair's logit is set to: far below any cosine times a scale,
# and finite, so that a row without any valid pair has finite gradients.
_EXCLUDED = -1e9

# Of the products that enlarge masks. On TPUs logits keep 16 of their bits, more
# than the products before left them, in half of the passes.
_HIGH = lax.Precision.HIGH


def contrastive(
  image_embedding: Float[Array, "b e"],
  text_embedding: Float[Array, "b e"],
  logit_scale: Float[Array, ""],
  valid: Bool[Array, "b"],
  *,
  max_logit_scale: float,
  block: int = 0,
  mesh: Mesh | AbstractMesh | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """Returns the sum of both directions' cross-entropies, and metrics.

  Embeddings come unnormalised; pair i is row i of both. A pair that is not
  valid is neither a positive nor a negative. `logit_scale` is the logarithm of
  the scale, which is clamped at `max_logit_scale` where it is used. Source:
  S-Seg Eq. 2-3 (the sum, where GroupViT and SLIP take the mean).

  With a `block`, no more than so many rows of the logits exist at once, over
  all devices, in the gradient as well. It divides b, and is divided by the
  devices of `mesh`, over which the pairs are split: each takes its own rows
  against all columns, and the loop over blocks has no message between them.
  """
  image = unit(jnp.where(valid[:, None], image_embedding, 0))
  text = unit(jnp.where(valid[:, None], text_embedding, 0))
  scale = clamped_scale(logit_scale, max_logit_scale)
  count = jnp.maximum(1.0, valid.sum(dtype=jnp.float32))
  (image_to_text, image_accuracy), (text_to_image, text_accuracy) = (
    (
      jnp.where(valid, loss, 0).sum() / count,
      (valid & hit).sum(dtype=jnp.float32) / count,
    )
    for loss, hit in _retrieval(image, text, scale, valid, block, mesh)
  )
  metrics = {
    "contrastive_i2t": image_to_text,
    "contrastive_t2i": text_to_image,
    "image_to_text_accuracy": image_accuracy,
    "text_to_image_accuracy": text_accuracy,
    "logit_scale": scale,
  }
  return image_to_text + text_to_image, metrics


def dice(
  mask_logits: Float[Array, "*layers b k h w"],
  masks: Float[Array, "b k h w"],
  valid: Bool[Array, "b k"],
  count: Float[Array, ""] | None = None,
) -> Float[Array, "*layers"]:
  """Returns the dice loss, summed over valid masks and divided by their number.

  `masks` are binary. `count` stands for the number of valid masks where these
  are a part of a larger batch. Unsquared denominators, one added to both parts.
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
  """Returns the focal loss: mean over pixels, then as `dice`.

  `masks` are binary; alpha 0.25 weighs them, 0.75 the rest; gamma is 2. Source:
  MaskFormer mask_former/modeling/criterion.py.
  """
  logits, masks = _only(valid, mask_logits), _only(valid, masks)
  return _mean_of_valid(_focal(logits, masks), valid, count)


def _focal(mask_logits, masks):  # [*layers, b, k, h, w] -> [*layers, b, k]
  inside = _with_layers(masks > 0.5, mask_logits)
  # The logit of the right answer: one expression serves both sides, and neither
  # the logarithm nor the power sees a rounded probability.
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
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """Returns the mask loss summed over layers, and the last layer's parts.

  Mask j is where `labels` is j; labels outside 0..k-1 belong to no mask. Each
  layer has a matching of its own, at the logits' size. The loss is taken at
  `size`; None is the label map's, or the logits' where that is finer. Queries
  left unmatched are not penalised.
  `count` is the number of valid masks to divide by, where these pictures are a
  part of a larger batch.

  Source: S-Seg §3.4, Eq. 1; MaskFormer
  mask_former/modeling/{matcher,criterion}.py.
  """
  layers, b, n, h, w = mask_logits.shape
  # Pixels stay in one axis, as TPUs pad the last to 128, and layers are taken
  # one by one, as the memory of a core holds what is made of one.
  flat = mask_logits.reshape(layers, b, n, 1, h * w)
  small = _one_hot(resize_labels(labels, (h, w)), k).reshape(b, k, 1, h * w)
  cost = lax.map(
    lambda logits: matching.cost_matrix(
      logits, small, dice=dice_weight, focal=focal_weight
    ),
    lax.stop_gradient(flat),
  )  # [layers, b, k, n]
  # All layers in one call: the solver's steps are paid once, not once a layer.
  # The batch axis stays in front, so that merging the two moves nothing between
  # chips.
  index = matching.match(
    jnp.swapaxes(cost, 0, 1).reshape(b * layers, k, n),
    jnp.repeat(valid, layers, axis=0),
  )
  index = jnp.swapaxes(index.reshape(b, layers, k), 0, 1)

  if size is None:
    size = max(labels.shape[1], h), max(labels.shape[2], w)
  labels = resize_labels(labels, size)

  # Again for the gradient, so that nothing that was enlarged is kept.
  @jax.checkpoint
  def of_layer(layer):
    logits, index = layer
    # k of n queries are gathered before anything is enlarged.
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


def _one_hot(labels, k):  # [b, h, w] -> [b, k, h, w]
  return jax.nn.one_hot(labels, k, axis=1, dtype=jnp.float32)


def _with_layers(x, like):  # [b, ...] -> [1.., b, ...], of like's rank
  return lax.expand_dims(x, range(like.ndim - x.ndim))


def _only(valid, x):  # [b, k], [*layers, b, k, h, w]
  """Clears what is not valid: NaN there would pass into every gradient.

  A `where` after the loss is too late, since its gradient there is 0 * NaN.
  """
  return jnp.where(_with_layers(valid[..., None, None], x), x, 0)


def _mean_of_valid(per_mask, valid, count):  # [*layers, b, k] -> [*layers]
  if count is None:
    count = valid.sum(dtype=jnp.float32)
  count = jnp.maximum(1.0, count)
  valid = _with_layers(valid, per_mask)
  return jnp.where(valid, per_mask, 0).sum((-2, -1)) / count


def _retrieval(rows, columns, scale, valid, block, mesh):
  """Returns cross-entropy and hit of finding column i from row i, and back."""
  number = jnp.arange(len(rows))
  if not 0 < block < len(rows):
    logits = _logits(rows, columns, scale)
    return _find(logits, number, valid), _find(logits.T, number, valid)
  find = functools.partial(_find_in_blocks, block=block)
  if mesh is not None and mesh.size > 1:
    find = functools.partial(
      _find_in_blocks, block=block // mesh.size, axes=mesh.axis_names
    )
    split = PartitionSpec(mesh.axis_names)
    find = jax.shard_map(find, mesh=mesh, in_specs=split, out_specs=split)
  # One scale for each row, so that its gradient is summed after the loop.
  scales = jnp.full((len(rows), 1), scale)
  return (
    find(rows, number, scales, columns, valid),
    find(columns, number, scales, rows, valid),
  )


def _logits(rows, columns, scale):
  return scale * jnp.einsum(
    "re,ce->rc", rows, columns, precision=lax.Precision.HIGHEST
  )


def _find(logits, number, valid):
  """Returns cross-entropy and hit of each row, whose column has its number."""
  logits = jnp.where(valid[None], logits, _EXCLUDED)
  mine = number[:, None] == jnp.arange(logits.shape[1])[None]
  right = jnp.where(mine, logits, 0).sum(-1)
  loss = jax.nn.logsumexp(logits, axis=-1) - right
  return loss, jnp.argmax(logits, axis=-1) == number


def _find_in_blocks(rows, number, scales, columns, valid, block, axes=()):
  """Does the same for `block` rows at a time, whose logits are not kept."""
  if axes:
    columns = lax.all_gather(columns, axes, tiled=True)
    valid = lax.all_gather(valid, axes, tiled=True)

  @jax.checkpoint
  def find(part):
    rows, number, scales = part
    return _find(_logits(rows, columns, scales), number, valid)

  parts = [x.reshape(-1, block, *x.shape[1:]) for x in (rows, number, scales)]
  return jax.tree.map(jnp.ravel, lax.map(find, parts))
