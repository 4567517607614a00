"""Random keys of a network's initial parameters."""

import jax
from flax import nnx
from jaxtyping import Array


class _Counted(nnx.RngStream):
  """A stream that counts its keys in Python; its keys are those of its parent.

  Inside a traced function the parent's count is a tracer, and at each key
  flax 0.12 asks for a property that tracers lack. JAX then looks through the
  whole program for an error message that nobody reads: 7 s for Swin-T.
  """

  def __init__(self, key: Array):
    super().__init__(key, tag="params")
    self.drawn = 0

  def __call__(self) -> Array:
    key = jax.random.fold_in(self.key[...], self.drawn)
    self.drawn += 1
    return key


class _Keys(nnx.Rngs):
  def __init__(self, key: Array):
    super().__init__()
    self.params = _Counted(key)


def parameter_keys(seed: int | Array) -> nnx.Rngs:
  """Returns `nnx.Rngs(params=seed)`, quicker inside a traced function.

  Args:
    seed: an integer, or a key of `jax.random.key`.
  """
  return _Keys(jax.random.key(seed) if isinstance(seed, int) else seed)
