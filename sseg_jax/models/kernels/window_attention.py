"""Swin's attention inside windows in one kernel, for TPUs.

A window has 49 tokens and a head 32 channels, which fill neither the rows nor
the lanes of a TPU's tiles. Attention in several steps therefore moves several
times what it computes with: here logits, weights and heads stay in the chip's
own memory, and what is read and written are the queries, keys and values as the
linear layer gives them.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

# Of the chip's own memory, which has 16 MB for a kernel: blocks of windows,
# twice since the next are fetched meanwhile; as much again is left for a head's
# logits.
_BLOCK_BYTES = 6 * 2**20
_MOST_WINDOWS = 16  # a block's; the logits of a head are 28 KB for each


def attend(
  qkv: Float[Array, "m t d3"],
  bias: Float[Array, "h t t"],
  kinds: Float[np.ndarray, "k t t"] | None = None,
  kind_of: Int[np.ndarray, "n"] | None = None,
) -> Float[Array, "m t d"]:
  """Attends within each window.

  Logits and softmax are float32 whatever the type of the products.

  Args:
    qkv: channels of the queries, of the keys and of the values, each head after
      head; m = b·n.
    bias: float32, what a head adds to the logit of a query and a key.
    kinds: float32, further terms, alike in all heads; None adds nothing.
    kind_of: which of `kinds` each window of a map has.

  Returns:
    The mixed values, channels as they are in `qkv`.
  """
  if kinds is None or kind_of is None:
    kinds = np.zeros((1, *bias.shape[1:]), np.float32)
    kind_of = np.zeros(1, np.int32)
  return _attend(qkv, bias, jnp.asarray(kinds), jnp.asarray(kind_of, jnp.int32))


@jax.custom_vjp
def _attend(qkv, bias, kinds, kind_of):
  m, t, width = qkv.shape
  d = width // 3
  rows, whole = _specs(qkv, 3 * d + d)
  return pl.pallas_call(
    _forward,
    grid=(m // rows(d).block_shape[0],),
    in_specs=[rows(3 * d), whole(bias), whole(kinds), _scalars()],
    out_specs=rows(d),
    out_shape=jax.ShapeDtypeStruct((m, t, d), qkv.dtype),
    compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
    cost_estimate=_cost(qkv, bias, products=2, channels=4 * d),
    name="window_attention",
  )(qkv, bias, kinds, kind_of)


def _attend_fwd(qkv, bias, kinds, kind_of):
  return _attend(qkv, bias, kinds, kind_of), (qkv, bias, kinds, kind_of)


def _attend_bwd(saved, gradient):
  qkv, bias, kinds, kind_of = saved
  m, _, width = qkv.shape
  d = width // 3
  rows, whole = _specs(qkv, 2 * 3 * d + d)
  d_qkv, d_bias = pl.pallas_call(
    _backward,
    grid=(m // rows(d).block_shape[0],),
    in_specs=[rows(3 * d), whole(bias), whole(kinds), _scalars(), rows(d)],
    out_specs=[rows(3 * d), whole(bias)],
    out_shape=[
      jax.ShapeDtypeStruct(qkv.shape, qkv.dtype),
      jax.ShapeDtypeStruct(bias.shape, jnp.float32),
    ],
    # One block after the other: all add to the bias's gradient.
    compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
    # Without the logits, which are computed again.
    cost_estimate=_cost(qkv, bias, products=4, channels=7 * d),
    name="window_attention_backward",
  )(qkv, bias, kinds, kind_of, gradient)
  return d_qkv, d_bias, None, None


_attend.defvjp(_attend_fwd, _attend_bwd)


# --- Kernels ------------------------------------------------------------------


def _forward(qkv, bias, kinds, kind_of, out):
  mask = _mask(len(qkv), kinds, kind_of)
  for head in range(len(bias)):
    q, k, v = (_heads(qkv, 3, len(bias), i, head)[...] for i in range(3))
    weights = _weights(q, k, bias[head], mask).astype(v.dtype)
    mixed = _product("mqk,mkc->mqc", weights, v)
    _heads(out, 1, len(bias), 0, head)[...] = mixed.astype(out.dtype)


def _backward(qkv, bias, kinds, kind_of, gradient, d_qkv, d_bias):
  @pl.when(pl.program_id(0) == 0)
  def _():
    d_bias[...] = jnp.zeros_like(d_bias)

  mask = _mask(len(qkv), kinds, kind_of)
  for head in range(len(bias)):
    q, k, v = (_heads(qkv, 3, len(bias), i, head)[...] for i in range(3))
    g = _heads(gradient, 1, len(bias), 0, head)[...]
    weights = _weights(q, k, bias[head], mask)
    d_weights = _product("mqc,mkc->mqk", g, v)
    total = (weights * d_weights).sum(-1, keepdims=True)
    d_logits = weights * (d_weights - total)
    d_bias[head] += d_logits.sum(0)
    scaled = (d_logits * _scale(q)).astype(q.dtype)
    found = (
      _product("mqk,mkc->mqc", scaled, k),
      _product("mqk,mqc->mkc", scaled, q),
      _product("mqk,mqc->mkc", weights.astype(v.dtype), g),
    )
    for i, x in enumerate(found):
      _heads(d_qkv, 3, len(bias), i, head)[...] = x.astype(d_qkv.dtype)


def _mask(windows: int, kinds: Any, kind_of: Any) -> Array | None:
  """Returns the further terms of a block's windows [m, t, t]."""
  if len(kinds) == 1:
    return None
  first = pl.program_id(0) * windows
  total = kind_of.shape[0]
  return jnp.stack(
    [kinds[kind_of[(first + i) % total]] for i in range(windows)]
  )


