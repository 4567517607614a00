"""Swin's attention inside windows in one kernel, for TPUs.

A window has 49 tokens and a head has 32 channels. Both are smaller than a TPU's
tiles, so attention in several steps reads and writes mostly padding. Here the
logits, the weights and the separate heads stay in the chip's own memory. Only
the queries, keys and values are read, as the linear layer gives them, and only
the mixed values are written.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

# A kernel has 16 MB of the chip's own memory. So many bytes are for blocks of
# windows, two at a time since the next is fetched early; as many are left for a
# head's logits.
_BLOCK_BYTES = 6 * 2**20
_MOST_WINDOWS = 16  # of a block; each has 28 KB of logits in a head


def attend(
  qkv: Float[Array, "m t d3"],
  bias: Float[Array, "h t t"],
  kinds: Float[np.ndarray, "k t t"] | None = None,
  kind_of: Int[np.ndarray, "n"] | None = None,
) -> Float[Array, "m t d"]:
  """Attends within each window.

  Logits and softmax are float32 whatever the type of the products.

  Args:
    qkv: channels of the queries, the keys, and the values; within each, one
      head after the other. m = b·n windows.
    bias: float32, added to the logits of each head.
    kinds: float32, added to the logits of all heads, by kind of window; None
      adds nothing.
    kind_of: the kind of each of a map's n windows, an index of `kinds`.

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
    # One block after the other, since all add to the bias's gradient.
    compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary",)),
    # Logits are computed again and not counted.
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
  """Returns what `kinds` adds to a block's windows, [m, t, t]; or None."""
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
  """Returns two functions that make block specs: of windows, of whole arrays.

  Args:
    qkv: [m, t, 3d].
    channels: how many a kernel reads and writes of each token, to choose the
      size of a block.
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
