"""Shapes and switches of the decoder; parity is in tests/parity."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sseg_jax.models import maskformer, pixel_decoder, transformer
from sseg_jax.models.dropout import ExampleRngs

CHANNELS = {"res2": 8, "res3": 8, "res4": 16, "res5": 16}
SIZES = dict(
  hidden_dim=16,
  mask_dim=12,
  num_queries=5,
  decoder_layers=3,
  num_heads=4,
  ffn_dim=32,
  dropout=0.0,
  memory="res5",
  deep_supervision=True,
)


@functools.cache  # one build of each; the tests change no parameter
def tiny(dtype="float32", **overrides):
  """Builds a tiny decoder with random parameters, without compiling."""
  model = nnx.eval_shape(
    lambda: maskformer.MaskFormer(
      CHANNELS,
      **(SIZES | overrides),
      dtype=jnp.dtype(dtype),
      rngs=nnx.Rngs(0),
    )
  )
  graphdef, state = nnx.split(model)
  rng = np.random.default_rng(0)
  state = jax.tree.map(
    lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), state
  )
  return nnx.merge(graphdef, state)


@functools.cache
def levels(height=32, width=64, dtype="float32"):
  rng = np.random.default_rng(1)
  return {
    name: jnp.asarray(
      rng.normal(size=(2, height // stride, width // stride, channels)), dtype
    )
    for (name, channels), stride in zip(
      CHANNELS.items(), (4, 8, 16, 32), strict=True
    )
  }


@nnx.jit
def evaluated(model, features):
  return model(features)


@nnx.jit
def trained(model, features, key):
  return model(
    features, train=True, rngs=ExampleRngs.from_ids(key, jnp.arange(2))
  )


@pytest.mark.slow
def test_training_gives_the_masks_of_every_layer_and_evaluation_of_the_last():
  key = jax.random.key(0)
  in_training = trained(tiny(), levels(), key)
  in_evaluation = evaluated(tiny(), levels())
  assert in_training.mask_logits.shape == (3, 2, 5, 8, 16)
  assert in_evaluation.mask_logits.shape == (1, 2, 5, 8, 16)
  assert in_evaluation.query_features.shape == (2, 5, 16)
  assert in_evaluation.pixel_features.shape == (2, 8, 16, 16)
  # Without dropout the last layer is the same in both.
  for train, test in zip(in_training, in_evaluation, strict=True):
    if train.shape != test.shape:
      assert np.abs(train[0] - train[-1]).max() > 1e-3  # layers differ
      train = train[-1:]
    np.testing.assert_allclose(train, test, atol=1e-4)


@pytest.mark.slow
def test_without_deep_supervision_the_last_layer_stands_alone():
  def shape(**overrides):
    outputs = nnx.eval_shape(
      lambda m, x: m(x, train=True), tiny(**overrides), levels()
    )
    return outputs.mask_logits.shape

  assert shape() == (3, 2, 5, 8, 16)
  assert shape(deep_supervision=False) == (1, 2, 5, 8, 16)


@pytest.mark.slow
def test_dropout_draws_from_its_key():
  model = tiny(dropout=0.5)
  first, same, other = (
    trained(model, levels(), jax.random.key(seed)).query_features
    for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(first, same)
  assert np.abs(first - other).max() > 0.1


def test_mask_logits_are_float32_whatever_the_products_are():
  outputs = nnx.eval_shape(
    lambda m, x: m(x), tiny("bfloat16"), levels(dtype="bfloat16")
  )
  assert outputs.mask_logits.dtype == jnp.float32
  assert outputs.query_features.dtype == jnp.bfloat16


@pytest.mark.slow
def test_queries_attend_to_the_level_that_is_named():
  def sees(memory, level):
    features = dict(levels())
    before = evaluated(tiny(memory=memory), features).query_features
    features[level] = features[level] + 1
    after = evaluated(tiny(memory=memory), features).query_features
    return np.abs(before - after).max() > 1e-3

  assert sees("res5", "res5") and not sees("res5", "res3")


@pytest.mark.parametrize(("height", "width", "dim"), [(3, 5, 8), (1, 4, 12)])
def test_sine_positions_number_by_number(height, width, dim):
  got = transformer.sine_positions(height, width, dim)
  assert got.shape == (height, width, dim) and got.dtype == np.float32
  half = dim // 2
  for y, x, i in np.ndindex(height, width, dim):
    place, length = (y, height) if i < half else (x, width)
    j = i % half
    angle = (place + 1) / length * 2 * math.pi
    angle /= 10_000 ** (2 * (j // 2) / half)
    expected = math.cos(angle) if j % 2 else math.sin(angle)
    assert got[y, x, i] == pytest.approx(expected, abs=1e-4)


def test_upsampling_repeats_each_cell_or_takes_the_nearest():
  x = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
  got = pixel_decoder.upsample_nearest(jnp.asarray(x), 4, 9)
  expected = np.kron(x[0, :, :, 1], np.ones((2, 3)))
  np.testing.assert_array_equal(got[0, :, :, 1], expected)
  got = pixel_decoder.upsample_nearest(jnp.asarray(x), 3, 5)
  expected = x[:, [0, 0, 1]][:, :, [0, 0, 1, 1, 2]]
  np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("features", "groups"), [(8, 1), (48, 6), (256, 32)])
def test_group_norms_have_eight_features_and_at_most_thirty_two_groups(
  features, groups
):
  block = nnx.eval_shape(
    lambda: pixel_decoder.ConvNorm(
      4,
      features,
      1,
      activate=True,
      dtype=jnp.dtype("float32"),
      rngs=nnx.Rngs(0),
    )
  )
  assert block.norm.num_groups == groups
