"""Dropout and stochastic depth, drawn for each example separately.

What is dropped of an example depends on its own key and on the layer, never on
the rest of the batch. In a smaller batch the same is dropped.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Integer, Key

_AHEAD = 128  # calls; every layer that drops something makes one


class ExampleRngs:
  """A stream of random keys for each example of a batch.

  The keys of a call follow from the number of calls before it, so the same
  program draws the same numbers. Do not use it with JAX's "rbg" generators:
  under `vmap` they draw from the first key only.
  """

  def __init__(self, keys: Key[Array, "b"]):
    self._keys = keys
    self._calls = 0
    # The keys of the first calls are made in one operation: compiling a hundred
    # separate ones takes minutes.
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    self._ahead = fold(keys, jnp.arange(_AHEAD))  # [b, _AHEAD]
    self._draws = jax.vmap(jax.vmap(jax.random.uniform))(self._ahead)

  @classmethod
  def from_ids(cls, key: Array, ids: Integer[Array, "b"]) -> "ExampleRngs":
    """Folds each example's number into `key`; equal numbers draw the same."""
    return cls(jax.vmap(lambda i: jax.random.fold_in(key, i))(ids))

  def __call__(self) -> Key[Array, "b"]:
    """Returns one key for each example."""
    self._calls += 1
    calls = self._calls
    if calls < _AHEAD:
      return self._ahead[:, calls]
    return jax.vmap(lambda key: jax.random.fold_in(key, calls))(self._keys)

  def uniform(self) -> Float[Array, "b"]:
    """Returns one number in [0, 1) for each example; counts as a call."""
    keys = self()
    if self._calls < _AHEAD:
      return self._draws[:, self._calls]
    return jax.vmap(jax.random.uniform)(keys)

  def fork(self, rows: slice = slice(None)) -> "ExampleRngs":
    """Returns a separate stream for the examples that `rows` selects."""
    return ExampleRngs(self()[rows])


class Dropout(nnx.Module):
  """Sets elements to zero and divides what is kept by the keep rate."""

  def __init__(self, rate: float):
    self.rate = rate

  def __call__(
    self, x: Array, *, deterministic: bool, rngs: ExampleRngs | None = None
  ) -> Array:
    """Maps [b,...] to the same shape; needs `rngs` unless `deterministic`."""
    if deterministic or self.rate == 0:
      return x
    if rngs is None:
      raise ValueError("dropout needs rngs when it is not deterministic")
    keep = 1 - self.rate
    kept = self._draw(x, keep, rngs)
    return jnp.where(kept, x / keep, jnp.zeros((), x.dtype))

  def _draw(self, x: Array, keep: float, rngs: ExampleRngs) -> Array:
    """Returns what of `x` is kept, with the chance `keep`."""
    draw = jax.vmap(lambda key: jax.random.bernoulli(key, keep, x.shape[1:]))
    return draw(rngs())


class DropPath(Dropout):
  """Drops a residual branch of whole examples (stochastic depth).

  The input's leading axis is the batch; what is kept is divided by the keep
  rate.
  """

  def _draw(self, x: Array, keep: float, rngs: ExampleRngs) -> Array:
    kept = rngs.uniform() < jnp.float32(keep)
    return kept.reshape(-1, *(1,) * (x.ndim - 1))
