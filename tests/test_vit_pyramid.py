"""The plain ViT as a backbone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sseg_jax.models import backbones, vit
from sseg_jax.models.dropout import ExampleRngs
from sseg_jax.models.vit_pyramid import Upsample, ViTPyramid

SMALL = dict(
  width=16, patch=16, depth=2, num_heads=2, grid=2, position_rule="size"
)


# The ViTs of the DeiT paper without their class heads, and the pyramid.
@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "vit_count"), [("vit_s16", 21_665_664), ("vit_b16", 85_798_656)]
)
def test_parameters_and_levels(name, vit_count):
  model = nnx.eval_shape(
    lambda: backbones.build(
      name, drop_path=0.1, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0)
    )
  )

  def count(module):
    leaves = jax.tree.leaves(nnx.state(module, nnx.Param))
    return sum(leaf.size for leaf in leaves)

  d = model.width
  upsample = 2 * (2 * d * d + 2 * d) + d + (d // 2 + 1) * d
  assert count(model.vit) == vit_count
  assert count(model) == vit_count + upsample
  outputs = nnx.eval_shape(
    lambda model: model(jnp.zeros((2, 64, 96, 3))), model
  )
  assert list(outputs) == ["res2", "res3", "res4", "res5"]
  for level, value in outputs.items():
    stride = model.strides[level]
    shape = (2, 64 // stride, 96 // stride, model.channels[level])
    assert value.shape == shape


def test_upsampling_is_a_transposed_convolution(rng):
  layer = Upsample(3, 5, dtype=jnp.float32, rngs=nnx.Rngs(0))
  x = jnp.asarray(rng.normal(size=(2, 4, 6, 3)).astype(np.float32))
  # Each cell's own 2x2 pixels.
  kernel = np.asarray(layer.linear.kernel[...]).reshape(3, 2, 2, 5)
  bias = np.asarray(layer.linear.bias[...]).reshape(2, 2, 5)
  expected = np.zeros((2, 8, 12, 5), np.float32)
  for i in range(2):
    for j in range(2):
      expected[:, i::2, j::2] = np.asarray(x) @ kernel[:, i, j] + bias[i, j]
  np.testing.assert_allclose(layer(x), expected, atol=1e-5)


def test_levels_show_where_a_picture_changed(rng):
  model = ViTPyramid(**SMALL, rngs=nnx.Rngs(0))
  image = jnp.asarray(rng.normal(size=(1, 64, 64, 3)).astype(np.float32))
  run = nnx.jit(lambda model, image: model(image))
  one = run(model, image)
  moved = image.at[:, 16:32, 48:64].add(1.0)
  other = run(model, moved)
  for name, stride in model.strides.items():
    change = np.abs(one[name] - other[name]).sum((0, 3))
    y, x = np.unravel_index(change.argmax(), change.shape)
    assert (y * stride // 32, x * stride // 32) == (0, 1), name


@pytest.mark.slow
def test_branches_are_dropped_in_training_only(rng):
  model = ViTPyramid(**SMALL, drop_path=0.9, rngs=nnx.Rngs(0))
  still = ViTPyramid(**SMALL, rngs=nnx.Rngs(0))
  image = jnp.asarray(rng.normal(size=(4, 32, 32, 3)).astype(np.float32))
  run = nnx.jit(
    lambda model, train: model(
      image,
      train=train,
      rngs=ExampleRngs(jax.random.split(jax.random.key(3), 4)),
    ),
    static_argnums=1,
  )
  expected = run(still, False)["res4"]
  np.testing.assert_array_equal(run(model, False)["res4"], expected)
  np.testing.assert_array_equal(run(still, True)["res4"], expected)
  assert not np.allclose(run(model, True)["res4"], expected)


@pytest.mark.slow
def test_a_call_and_features_agree(rng):
  network = vit.ViT(
    width=16, patch=8, depth=2, num_heads=2, grid=4, rngs=nnx.Rngs(0)
  )
  image = jnp.asarray(rng.normal(size=(1, 16, 24, 3)).astype(np.float32))
  np.testing.assert_array_equal(network(image), network.features(image)[0])
