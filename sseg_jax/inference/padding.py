"""Pads batches and texts to few sizes, so that few programs are compiled.

JAX compiles a function anew for each shape of its arguments.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

_AT_ONCE = 256  # texts


def pad_rows(array: np.ndarray, limit: int | None = None) -> np.ndarray:
  """Appends rows of zeros until the number of rows is a power of two.

  Args:
    array: one or more rows.
    limit: the result has at most so many rows; not below those of `array`.
  """
  rows = 1 << (len(array) - 1).bit_length()
  rows = rows if limit is None else min(rows, limit)
  pad = [(0, rows - len(array))] + [(0, 0)] * (array.ndim - 1)
  return np.pad(array, pad)


def without_padding(
  tokens: Int[np.ndarray, "b l"],
) -> Int[np.ndarray, "b m"]:
  """Removes columns that are padding in all rows; keeps a multiple of 16.

  The text tower is causal and its output is read at the end token, so padding
  after that token has no effect.
  """
  used = int(np.flatnonzero(tokens.any(0)).max()) + 1
  return tokens[:, : -(-used // 16) * 16]


def in_chunks(
  encode: Callable[[np.ndarray], Array], tokens: Int[np.ndarray, "b l"]
) -> Float[Array, "b e"]:
  """Returns `encode` of all texts, a limited number of which it gets at once.

  Args:
    encode: maps tokens [c, l] to embeddings [c, e], text by text.
    tokens: of the texts, with their padding.
  """
  tokens = without_padding(tokens)
  parts = []
  for first in range(0, len(tokens), _AT_ONCE):
    chunk = tokens[first : first + _AT_ONCE]
    parts.append(encode(pad_rows(chunk))[: len(chunk)])
  return jnp.concatenate(parts)
