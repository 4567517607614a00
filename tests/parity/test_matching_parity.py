"""`matching.match` against scipy, on costs: ties may be broken otherwise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sseg_jax import matching

optimize = pytest.importorskip("scipy.optimize")

PROBLEMS = 10_000


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
    "huge range": lambda: 10 ** rng.uniform(-6, 6, shape),
    "negative": lambda: rng.normal(size=shape) * 1e3,
    "infinite": lambda: np.where(
      rng.uniform(size=shape) < 0.4, np.inf, rng.uniform(size=shape)
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
    "negative",
    "infinite",
  ],
)
def test_match_costs_what_scipy_s_assignment_costs(kind):
  size, k, n = PROBLEMS // 8, 6, 9
  cost = _problems(kind, size, k, n)
  valid = np.random.default_rng(0).uniform(size=(size, k)) < 0.8
  valid[: size // 2] = True
  index = np.asarray(_match(cost, valid))
  assert all(len(set(row)) == k for row in index.tolist())

  # Scipy refuses infinite costs where no finite assignment exists; both sides
  # are compared under the same large stand-in, exact in float64.
  stand_in = np.where(np.isfinite(cost), cost, 1e3).astype(np.float64)
  for c, v, mine in zip(stand_in, valid, index, strict=True):
    rows, columns = optimize.linear_sum_assignment(c[v])
    expected = c[v][rows, columns].sum()
    got = c[v, mine[v]].sum()
    scale = np.abs(c[v]).max(initial=0) if kind == "huge range" else 0
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-6 * scale)


def test_match_at_the_size_of_training():
  cost = np.random.default_rng(2).uniform(size=(48, 8, 64)).astype(np.float32)
  index = np.asarray(_match(cost, np.ones((48, 8), bool)))
  for c, mine in zip(cost, index, strict=True):
    expected = c[optimize.linear_sum_assignment(c)].sum()
    assert c[np.arange(8), mine].sum() == pytest.approx(expected, rel=1e-6)
