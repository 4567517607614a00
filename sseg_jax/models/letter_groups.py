"""Embeddings of tokens that share vectors of the letter groups in them.

With few captions a plain table of tokens knows nothing of "dogs" from "dog".
Groups of three to five letters are shared among tokens. Source: fastText's
subword vectors (Bojanowski et al. 2017, §3.2), with tokens in place of words.
"""

import functools
import zlib

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from sseg_jax import tokenizer

_LENGTHS = (3, 4, 5)
_MOST = 24  # groups of a token; the first ones are taken


@functools.cache
def table(groups: int) -> Int[np.ndarray, "v g"]:
  """Returns the numbers of each token's groups, 1 to `groups`; 0 for none.

  The end of a word counts as a letter, so that an ending is a group of its own.
  Two groups may have the same number.
  """
  rows = np.zeros((tokenizer.VOCAB_SIZE, _MOST), np.int32)
  for text, number in tokenizer.vocabulary().items():
    letters = text.replace("</w>", ">")
    found = [
      letters[i : i + n] for n in _LENGTHS for i in range(len(letters) - n + 1)
    ][:_MOST]
    rows[number, : len(found)] = [
      zlib.crc32(group.encode()) % groups + 1 for group in found
    ]
  rows.setflags(write=False)
  return rows


class LetterGroups(nnx.Module):
  """The part of a token's embedding that other tokens share."""

  def __init__(
    self, groups: int, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs
  ):
    self.groups = groups
    self.embedding = nnx.Embed(
      groups + 1,  # row 0 stands for no group and is not used
      width,
      embedding_init=nnx.initializers.normal(0.02),
      dtype=dtype,
      rngs=rngs,
    )

  def __call__(self, tokens: Int[Array, "*b"]) -> Float[Array, "*b d"]:
    """Returns the sum over a token's groups over the root of their number.

    So it is as long as a single vector, whatever the number of groups.
    """
    numbers = jnp.asarray(table(self.groups))[tokens]  # [*b, g]
    used = (numbers > 0).astype(jnp.float32)
    total = jnp.maximum(used.sum(-1), 1)
    vectors = self.embedding(numbers) * used[..., None]
    return vectors.sum(-2) / jnp.sqrt(total)[..., None]
