"""The convolutional backbone: shapes, and how far its features see."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sseg_jax import errors
from sseg_jax.models import backbones, conv

SIZE = 96


@functools.cache
def tiny():
  return backbones.build(
    "conv_tiny", drop_path=0.0, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0)
  )


def test_levels_have_the_channels_and_strides_they_tell():
  model = tiny()
  outputs = nnx.eval_shape(
    lambda model: model(jnp.zeros((2, 64, 96, 3))), model
  )
  assert list(outputs) == ["res2", "res3", "res4", "res5"]
  for name, level in outputs.items():
    stride = model.strides[name]
    shape = (2, 64 // stride, 96 // stride, model.channels[name])
    assert level.shape == shape
  assert list(model.strides.values()) == [4, 8, 16, 32]


def test_space_to_depth_keeps_each_patch_together():
  x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
  got = conv.space_to_depth(x, 2)
  assert got.shape == (2, 2, 3, 12)
  np.testing.assert_array_equal(got[1, 1, 2], x[1, 2:4, 4:6].reshape(-1))


@functools.cache
def seen():
  """Which pixels change the middle feature of res2 and of res3."""

  @jax.jit
  def gradients(image):
    def middle(image, name):
      level = tiny()(image)[name]
      weights = jnp.arange(1.0, 1 + level.shape[-1])
      return level[0, level.shape[1] // 2, level.shape[2] // 2] @ weights

    return {n: jax.grad(middle)(image, n)[0] for n in ("res2", "res3")}

  image = np.random.default_rng(0).normal(size=(1, SIZE, SIZE, 3))
  found = gradients(jnp.asarray(image, jnp.float32))
  return {name: np.abs(g).sum(-1) > 0 for name, g in found.items()}


@pytest.mark.parametrize("name", ["res2", "res3"])
def test_a_feature_sees_its_receptive_field_and_no_further(name):
  rows, columns = np.nonzero(seen()[name])
  side = tiny().receptive_field(name)
  assert side < SIZE
  assert np.ptp(rows) + 1 == side and np.ptp(columns) + 1 == side


def test_receptive_fields_of_unknown_levels():
  with pytest.raises(KeyError):
    tiny().receptive_field("res6")


def test_an_unknown_backbone_is_named_with_those_that_exist():
  with pytest.raises(errors.InputError, match="'resnet'.*swin_s"):
    backbones.build(
      "resnet", drop_path=0.0, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0)
    )
