"""Computes activations again in the backward pass instead of storing them."""

import functools
from typing import Any

import jax
from flax import nnx

# What is stored of a block beside its inputs: a name in
# `jax.checkpoint_policies`, or "none", which stores all activations.
POLICIES = (
  "none",
  "nothing_saveable",
  "dots_saveable",
  "dots_with_no_batch_dims_saveable",
)


def run(policy: str, block: nnx.Module, *args: Any, **how: Any) -> Any:
  """Returns `block(*args, **how)`; `policy` names the activations to store.

  Gradients are the same with any policy, memory and time differ. `args` are
  arrays. Statistics that the block updates are updated once.
  """
  if policy == "none":
    return block(*args, **how)
  parts: Any = nnx.split(block, nnx.Param, ...)
  graphdef, *state = parts

  # `jax.checkpoint` needs a function of arrays, so the block is split.
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
