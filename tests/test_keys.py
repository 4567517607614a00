"""Keys of initial parameters are flax's own, at less cost."""

import jax
import numpy as np
from flax import nnx

from sseg_jax.models import keys


def draws(rngs):
  return [jax.random.key_data(rngs.params()) for _ in range(3)]


def test_keys_are_those_of_flax():
  key = jax.random.key(3)
  expected = draws(nnx.Rngs(params=key))
  np.testing.assert_array_equal(draws(keys.parameter_keys(3)), expected)
  traced = jax.jit(lambda key: draws(keys.parameter_keys(key)))(key)
  np.testing.assert_array_equal(traced, expected)


def test_the_count_is_no_part_of_the_program():
  """There, reading it costs seconds for each network."""

  def program(make):
    made = jax.make_jaxpr(lambda key: draws(make(key)))(jax.random.key(0))
    return [e.primitive.name for e in made.eqns]

  assert "add" not in program(keys.parameter_keys)
  # As it is in flax's: the test can fail.
  assert "add" in program(lambda key: nnx.Rngs(params=key))
