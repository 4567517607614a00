"""Targets that name several classes with their probabilities.

They come as planes beside a label map; `data/soft_labels.py` says what these
hold. A plane of zeros is a pixel whose label is sure: then all results equal
those of label maps.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

_FULL = 255  # probability 1


def expected(
  labels: Int[Array, "b h w"],
  planes: UInt8[Array, "b p h w"] | None,
  loss_of: Callable[[Int[Array, "b h w"]], Float[Array, "b h w"]],
) -> Float[Array, "b h w"]:
  """Returns the loss of each pixel, the mean over what its class may be.

  Args:
    labels: 0, 1, …; ignored pixels have any of these.
    planes: of other classes, as large as `labels`. None: labels are sure.
    loss_of: maps labels to the loss that each pixel would have with them.
  """
  if planes is None:
    return loss_of(labels)
  total = jnp.zeros(labels.shape, jnp.float32)
  for classes, shares in _parts(labels, planes):
    total += shares.astype(jnp.float32) / _FULL * loss_of(classes)
  return total


def of_masks(
  masks: Int[Array, "b h w"],
  labels: Int[Array, "b h w"],
  planes: UInt8[Array, "b p h w"] | None,
  k: int,
  count: int,
) -> Float[Array, "b k c"]:
  """Returns the probabilities of each mask's classes: the mean of its pixels.

  Args:
    masks: the number of each pixel's mask; `k` for none.
    labels: 0, 1, …, below `count`, wherever there is a mask.
    planes: of other classes, as large as `labels`. None: labels are sure.
    k: number of masks. One without pixels has probabilities of 0.
    count: number of labels.
  """
  b = len(labels)
  rows = jnp.arange(b)[:, None, None]
  # Whole numbers: the order in which a device adds them changes nothing.
  total = jnp.zeros((b, k + 1, count), jnp.int32)
  for classes, shares in _parts(labels, planes):
    total = total.at[rows, masks, classes].add(shares)
  found = total[:, :k].astype(jnp.float32)
  return found / jnp.maximum(1, found.sum(-1, keepdims=True))


def _parts(labels, planes):
  """Returns classes and shares of 255, int32 [b,h,w] both, the label first."""
  if planes is None:
    return [(labels, jnp.full_like(labels, _FULL))]
  more = planes.shape[1] // 2
  planes = planes.astype(jnp.int32)
  others, shares = planes[:, :more], planes[:, more:]
  parts = [(others[:, i], shares[:, i]) for i in range(more)]
  return [(labels, _FULL - shares.sum(1)), *parts]
