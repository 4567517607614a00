"""Attention in one kernel, which does not write the logits to memory.

On TPUs the kernel is JAX's own (jax.experimental.pallas.ops.tpu.
flash_attention), on CUDA GPUs it is cuDNN's.
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

_LANES = 128  # the tokens of a block are a multiple of this
_LONGEST = 1024  # tokens of a block, whose logits must fit on the chip


def pad(x: Float[Array, "b t d"]) -> Float[Array, "b t2 d"]:
  """Appends zeros up to whole blocks of tokens."""
  blocks, block = block_size(x.shape[1])
  return jnp.pad(x, ((0, 0), (0, blocks * block - x.shape[1]), (0, 0)))


def attend(
  q: Float[Array, "b t2 h c"],
  k: Float[Array, "b t2 h c"],
  v: Float[Array, "b t2 h c"],
  tokens: int,
) -> Float[Array, "b t h c"]:
  """Does what `attention.attend` does, on TPUs only and without a gradient.

  Args:
    q: queries of padded tokens; see `pad`.
    k: keys.
    v: values.
    tokens: how many tokens there are without the padding.
  """
  # Imported here, because the import is slow.
  from jax.experimental.pallas.ops.tpu import flash_attention

  b, padded, _, width = q.shape
  block = block_size(tokens)[1]
  real = (jnp.arange(padded) < tokens).astype(jnp.int32)
  real = jnp.broadcast_to(real, (b, padded))
  mixed = flash_attention.flash_attention(
    *(x.swapaxes(1, 2) for x in (q, k, v)),
    segment_ids=flash_attention.SegmentIds(q=real, kv=real),
    sm_scale=width**-0.5,
    block_sizes=flash_attention.BlockSizes(
      block_q=block, block_k_major=block, block_k=block, block_b=1
    ),
  )
  return mixed.swapaxes(1, 2)[:, :tokens]


def block_size(tokens: int) -> tuple[int, int]:
  """Returns the number of blocks and their tokens that need least padding."""
  fewest = -(-tokens // _LONGEST)
  choices = []
  for blocks in range(fewest, fewest + 4):
    block = -(-tokens // (blocks * _LANES)) * _LANES
    choices.append((blocks * block, blocks, block))
  _, blocks, block = min(choices)
  return blocks, block


def has_cudnn(dtype: DTypeLike, width: int) -> bool:
  """Whether cuDNN has a kernel for heads of `width` channels on this GPU.

  It needs a 16-bit type, a width that is a multiple of 8 and at most 128, and a
  GPU of compute capability 8.0 (Ampere) or later.
  """
  fit = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
  return fit and width % 8 == 0 and width <= 128 and _capability() >= 8


def on_cuda() -> bool:
  """Whether this machine computes on CUDA GPUs."""
  return _capability() > 0


@functools.cache
def _capability() -> float:
  """Returns the GPU's CUDA compute capability; 0 if there is no such GPU."""
  if jax.default_backend() != "gpu":
    return 0.0
  try:
    return float(getattr(jax.devices()[0], "compute_capability", ""))
  except ValueError:  # ROCm gives a name, not a number
    return 0.0


def attend_by_cudnn(
  q: Float[Array, "b t h c"],
  k: Float[Array, "b t h c"],
  v: Float[Array, "b t h c"],
) -> Float[Array, "b t h c"]:
  """Does what `attention.attend` does, on CUDA GPUs only; see `has_cudnn`."""
  return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
