"""`matching.match` against scipy, on costs: ties may be broken otherwise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from sseg_jax import matching


def _match(cost, valid):
  return _jitted(jnp.asarray(cost), jnp.asarray(valid))


_jitted = jax.jit(matching.match)


def _problems(kind: str, size: int, k: int, n: int):
  rng = np.random.default_rng(sum(map(ord, kind)))
  shape = (size, k, n)
  make = {
    "random": functools.partial(rng.uniform, size=shape),
    "tied": functools.partial(rng.integers, 0, 4, shape),
    # Rows that want the same queries: the longest augmenting paths.
    "contended": lambda: (
      rng.uniform(size=(size, 1, n)) + 0.05 * rng.uniform(size=shape)
    ),
    "equal": lambda: np.full(shape, 7.0),
    "duplicates": lambda: np.repeat(rng.uniform(size=(size, 1, n)), k, 1),
    "huge range": lambda: 10 ** rng.uniform(-30, 30, shape),
    "any scale": lambda: (
      rng.normal(size=shape) * 10 ** rng.uniform(-33, 37, (size, 1, 1))
    ),
    "offset": lambda: (
      rng.uniform(size=shape) + 10 ** rng.uniform(-6, 6, (size, k, 1))
    ),
    "forbidden": lambda: np.where(
      rng.uniform(size=shape) < 0.2,
      10 ** rng.uniform(6, 30, shape),
      rng.uniform(size=shape),
    ),
    # Never two in a row or column, so that an assignment without them exists.
    "infinite": lambda: np.where(
      (
        np.arange(n) - np.arange(k)[:, None]
        == rng.integers(n, size=(size, 1, 1))
      ),
      np.inf,
      rng.uniform(size=shape) * 10 ** rng.uniform(-33, 37, (size, 1, 1)),
    ),
  }
  return make[kind]().astype(np.float32)


@pytest.mark.parametrize(
  "kind",
  [
    "random",
    "tied",
    "contended",
    "equal",
    "duplicates",
    "huge range",
    "any scale",
    "offset",
    "forbidden",
    "infinite",
  ],
)
def test_match_costs_what_scipy_s_assignment_costs(kind):
  size, k, n = 1000, 6, 9
  cost = _problems(kind, size, k, n)
  index = np.asarray(_match(cost, np.ones((size, k), bool)))
  assert all(len(set(row)) == k for row in index.tolist())

  for c, mine in zip(cost.astype(np.float64), index, strict=True):
    _check(c, mine)


def _check(cost, mine):
  """Compares the sums' excess over each row's least cost, in float64."""
  excess = cost - cost.min(1, keepdims=True)
  expected = excess[optimize.linear_sum_assignment(cost)].sum()
  got = excess[np.arange(len(mine)), mine].sum()
  # Over sixty decades ours is sometimes below scipy's.
  assert got <= expected * (1 + 1e-6)


def test_match_at_the_size_of_training():
  cost = np.random.default_rng(2).uniform(size=(48, 8, 64)).astype(np.float32)
  index = np.asarray(_match(cost, np.ones((48, 8), bool)))
  for c, mine in zip(cost.astype(np.float64), index, strict=True):
    _check(c, mine)
