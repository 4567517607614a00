"""Dropout and stochastic depth, drawn for each example on its own.

What an example loses depends on its own key and on the layer, never on the rest
of the batch: run again in a smaller batch, it loses the same.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Integer, Key


class ExampleRngs:
  """A stream of random keys for each example of a batch.

  Each call gives new keys, by the number of calls so far: the same program
  draws the same numbers. Not for the "rbg" generators, which under `vmap` draw
  from the first key alone.
  """

  def __init__(self, keys: Key[Array, "b"]):
    self._keys = keys
    self._calls = 0

  @classmethod
  def from_ids(cls, key: Array, ids: Integer[Array, "b"]) -> "ExampleRngs":
    """Folds each example's number into `key`; equal numbers draw alike."""
    return cls(jax.vmap(lambda i: jax.random.fold_in(key, i))(ids))

  def __call__(self) -> Key[Array, "b"]:
    """Returns one key for each example."""
    self._calls += 1
    calls = self._calls
    return jax.vmap(lambda key: jax.random.fold_in(key, calls))(self._keys)

  def fork(self, rows: slice = slice(None)) -> "ExampleRngs":
    """Returns a stream of its own for some of the examples."""
    return ExampleRngs(self()[rows])


class Dropout(nnx.Module):
  """Sets elements to zero and divides what is kept by the keep rate."""

  def __init__(self, rate: float):
    self.rate = rate

  def __call__(
    self, x: Array, *, deterministic: bool, rngs: ExampleRngs | None = None
  ) -> Array:
    """Maps [b,...] to the same shape; `rngs` is needed where it draws."""
    return _drop(x, self.rate, x.shape[1:], deterministic, rngs)


class DropPath(nnx.Module):
  """Drops a residual branch of whole examples (stochastic depth).

  The input's leading axis is the batch; what is kept is divided by the keep
  rate.
  """

  def __init__(self, rate: float):
    self.rate = rate

  def __call__(
    self, x: Array, *, deterministic: bool, rngs: ExampleRngs | None = None
  ) -> Array:
    """Maps [b,...] to the same shape; `rngs` is needed where it draws."""
    return _drop(x, self.rate, (1,) * (x.ndim - 1), deterministic, rngs)


def _drop(x, rate, shape, deterministic, rngs):
  """Keeps each of an example's `shape` draws with probability 1 - rate."""
  if deterministic or rate == 0:
    return x
  if rngs is None:
    raise ValueError("dropout needs rngs when it is not deterministic")
  keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, shape))
  return jnp.where(keep(rngs()), x / (1 - rate), jnp.zeros((), x.dtype))
