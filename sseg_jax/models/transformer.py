"""Attention, and the layers of DETR's transformer (post-norm).

Numbers and order of operations are those of facebookresearch/MaskFormer,
mask_former/modeling/transformer/transformer.py and position_encoding.py.
"""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sseg_jax.models.dropout import Dropout, ExampleRngs
from sseg_jax.models.flax_versions import List
from sseg_jax.models.layers import xavier_uniform

# torch's xavier_uniform_ sees the three input projections as one [3d, d]
# matrix.
_xavier_of_three = nnx.initializers.variance_scaling(0.5, "fan_avg", "uniform")


def sine_positions(height: int, width: int, dim: int) -> np.ndarray:
  """Fixed positions of a grid, float32 [height, width, dim].

  Half the features are the row's, half the column's; sines and cosines
  alternate. Coordinates run from 1 to the side, scaled to 2 pi; temperature
  10,000 (transformer/position_encoding.py).
  """
  half = dim // 2
  period = 10_000.0 ** (2 * (np.arange(half) // 2) / half)

  def one_axis(length: int) -> np.ndarray:
    place = np.arange(1, length + 1) / (length + 1e-6) * 2 * math.pi
    angle = place[:, None] / period  # [length, half]
    return np.where(np.arange(half) % 2 == 0, np.sin(angle), np.cos(angle))

  y = np.broadcast_to(one_axis(height)[:, None], (height, width, half))
  x = np.broadcast_to(one_axis(width)[None, :], (height, width, half))
  return np.concatenate([y, x], -1).astype(np.float32)


class Attention(nnx.Module):
  """Multi-head attention with separate inputs for query, key and value."""

  def __init__(
    self,
    dim: int,
    num_heads: int,
    dropout: float,
    *,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    def linear(init):
      return nnx.Linear(dim, dim, kernel_init=init, dtype=dtype, rngs=rngs)

    self.query = linear(_xavier_of_three)
    self.key = linear(_xavier_of_three)
    self.value = linear(_xavier_of_three)
    self.out = linear(xavier_uniform)
    self.dropout = Dropout(dropout)
    self.num_heads = num_heads

  def __call__(
    self,
    query: Float[Array, "b n d"],
    key: Float[Array, "b m d"],
    value: Float[Array, "b m d"],
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
  ) -> Float[Array, "b n d"]:
    """Mixes the values for each query; `train` applies dropout to weights."""

    def heads(x):
      return x.reshape(*x.shape[:2], self.num_heads, -1)

    q, k, v = heads(self.query(query)), heads(self.key(key)), self.value(value)
    scores = jnp.einsum(
      "bnhd,bmhd->bhnm", q, k, preferred_element_type=jnp.float32
    )
    weights = jax.nn.softmax(scores / math.sqrt(q.shape[-1]), -1)
    weights = self.dropout(weights, deterministic=not train, rngs=rngs)
    mixed = jnp.einsum("bhnm,bmhd->bnhd", weights.astype(v.dtype), heads(v))
    return self.out(mixed.reshape(query.shape))


def _layer_norm(dim, dtype, rngs):
  return nnx.LayerNorm(dim, epsilon=1e-5, dtype=dtype, rngs=rngs)


def _linear(d_in, d_out, dtype, rngs):
  return nnx.Linear(
    d_in, d_out, kernel_init=xavier_uniform, dtype=dtype, rngs=rngs
  )


class _Layer(nnx.Module):
  """Attentions and a feed-forward part, with a norm after each."""

  attentions: ClassVar[tuple[str, ...]]

  def __init__(
    self,
    dim: int,
    num_heads: int,
    ffn_dim: int,
    dropout: float,
    *,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    for name in self.attentions:
      attention = Attention(dim, num_heads, dropout, dtype=dtype, rngs=rngs)
      setattr(self, name, attention)
    self.fc1 = _linear(dim, ffn_dim, dtype, rngs)
    self.fc2 = _linear(ffn_dim, dim, dtype, rngs)
    self.norms = List(
      _layer_norm(dim, dtype, rngs) for _ in (*self.attentions, "feed-forward")
    )
    self.dropout = Dropout(dropout)

  def _add(self, norm: int, x: Array, y: Array, train: bool, rngs) -> Array:
    """Adds a branch after dropout, then norms."""
    y = self.dropout(y, deterministic=not train, rngs=rngs)
    return self.norms[norm](x + y)

  def _feed_forward(self, x: Array, train: bool, rngs) -> Array:
    """Adds the feed-forward branch, the last one."""
    y = nnx.relu(self.fc1(x))
    y = self.fc2(self.dropout(y, deterministic=not train, rngs=rngs))
    return self._add(-1, x, y, train, rngs)


class EncoderLayer(_Layer):
  """Self-attention and feed-forward; each added, then normed."""

  attentions = ("attention",)
  attention: Attention

  def __call__(
    self,
    x: Float[Array, "b m d"],
    positions: Float[Array, "1 m d"],
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
  ) -> Float[Array, "b m d"]:
    """Lets the cells `x` attend to each other."""
    q = x + positions
    y = self.attention(q, q, x, train=train, rngs=rngs)
    x = self._add(0, x, y, train, rngs)
    return self._feed_forward(x, train, rngs)


class DecoderLayer(_Layer):
  """Self-attention, cross-attention, feed-forward; each added, then normed."""

  attentions = ("self_attention", "cross_attention")
  self_attention: Attention
  cross_attention: Attention

  def __call__(
    self,
    x: Float[Array, "b n d"],
    memory: Float[Array, "b m d"],
    query_positions: Float[Array, "1 n d"],
    memory_positions: Float[Array, "1 m d"],
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
  ) -> Float[Array, "b n d"]:
    """Lets the queries `x` attend to each other and to the memory."""
    # Positions are added to queries and keys, never to values.
    q = x + query_positions
    y = self.self_attention(q, q, x, train=train, rngs=rngs)
    x = self._add(0, x, y, train, rngs)
    y = self.cross_attention(
      x + query_positions,
      memory + memory_positions,
      memory,
      train=train,
      rngs=rngs,
    )
    x = self._add(1, x, y, train, rngs)
    return self._feed_forward(x, train, rngs)