def _heads(x: Any, parts: int, heads: int, part: int, head: int) -> Any:
  """Returns the view of one head's channels in one of several parts of `x`."""
  width = x.shape[-1] // parts // heads
  return x.at[:, :, pl.ds((part * heads + head) * width, width)]


def _weights(q: Array, k: Array, bias: Array, mask: Array | None) -> Array:
  logits = _product("mqc,mkc->mqk", q, k) * _scale(q) + bias[None]
  if mask is not None:
    logits = logits + mask
  weights = jnp.exp(logits - logits.max(-1, keepdims=True))
  return weights / weights.sum(-1, keepdims=True)


def _scale(q: Array) -> float:
  return q.shape[-1] ** -0.5


def _product(equation: str, x: Array, y: Array) -> Array:
  return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)


# --- What a kernel is given ---------------------------------------------------


def _specs(qkv: Array, channels: int) -> tuple[Any, Any]:
  """Returns makers of the specs of windows and of whole arrays.

  Args:
    qkv: [m, t, 3d].
    channels: of all windows that are read or written, to choose the block.
  """
  m, t, _ = qkv.shape
  count = windows_in_a_block(m, t, channels, qkv.dtype.itemsize)

  def rows(width: int) -> pl.BlockSpec:
    return pl.BlockSpec((count, t, width), lambda i: (i, 0, 0))

  def whole(x: Array) -> pl.BlockSpec:
    return pl.BlockSpec(x.shape, lambda i: (0,) * x.ndim)

  return rows, whole


def windows_in_a_block(m: int, t: int, channels: int, itemsize: int) -> int:
  """Returns how many of `m` windows a kernel takes at once; it divides m."""
  padded = -(-t // 16) * 16
  each = 2 * padded * channels * itemsize
  most = max(1, min(_MOST_WINDOWS, _BLOCK_BYTES // each))
  return max(i for i in range(1, most + 1) if m % i == 0)


def _scalars() -> pl.BlockSpec:
  return pl.BlockSpec(memory_space=pltpu.SMEM)


def _cost(
  qkv: Array, bias: Array, products: int, channels: int
) -> pl.CostEstimate:
  m, t, width = qkv.shape
  return pl.CostEstimate(
    flops=products * 2 * m * t * t * (width // 3),
    transcendentals=m * t * t * len(bias),
    bytes_accessed=m * t * channels * qkv.dtype.itemsize + 4 * bias.size,
  )
