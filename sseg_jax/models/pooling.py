"""What is computed from masks: features under them, outlines, places."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sseg_jax.models.layers import resize_bilinear, resize_labels

FREQUENCIES = 6  # of an outline, along each axis
PLACE_SIZE = 17
OUTLINE_SIZE = (2 * FREQUENCIES + 1) ** 2 + 1


def owned_pixels(
  mask_logits: Float[Array, "b n h w"],
) -> Float[Array, "b n h w"]:
  """Returns the share of each cell where a query's logit is the highest.

  The logits are first interpolated bilinearly to twice their resolution.
  """
  b, n, h, w = mask_logits.shape
  winner = jnp.argmax(resize_bilinear(mask_logits, (2 * h, 2 * w)), 1)
  owned = winner[:, None] == jnp.arange(n)[None, :, None, None]
  return owned.reshape(b, n, h, 2, w, 2).mean((3, 5), dtype=jnp.float32)


def in_front(mask_logits: Float[Array, "b n h w"]) -> Int[Array, "b h w"]:
  """Returns, for each pixel, the query whose mask lies in front.

  A mask has a pixel where its logit is over 0. In front lies the smallest mask
  that has the pixel; of equally small ones, that with the highest logit. Where
  no mask has the pixel, the query with the highest logit is taken.
  """
  inside = mask_logits > 0
  area = inside.sum((2, 3), keepdims=True, dtype=jnp.float32)
  # Areas are whole numbers, so a term below one half decides between equals.
  rank = jnp.where(inside, -area, -jnp.inf)
  rank = rank + jax.nn.sigmoid(mask_logits) / 2
  rank = jnp.where(inside.any(1, keepdims=True), rank, mask_logits)
  return jnp.argmax(rank, axis=1)


def visible(
  mask_logits: Float[Array, "b n h w"], size: tuple[int, int]
) -> Float[Array, "b n y x"]:
  """Returns the share of each cell of a grid that a query's mask shows.

  A mask shows where no smaller one lies in front of it (`in_front`). A ground
  is then without the things on it, as in a pseudo-mask. This is computed at
  twice the logits' resolution or at the grid's, whichever is finer. Logits at
  least as fine as the grid (those of `snap`) are not interpolated, because
  values between two cells would give a hidden mask a rim.
  """
  h, w = mask_logits.shape[2:]
  finer = max(2, -(-size[0] // h), -(-size[1] // w))
  if h >= size[0] or w >= size[1]:
    finer = 1
  front = in_front(resize_bilinear(mask_logits, (finer * h, finer * w)))
  # The grid of a network's tokens may not divide the cells evenly.
  whole = [-(-finer * s // c) * c for s, c in zip((h, w), size, strict=True)]
  front = resize_labels(front, (whole[0], whole[1]))
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
  """Describes the outline of each mask, independently of its place.

  The features are Fourier moments in coordinates of the mask: the origin is its
  centroid, and the unit is the radius of a disk of its area. Thirteen functions
  of each axis (a constant, and cosine and sine of six frequencies) give 169
  numbers, each multiplied by one plus its frequency. The last feature is the
  size, log(1 + radius in cells). An empty mask gives zeros.
  """
  cells = masks.sum((2, 3))  # [b, n]
  area = cells + 1e-6
  radius = jnp.sqrt(area / jnp.pi)

  def axis_functions(profile):  # profile [b, n, cells] -> [b, n, cells, 13]
    line = jnp.arange(profile.shape[-1], dtype=jnp.float32) + 0.5
    center = (profile * line[None, None]).sum(-1) / area
    place = (line[None, None] - center[..., None]) / radius[..., None]
    # A half-wave across the disk, and two to six times as fast.
    speeds = jnp.pi / 2 * jnp.arange(1, FREQUENCIES + 1)
    angles = place[..., None] * speeds[None, None, None]
    one = jnp.ones_like(place)[..., None]
    return jnp.concatenate([one, jnp.cos(angles), jnp.sin(angles)], -1)

  across = axis_functions(masks.sum(2))
  down = axis_functions(masks.sum(3))
  rows = jnp.einsum("bnhw,bnwq->bnhq", masks, across)
  moments = jnp.einsum("bnhq,bnhp->bnpq", rows, down)
  # Moments get smaller with frequency, since a mask's edge is sharp. Weights
  # make the high ones, which hold the details of a form, as large as the low.
  waves = jnp.array([0, *range(1, FREQUENCIES + 1), *range(1, FREQUENCIES + 1)])
  weight = 1 + jnp.hypot(waves[:, None], waves[None])[None, None]
  moments = moments * weight / area[..., None, None]
  moments = moments.reshape(*masks.shape[:2], -1)
  size = jnp.log1p(jnp.where(cells > 0, radius, 0))
  return jnp.concatenate([moments, size[..., None]], -1)


def place(masks: Float[Array, "b n h w"]) -> Float[Array, "b n f"]:
  """Describes where each mask is and how large.

  The features are cosine and sine of one to four half-waves across the picture,
  taken at the mask's centroid along each axis, and twice the square root of the
  share of the picture that the mask covers: 17 numbers. An empty mask gives
  zeros.
  """
  b, n, h, w = masks.shape
  cells = masks.sum((2, 3))
  parts = []
  for axis, count in ((3, h), (2, w)):
    line = (jnp.arange(count, dtype=jnp.float32) + 0.5) / count
    profile = masks.sum(axis)  # [b, n, count]
    center = (profile * line[None, None]).sum(-1) / (cells + 1e-6)
    angles = center[..., None] * (jnp.pi * jnp.arange(1, 5))[None, None]
    parts += [jnp.cos(angles), jnp.sin(angles)]
  exists = (cells > 0)[..., None]
  # The gradient of a root is infinite at zero.
  size = 2 * jnp.sqrt(jnp.where(cells > 0, cells, 1) / (h * w))[..., None]
  return jnp.where(exists, jnp.concatenate([*parts, size], -1), 0)


def snap(
  mask_logits: Float[Array, "b n h w"], labels: Int[Array, "b H W"], k: int
) -> Float[Array, "b n y x"]:
  """Replaces each mask's probabilities by their mean over each region.

  The masks then have the edges of the regions. Returns logits, at the finer of
  the two resolutions. Pixels with labels outside 0..k-1 belong to no region,
  and then to no mask.
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


