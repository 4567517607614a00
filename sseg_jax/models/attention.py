"""Attention among all tokens, in forms that have a gradient."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sseg_jax.models.kernels import flash


def attend(
  q: Float[Array, "b t h c"],
  k: Float[Array, "b t h c"],
  v: Float[Array, "b t h c"],
) -> Float[Array, "b t h c"]:
  """Attends over all tokens in each head; in one kernel on CUDA GPUs."""
  if flash.has_cudnn(q.dtype, q.shape[-1]):
    return lax.platform_dependent(
      q, k, v, cuda=flash.attend_by_cudnn, default=attend_in_steps
    )
  return attend_in_steps(q, k, v)


def attend_in_steps(
  q: Float[Array, "b t h c"],
  k: Float[Array, "b t h c"],
  v: Float[Array, "b t h c"],
) -> Float[Array, "b t h c"]:
  """Attends over all tokens in each head, in few passes over memory.

  Softmax is in float32, on logits kept in the type of the input and normalised
  after the product with the values. In bfloat16 on a TPU this moves less than
  half the bytes of `jax.nn.dot_product_attention`, and memory traffic limits
  the speed. `flash.attend` moves fewer still.
  """
  logits = jnp.einsum("bqhc,bkhc->bhqk", q * q.shape[-1] ** -0.5, k)
  top = logits.max(-1, keepdims=True).astype(jnp.float32)
  weights = jnp.exp(logits.astype(jnp.float32) - top)
  total = jnp.moveaxis(weights.sum(-1), 1, 2)[..., None]  # [b, t, h, 1]
  mixed = jnp.einsum(
    "bhqk,bkhc->bqhc",
    weights.astype(v.dtype),
    v,
    preferred_element_type=jnp.float32,
  )
  return (mixed / total).astype(q.dtype)
