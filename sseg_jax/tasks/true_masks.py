"""One mask for each class in a picture, from its label map."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


class Masks(NamedTuple):
  """The true masks of pictures, one for each class in a picture, at most k.

  Attributes:
    present: bool [b,c], which classes are in a picture.
    labels: int32 [b,h,w], number of each pixel's mask; k for none. The j-th
      class that is present has the j-th mask.
    exists: bool [b,k], which masks there are.
  """

  present: Array
  labels: Array
  exists: Array


def of(labels: Int[Array, "b h w"], classes: int, k: int) -> Masks:
  """Returns the masks of label maps with the labels 0 to `classes` - 1."""
  present = labels[:, None] == jnp.arange(classes)[None, :, None, None]
  present = present.any((2, 3))  # [b, c]
  rank = jnp.where(present, jnp.cumsum(present, 1) - 1, k)  # [b, c]
  index = jnp.clip(labels, 0, classes - 1)
  ranked = jax.vmap(lambda r, i: r[i])(rank, index)
  ranked = jnp.where(known(labels, classes) & (ranked < k), ranked, k)
  exists = jnp.arange(k)[None] < present.sum(1)[:, None]
  return Masks(present, ranked, exists)


def names(present: Bool[Array, "b c"], k: int) -> Int[Array, "b k"]:
  """Returns the class of each mask; anything where there is no mask."""
  found = jnp.argsort(~present, 1, stable=True)[:, :k]
  return jnp.pad(found, ((0, 0), (0, k - found.shape[1])))


def known(labels: Int[Array, "b h w"], classes: int) -> Bool[Array, "b h w"]:
  """Returns which pixels have a label from 0 to `classes` - 1."""
  return (labels >= 0) & (labels < classes)
