"""From masks to what words are learned on: features under them, outlines."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sseg_jax import scoring
from sseg_jax.models.layers import resize_bilinear

OUTLINE_SIZE = 81


def owned_pixels(
  mask_logits: Float[Array, "b n h w"],
) -> Float[Array, "b n h w"]:
  """Returns the share of each cell where a query's logit is the highest.

  Judged at twice the resolution, on logits interpolated bilinearly.
  """
  b, n, h, w = mask_logits.shape
  winner = jnp.argmax(resize_bilinear(mask_logits, (2 * h, 2 * w)), 1)
  owned = winner[:, None] == jnp.arange(n)[None, :, None, None]
  return owned.reshape(b, n, h, 2, w, 2).mean((3, 5), dtype=jnp.float32)


def visible(
  mask_logits: Float[Array, "b n h w"], size: tuple[int, int]
) -> Float[Array, "b n y x"]:
  """Returns the share of each cell of a grid that a query's mask shows.

  A mask shows where no smaller one lies in front of it (`scoring.in_front`), so
  that a ground is told without the things on it, as in a pseudo-mask. Judged at
  the grid's resolution or twice the logits', whichever is finer.
  """
  h, w = mask_logits.shape[2:]
  finer = max(2, -(-size[0] // h), -(-size[1] // w))
  if h > size[0] or w > size[1]:
    finer = 1
  front = scoring.in_front(resize_bilinear(mask_logits, (finer * h, finer * w)))
  n = mask_logits.shape[1]
  shown = front[:, None] == jnp.arange(n)[None, :, None, None]
  return coarsen(shown.astype(jnp.float32), size)


def pool_under_masks(
  features: Float[Array, "b h w d"], masks: Float[Array, "b n H W"]
) -> Float[Array, "b n d"]:
  """Averages features under each query's mask, whose values are in [0, 1].

  A coarser feature map is pooled at its own resolution, with the masks averaged
  over its cells. An empty mask gives zeros.
  """
  h, w = features.shape[1:3]
  masks = coarsen(masks, (h, w))
  total = masks.sum((2, 3))[..., None] + 1e-6
  pooled = jnp.einsum("bnhw,bhwd->bnd", masks, features.astype(jnp.float32))
  return (pooled / total).astype(features.dtype)


def outline(masks: Float[Array, "b n h w"]) -> Float[Array, "b n f"]:
  """Describes the outline of each mask, wherever it is and whatever its size.

  Fourier moments in the mask's own frame: the origin is its centroid, the unit
  the radius of a disk of its area. Nine functions an axis (a constant, and
  cosine and sine of four frequencies) give 81 numbers in [-1, 1], zeros for an
  empty mask.
  """
  area = masks.sum((2, 3)) + 1e-6  # [b, n]
  radius = jnp.sqrt(area / jnp.pi)

  def axis_functions(profile):  # profile [b, n, cells] -> [b, n, cells, 9]
    cells = jnp.arange(profile.shape[-1], dtype=jnp.float32) + 0.5
    center = (profile * cells[None, None]).sum(-1) / area
    place = (cells[None, None] - center[..., None]) / radius[..., None]
    # A half-wave across the disk, and two, three and four times as fast.
    angles = (
      place[..., None] * (jnp.pi * jnp.arange(1, 5) / 2)[None, None, None]
    )
    one = jnp.ones_like(place)[..., None]
    return jnp.concatenate([one, jnp.cos(angles), jnp.sin(angles)], -1)

  across = axis_functions(masks.sum(2))
  down = axis_functions(masks.sum(3))
  rows = jnp.einsum("bnhw,bnwq->bnhq", masks, across)
  moments = jnp.einsum("bnhq,bnhp->bnpq", rows, down)
  moments = moments / area[..., None, None]
  return moments.reshape(*masks.shape[:2], -1)


def snap(
  mask_logits: Float[Array, "b n h w"], labels: Int[Array, "b H W"], k: int
) -> Float[Array, "b n y x"]:
  """Gives every region of a label map one probability a mask: its mean.

  The masks then have the regions' edges. The result has the finer of the two
  resolutions. Labels outside 0..k-1 belong to no region and end in no mask.
  """
  h, w = mask_logits.shape[2:]
  size = max(h, labels.shape[1]), max(w, labels.shape[2])
  if (h, w) != size:
    mask_logits = resize_bilinear(mask_logits, size)
  rows, columns = (
    jnp.arange(new) * old // new
    for new, old in zip(size, labels.shape[1:], strict=True)
  )
  labels = labels[:, rows][:, :, columns]
  regions = labels[:, None] == jnp.arange(k)[None, :, None, None]
  regions = regions.astype(jnp.float32)
  area = jnp.maximum(regions.sum((2, 3)), 1)[:, None]  # [b, 1, k]
  inside = jax.nn.sigmoid(mask_logits)
  mean = jnp.einsum("bnhw,bkhw->bnk", inside, regions) / area
  share = jnp.einsum("bnk,bkhw->bnhw", mean, regions)
  share = jnp.clip(share, 1e-6, 1 - 1e-6)
  return jnp.log(share) - jnp.log1p(-share)


def coarsen(
  masks: Float[Array, "b n H W"], size: tuple[int, int]
) -> Float[Array, "b n h w"]:
  """Averages masks over the cells of a coarser grid that divides theirs."""
  b, n, big_h, big_w = masks.shape
  h, w = size
  return masks.reshape(b, n, h, big_h // h, w, big_w // w).mean((3, 5))
