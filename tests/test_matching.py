"""Costs against the formulas, assignments against brute force."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sseg_jax import matching

_jitted = jax.jit(matching.match)


def _match(cost, valid):
  return _jitted(jnp.asarray(cost), jnp.asarray(valid))


def _total(cost, index, valid):
  chosen = np.take_along_axis(cost, np.asarray(index)[..., None], -1)[..., 0]
  return np.where(valid, chosen, 0).sum(-1)


def _least(cost, rows):
  """The least total over all ways to give `rows` queries of their own."""
  ways = itertools.permutations(range(cost.shape[1]), len(rows))
  return min(
    sum(cost[r, q] for r, q in zip(rows, w, strict=True)) for w in ways
  )


def _sum_cost(logits, mask, dice, focal):
  """The cost of one mask and one query, pixel by pixel in float64."""
  logits, mask = logits.astype(np.float64), mask.astype(np.float64)
  p = 1 / (1 + np.exp(-logits))
  positive = 0.25 * (1 - p) ** 2 * -np.log(p)
  negative = 0.75 * p**2 * -np.log(1 - p)
  focal_cost = (positive * mask + negative * (1 - mask)).sum() / mask.size
  dice_cost = 1 - (2 * (p * mask).sum() + 1) / (p.sum() + mask.sum() + 1)
  return dice * dice_cost + focal * focal_cost


def test_cost_matrix_equals_the_formula_pixel_by_pixel():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(2, 3, 5, 4, 6)).astype(np.float32)  # layers first
  masks = rng.integers(0, 2, (3, 2, 4, 6)).astype(np.float32)
  cost = matching.cost_matrix(
    jnp.asarray(logits), jnp.asarray(masks), dice=1.0, focal=20.0
  )
  assert cost.shape == (2, 3, 2, 5)
  for layer, b, k, n in np.ndindex(cost.shape):
    expected = _sum_cost(logits[layer, b, n], masks[b, k], 1.0, 20.0)
    np.testing.assert_allclose(cost[layer, b, k, n], expected, rtol=1e-5)


def test_cost_matrix_is_float32_and_finite_for_saturated_bfloat16_logits():
  logits = jnp.array([[[300.0, -300.0]]], jnp.bfloat16)
  cost = matching.cost_matrix(logits[None], jnp.array([[[[0.0, 1.0]]]]))
  assert cost.dtype == jnp.float32
  # Wrong on both pixels, by 300: (0.25 + 0.75) * 300 / 2 pixels, times 20.
  np.testing.assert_allclose(cost, [[[20 * 150 + 1 - 1 / 3]]], rtol=1e-5)


@pytest.mark.parametrize("levels", [3, 1000])
def test_match_is_optimal_for_the_valid_rows(levels):
  rng = np.random.default_rng(levels)
  cost = rng.integers(0, levels, (200, 4, 6)).astype(np.float32)
  valid = rng.uniform(size=(200, 4)) < 0.7
  index = np.asarray(_match(cost, valid))
  assert index.dtype == np.int32
  expected = [
    _least(c, np.flatnonzero(v)) for c, v in zip(cost, valid, strict=True)
  ]
  np.testing.assert_array_equal(_total(cost, index, valid), expected)
  assert all(len(set(row)) == 4 for row in index.tolist())
  assert index.min() >= 0 and index.max() < 6


def test_match_takes_a_cost_that_is_not_finite_only_where_nothing_is_left():
  bad = [np.nan, np.inf, -np.inf]
  cost = np.array([[bad, [1, 5, 9], [1, 2, 9]]], np.float32)
  index = np.asarray(_match(cost, np.ones((1, 3), bool)))
  # Rows 1 and 2 share columns 0 and 1 as if row 0 were not there.
  np.testing.assert_array_equal(index, [[2, 0, 1]])


@pytest.mark.parametrize("scale", [1.2e-37, 1e-6, 1.0, 3e38])
def test_match_takes_few_infinite_costs_and_then_the_least_finite_sum(scale):
  rng = np.random.default_rng(0)
  cost = (scale * rng.uniform(0.1, 1, (200, 3, 4))).astype(np.float32)
  cost *= rng.choice([-1, 1], cost.shape).astype(np.float32)
  cost[rng.uniform(size=cost.shape) < 0.5] = np.inf
  index = np.asarray(_match(cost, np.ones((200, 3), bool)))
  finite = np.isfinite(cost)
  sums = np.where(finite, cost, 0).astype(np.float64) / scale
  rows, ways = np.arange(3), list(itertools.permutations(range(4), 3))
  infinite = []
  for mine, c, ok in zip(index, sums, finite, strict=True):
    each = [((~ok)[rows, w].sum(), c[rows, w].sum()) for w in ways]
    fewest, least = min(each)
    infinite.append(fewest)
    assert (~ok)[rows, mine].sum() == fewest
    assert c[rows, mine].sum() == pytest.approx(least, rel=1e-6, abs=1e-6)
  assert set(infinite) == {0, 1, 2}


def test_an_invalid_row_neither_displaces_a_valid_one_nor_is_read():
  cost = np.array([[[np.nan] * 3, [0, 1, 2], [-1e9] * 3]], np.float32)
  index = np.asarray(_match(cost, np.array([[False, True, False]])))
  assert index[0, 1] == 0
  assert sorted(index[0]) == [0, 1, 2]


def test_match_of_as_many_masks_as_queries():
  cost = np.array([[[4, 1, 3], [2, 0, 5], [3, 2, 2]]], np.float32)
  index = np.asarray(_match(cost, np.ones((1, 3), bool)))
  np.testing.assert_array_equal(index, [[1, 0, 2]])


def test_more_masks_than_queries_is_an_error():
  with pytest.raises(ValueError, match="3 masks need as many queries"):
    _match(np.zeros((1, 3, 2)), np.ones((1, 3), bool))


def test_match_is_the_same_in_any_batch():
  rng = np.random.default_rng(1)
  cost = rng.uniform(size=(7, 3, 5)).astype(np.float32)
  valid = rng.uniform(size=(7, 3)) < 0.8
  together = _match(cost, valid)
  alone = [
    _match(c[None], v[None])[0] for c, v in zip(cost, valid, strict=True)
  ]
  np.testing.assert_array_equal(together, alone)