def region_shares(
  labels: Int[Array, "b H W"],
  present: Bool[Array, "b k"],
  image_size: tuple[int, int],
  stride: int = 4,
) -> Float[Array, "b k h w"]:
  """Returns how much of each cell of `stride` pixels a mask covers, in [0, 1].

  A picture in which no mask is present is one region, the first.
  """
  size = (image_size[0] // stride, image_size[1] // stride)
  fine = [max(1, labels.shape[1 + i] // size[i]) for i in range(2)]
  labels = resize_labels(labels, (size[0] * fine[0], size[1] * fine[1]))
  k = present.shape[1]
  masks = labels[:, None] == jnp.arange(k)[None, :, None, None]
  masks &= present[:, :, None, None]
  shape = (labels.shape[0], k, size[0], fine[0], size[1], fine[1])
  shares = masks.reshape(shape).mean((3, 5), dtype=jnp.float32)
  none = ~present.any(1)
  return shares.at[:, 0].max(none[:, None, None].astype(jnp.float32))


def coarsen(
  masks: Float[Array, "b n H W"], size: tuple[int, int]
) -> Float[Array, "b n h w"]:
  """Averages masks over coarser cells; `size` must divide theirs."""
  b, n, big_h, big_w = masks.shape
  h, w = size
  return masks.reshape(b, n, h, big_h // h, w, big_w // w).mean((3, 5))
