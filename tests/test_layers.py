"""Small layers against their formulas in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sseg_jax.models import layers

FLOAT = jnp.dtype("float32")


def draw(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def weights(linear):
  return np.asarray(linear.kernel[...]), np.asarray(linear.bias[...])


def test_pixels_of_the_mean_colour_become_zero():
  image = np.zeros((1, 1, 3, 3), np.float32)
  image[0, 0, 0] = layers.PIXEL_MEAN
  image[0, 0, 1] = np.add(layers.PIXEL_MEAN, layers.PIXEL_STD)
  got = layers.normalize_pixels(jnp.asarray(image))
  np.testing.assert_allclose(got[0, 0, 0], [0, 0, 0], atol=1e-6)
  np.testing.assert_allclose(got[0, 0, 1], [1, 1, 1], rtol=1e-5)
  black = (0 - 123.675) / 58.395
  np.testing.assert_allclose(got[0, 0, 2, 0], black, rtol=1e-5)


def test_pixels_may_be_bytes_and_are_normalised_before_they_are_rounded():
  image = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
  full = layers.normalize_pixels(jnp.asarray(image))
  rounded = layers.normalize_pixels(jnp.asarray(image), jnp.dtype("bfloat16"))
  assert full.dtype == jnp.float32 and rounded.dtype == jnp.bfloat16
  np.testing.assert_array_equal(full.astype(jnp.bfloat16), rounded)


def test_mlp_has_relu_between_its_layers_and_none_after_the_last():
  mlp = layers.MLP((4, 8, 8, 2), dtype=FLOAT, rngs=nnx.Rngs(0))
  x = draw(5, 4)
  expected = x
  for i, layer in enumerate(mlp.layers):
    kernel, bias = weights(layer)
    expected = expected @ kernel + bias
    if i < 2:
      expected = np.maximum(expected, 0)
  assert len(mlp.layers) == 3 and (expected < 0).any()
  np.testing.assert_allclose(mlp(jnp.asarray(x)), expected, atol=1e-5)


def projection(norm):
  return layers.Projection(6, 16, 3, norm=norm, dtype=FLOAT, rngs=nnx.Rngs(0))


def projected(model, x, normalise):
  kernel, bias = weights(model.fc1)
  hidden = np.maximum(normalise(x @ kernel + bias), 0)
  kernel, bias = weights(model.fc2)
  return hidden @ kernel + bias


def standardised(x, axis):
  return (x - x.mean(axis, keepdims=True)) / np.sqrt(
    x.var(axis, keepdims=True) + 1e-5
  )


@pytest.mark.parametrize(
  ("norm", "normalise"),
  [
    ("none", lambda x: x),
    ("ln", lambda x: standardised(x, -1)),
    ("bn", lambda x: standardised(x, 0)),
  ],
)
def test_projection_in_training(norm, normalise):
  model, x = projection(norm), draw(8, 6)
  got = model(jnp.asarray(x), train=True)
  np.testing.assert_allclose(got, projected(model, x, normalise), atol=1e-4)


def test_batch_norm_in_evaluation_uses_running_statistics():
  model, x = projection("bn"), draw(8, 6)
  kernel, bias = weights(model.fc1)
  model(jnp.asarray(x), train=True)
  mean, var = (x @ kernel + bias).mean(0), (x @ kernel + bias).var(0)
  np.testing.assert_allclose(model.norm.mean[...], 0.1 * mean, atol=1e-5)
  np.testing.assert_allclose(model.norm.var[...], 0.9 + 0.1 * var, atol=1e-4)
  got = model(jnp.asarray(x[:2]))

  def running(hidden):
    return (hidden - 0.1 * mean) / np.sqrt(0.9 + 0.1 * var + 1e-5)

  expected = projected(model, x[:2], running)
  np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("norm", ["bn", "ln"])
@pytest.mark.parametrize("queries", [(), (5,)])
def test_invalid_examples_have_no_part_in_statistics_and_gradients(
  norm, queries
):
  graphdef, params, state = nnx.split(projection(norm), nnx.Param, ...)
  valid = jnp.array([True, False, True, True])
  x = draw(4, *queries, 6)

  @jax.jit
  def run(params, state, x, valid):
    model = nnx.merge(graphdef, params, state)
    out = model(x, train=True, valid=valid)[jnp.array([0, 2, 3])]
    return jnp.sin(out).sum(), (out, nnx.split(model, nnx.Param, ...)[2])

  def result(rubbish, valid=valid):
    x[1] = rubbish
    return jax.value_and_grad(run, has_aux=True)(params, state, x, valid)

  expected = result(0)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(expected))
  for rubbish in (1000, np.nan, np.inf):
    jax.tree.map(np.testing.assert_array_equal, result(rubbish), expected)
  if norm == "bn":  # without the mask they would: the test can fail
    counted = result(1000, valid | True)[0][1][0]
    assert np.abs(counted - expected[0][1][0]).max() > 0.01


def test_a_batch_without_valid_examples_has_finite_statistics():
  model = projection("bn")
  got = model(jnp.asarray(draw(4, 6)), train=True, valid=jnp.zeros(4, bool))
  assert np.isfinite(got).all()
  assert np.isfinite(np.asarray(model.norm.var[...])).all()


def test_an_unknown_norm_is_named():
  with pytest.raises(ValueError, match="proj_norm='batch'"):
    projection("batch")


def test_gelu_is_jax_s_own():
  x = jnp.linspace(-6, 6, 1001)
  expected = jax.nn.gelu(x, approximate=False)
  np.testing.assert_allclose(layers.gelu(x), expected, atol=1e-6)
  # Halves are rounded once, at the end.
  x = x.astype(jnp.bfloat16)
  expected = jax.nn.gelu(x.astype(jnp.float32), approximate=False)
  np.testing.assert_allclose(
    layers.gelu(x).astype(jnp.float32), expected, rtol=2**-8, atol=1e-6
  )


@pytest.mark.slow
def test_heads_are_networks_of_their_own(rng):
  many = layers.Projection(
    6, 16, 6, norm="none", dtype=FLOAT, rngs=nnx.Rngs(0), heads=2
  )
  x, y = jnp.asarray(rng.normal(size=(2, 5, 6)), jnp.float32)
  cosines = []
  for i in range(2):
    one = layers.Projection(6, 8, 3, norm="none", dtype=FLOAT, rngs=nnx.Rngs(1))
    neurons = slice(8 * i, 8 * i + 8)
    one.fc1.kernel[...] = many.fc1.kernel[:, neurons]
    one.fc1.bias[...] = many.fc1.bias[neurons]
    one.fc2.kernel[...] = many.fc2.kernel[i]
    one.fc2.bias[...] = many.fc2.bias[i]
    cosines.append((layers.unit(one(x)) * layers.unit(one(y))).sum(-1))
  a, b = layers.unit(many(x)), layers.unit(many(y))
  np.testing.assert_allclose((a * b).sum(-1), sum(cosines) / 2, atol=1e-6)
  # The range of torch's own initial values, 1/√(neurons of one head).
  assert (
    0.9 / math.sqrt(8) < np.abs(many.fc2.kernel[...]).max() < 1 / math.sqrt(8)
  )
