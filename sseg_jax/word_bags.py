"""The different words of a batch of captions, so that each is embedded once."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def different(
  ids: Int[Array, "b w"], exist: Bool[Array, "b w"], most: int
) -> tuple[Int[Array, "u"], Int[Array, "b w"], Bool[Array, ""]]:
  """Returns the ids of different words, and where each word stands among them.

  Also returns whether there are at most `most` different words. If there are
  more, the others are missing, and the places are wrong.

  Args:
    ids: of the words of each caption, from 0 on.
    exist: which of them exist; the place of any other is the last or beyond.
    most: number of ids that are returned, u. If there are fewer different
      words, 0 fills the rest.
  """
  last = jnp.iinfo(ids.dtype).max
  ids = jnp.where(exist, ids, last)
  found = jnp.unique(ids, size=most + 1, fill_value=last)
  fits = found[most] == last
  found = found[:most]
  places = jnp.searchsorted(found, ids)
  return jnp.where(found == last, 0, found), places, fits


def shares(
  places: Int[Array, "b w"], exist: Bool[Array, "b w"], most: int
) -> Float[Array, "u b"]:
  """Returns `contrastive.Vocabulary.shares` of words at places below `most`.

  Words that do not `exist` have no share.
  """
  total = jnp.maximum(1, exist.sum(1, keepdims=True, dtype=jnp.float32))
  captions = jnp.broadcast_to(jnp.arange(len(places))[:, None], places.shape)
  # What is added beyond the end changes nothing.
  places = jnp.where(exist, places, most)
  zeros = jnp.zeros((most, len(places)), jnp.float32)
  return zeros.at[places, captions].add(1 / total, mode="drop")
