"""What is dropped depends on the example and the layer alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sseg_jax.models import dropout


def rngs_of(ids):
  ids = jnp.asarray(np.asarray(ids, np.uint32))
  return dropout.ExampleRngs.from_ids(jax.random.key(0), ids)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [dropout.Dropout, dropout.DropPath])
def test_an_example_loses_the_same_in_any_batch(kind):
  layer, x = kind(0.5), jnp.ones((64, 3, 5))

  def twice(ids):
    rngs = rngs_of(ids)
    ones = x[: len(ids)]
    return [layer(ones, deterministic=False, rngs=rngs) for _ in range(2)]

  first, second = twice(range(64))
  some = np.arange(60, 4, -7)
  for whole, part in zip((first, second), twice(some), strict=True):
    np.testing.assert_array_equal(whole[some], part)
  # The next call draws anew, and so does a fork, for the rows it is given.
  assert (first != second).any()
  rngs = rngs_of(range(64))
  forked = layer(
    x[::4], deterministic=False, rngs=rngs.fork(slice(None, None, 4))
  )
  assert (forked != first[::4]).any()
  assert {0.0, 2.0} == set(np.unique(forked).tolist())


def test_draws_are_those_of_each_call_on_its_own(monkeypatch):
  layers = dropout.Dropout(0.5), dropout.DropPath(0.5)
  x = jnp.ones((16, 3, 5))

  def draws():
    rngs = rngs_of(range(16))
    return [
      layer(x, deterministic=False, rngs=rngs)
      for _ in range(4)
      for layer in layers
    ]

  together = draws()
  monkeypatch.setattr(dropout, "_AHEAD", 3)  # the others one by one
  np.testing.assert_array_equal(together, draws())
  key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 5), 2)
  kept = jax.random.bernoulli(key, 0.5, (1, 1))
  assert (together[1][5] != 0).all() == kept.item()


def test_drop_path_drops_whole_examples_and_keeps_the_mean():
  drop = dropout.DropPath(0.25)
  x = jnp.ones((400, 2, 3))
  got = np.asarray(drop(x, deterministic=False, rngs=rngs_of(range(400))))
  rows = got.reshape(400, -1)
  assert (rows == rows[:, :1]).all()
  np.testing.assert_allclose(np.unique(rows), [0, 1 / 0.75], rtol=1e-6)
  assert 0.2 < (rows[:, 0] == 0).mean() < 0.3


def test_drop_path_is_the_identity_in_evaluation_and_asks_for_its_key():
  x = jnp.ones((4, 3))
  np.testing.assert_array_equal(dropout.DropPath(0.5)(x, deterministic=True), x)
  np.testing.assert_array_equal(dropout.DropPath(0)(x, deterministic=False), x)
  with pytest.raises(ValueError, match="needs rngs"):
    dropout.DropPath(0.5)(x, deterministic=False)
