"""Activations that are computed again in the backward pass, not kept."""

import functools
from typing import Any

import jax
from flax import nnx

from sseg_jax.errors import InputError

# "none", or what of a block is kept beside its inputs: a name in
# `jax.checkpoint_policies`.
POLICIES = (
  "none",
  "nothing_saveable",
  "dots_saveable",
  "dots_with_no_batch_dims_saveable",
)


def check(policy: str) -> None:
  """Raises InputError for a policy that does not exist."""
  if policy not in POLICIES:
    raise InputError(
      f"model.remat={policy!r} does not exist; use one of {', '.join(POLICIES)}"
    )


def run(policy: str, block: nnx.Module, *args: Any, **how: Any) -> Any:
  """Returns `block(*args, **how)`, whose activations `policy` says to keep.

  Gradients are the same with any policy; memory and time are not. `args` are
  arrays. Statistics that the block updates are updated once.
  """
  if policy == "none":
    return block(*args, **how)
  parts: Any = nnx.split(block, nnx.Param, ...)
  graphdef, *state = parts

  # Plain JAX, as everywhere: the block is a function of its arrays.
  @functools.partial(
    jax.checkpoint, policy=getattr(jax.checkpoint_policies, policy)
  )
  def call(state, args):
    copy: Any = nnx.merge(graphdef, *state)
    outputs = copy(*args, **how)
    parts: Any = nnx.split(copy, nnx.Param, ...)
    return outputs, parts[2]

  outputs, statistics = call(state, args)
  nnx.update(block, statistics)
  return outputs
