"""Swin's self-attention inside windows.

On TPUs one kernel does all of it (`kernels/window_attention.py`), if
`use_kernels` has asked for it; everywhere else it is done in several steps.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from sseg_jax.models import windows
from sseg_jax.models.kernels import flash

# Added to the logit of two tokens of different regions. It is large compared
# with logits, and finite as in the published networks.
MASKED = -100.0

# torch's trunc_normal_(std=0.02) cuts at ±2, which is a hundred standard
# deviations, so it equals a normal distribution. (JAX's truncated_normal cuts
# at two standard deviations.)
normal_init = nnx.initializers.normal(0.02)


def linear(
  d_in: int, d_out: int, dtype: DTypeLike, rngs: nnx.Rngs, use_bias: bool = True
) -> nnx.Linear:
  """Returns a linear layer with Swin's initial weights."""
  return nnx.Linear(
    d_in,
    d_out,
    use_bias=use_bias,
    kernel_init=normal_init,
    dtype=dtype,
    rngs=rngs,
  )


class WindowAttention(nnx.Module):
  """Self-attention inside windows, with a learned bias per displacement.

  Attributes:
    mesh: TPUs over which windows are split; each attends in one kernel. None
      attends in several steps, on any device.
  """

  def __init__(
    self,
    dim: int,
    num_heads: int,
    window: int,
    *,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    self.num_heads = num_heads
    self.window = window
    self.dtype = dtype
    self.mesh: Mesh | None = None
    self.qkv = linear(dim, 3 * dim, dtype, rngs)
    self.out = linear(dim, dim, dtype, rngs)
    self.relative_position_bias = nnx.Param(
      normal_init(rngs.params(), ((2 * window - 1) ** 2, num_heads))
    )

  def __call__(
    self,
    x: Float[Array, "m t d"],
    regions: Int[np.ndarray, "n t"] | None = None,
  ) -> Float[Array, "m t d"]:
    """Attends within windows; m = b·n.

    `regions` numbers the regions of the tokens in one map's n windows; tokens
    of different regions do not attend to each other.
    """
    qkv, table = self.qkv(x), self.relative_position_bias[...]
    mesh = self.mesh
    if mesh is not None and _has_whole_maps(mesh, len(x), regions):
      # Each device attends in its own windows; they exchange nothing.
      rows = PartitionSpec(mesh.axis_names)
      attend = jax.shard_map(
        functools.partial(self._attend_in_kernel, regions=regions),
        mesh=mesh,
        in_specs=(rows, PartitionSpec()),
        out_specs=rows,
        check_vma=False,  # Pallas kernels do not support the check
      )
      return self.out(attend(qkv, table))
    return self.out(self._attend(qkv, table, regions))

  def _attend(self, qkv, table, regions):
    m, t, _ = qkv.shape
    # Queries, keys and values are split before heads are: a TPU pads an array
    # of heads to whole tiles.
    q, k, v = (
      part.reshape(m, t, self.num_heads, -1)
      for part in jnp.split(qkv, 3, axis=-1)
    )
    bias = self._bias(table)[None]
    if regions is not None:
      bias = bias + _mask(regions)[:, None]  # [n, h, t, t]
    if flash.on_cuda():
      # Padded once to cuBLAS's alignment, instead of around each product.
      ends = (0, -t % 8)
      q, k, v = (jnp.pad(x, ((0, 0), ends, (0, 0), (0, 0))) for x in (q, k, v))
      bias = jnp.pad(bias, ((0, 0), (0, 0), ends, (0, 0)))
      bias = jnp.pad(
        bias, ((0, 0), (0, 0), (0, 0), ends), constant_values=MASKED
      )
    return _mix(q, k, v, bias)[:, :t].reshape(m, t, -1)

  def _attend_in_kernel(self, qkv, table, *, regions):
    # Imported here, because importing Pallas is slow.
    from sseg_jax.models.kernels import window_attention

    kinds, kind_of = None, None
    if regions is not None:
      kinds, kind_of = np.unique(_mask(regions), axis=0, return_inverse=True)
    return window_attention.attend(qkv, self._bias(table), kinds, kind_of)

  def _bias(self, table):
    index = windows.relative_position_index(self.window)
    return jnp.moveaxis(table[index], -1, 0)  # [h, t, t]


@jax.custom_vjp
def _mix(
  q: Float[Array, "m t h c"],
  k: Float[Array, "m t h c"],
  v: Float[Array, "m t h c"],
  bias: Float[Array, "n h t t"],
) -> Float[Array, "m t h c"]:
  """Attends in each window; `bias` is that of one map's n windows, m = b·n.

  Logits and softmax are float32 whatever the type of the products. The gradient
  is written by hand, since JAX's own would store float32 logits and multiply
  them in float32.
  """
  return _mix_fwd(q, k, v, bias)[0]


def _mix_fwd(q, k, v, bias):
  logits = jnp.einsum(
    "mqhc,mkhc->mhqk", q, k, preferred_element_type=jnp.float32
  )
  logits = _in_maps(logits * q.shape[-1] ** -0.5, bias) + bias[None]
  weights = jax.nn.softmax(logits, axis=-1).astype(q.dtype)
  weights = weights.reshape(-1, *weights.shape[2:])
  mixed = jnp.einsum("mhqk,mkhc->mqhc", weights, v)
  return mixed, (q, k, v, bias, weights)


def _mix_bwd(saved, gradient):
  q, k, v, bias, weights = saved
  d_v = jnp.einsum("mhqk,mqhc->mkhc", weights, gradient)
  d_weights = jnp.einsum("mqhc,mkhc->mhqk", gradient, v).astype(jnp.float32)
  total = (weights * d_weights).sum(-1, keepdims=True)
  d_logits = weights * (d_weights - total)
  d_bias = _in_maps(d_logits, bias).sum(0)
  d_logits = (d_logits * q.shape[-1] ** -0.5).astype(q.dtype)
  d_q = jnp.einsum("mhqk,mkhc->mqhc", d_logits, k)
  d_k = jnp.einsum("mhqk,mqhc->mkhc", d_logits, q)
  return d_q, d_k, d_v, d_bias


_mix.defvjp(_mix_fwd, _mix_bwd)


def _in_maps(x: Array, bias: Array) -> Float[Array, "b n h t t"]:
  return x.reshape(-1, *bias.shape)


def _has_whole_maps(
  mesh: Mesh, m: int, regions: Int[np.ndarray, "n t"] | None
) -> bool:
  """Whether each device gets the windows of whole maps."""
  maps = 1 if regions is None else len(regions)
  return m % (mesh.size * maps) == 0


def _mask(regions: Int[np.ndarray, "n t"]) -> Float[np.ndarray, "n t t"]:
  apart = regions[:, :, None] != regions[:, None, :]
  return np.where(apart, MASKED, 0.0).astype(np.float32)


def use_kernels(model: nnx.Module, mesh: Mesh) -> None:
  """Makes all window attention in `model` use one kernel on TPUs of `mesh`.

  Batches must be split over all axes of the mesh.
  """
  for _, module in nnx.iter_modules(model):
    if isinstance(module, WindowAttention):
      module.mesh = mesh
