"""The ViT by itself: sizes, features, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sseg_jax.errors import InputError
from sseg_jax.models import attention, positions, vit, vit_weights
from sseg_jax.models.kernels import flash

TINY = dict(patch=4, width=16, depth=3, num_heads=2, grid=6)


def tiny(**changes):
  return vit.ViT(**(TINY | changes), rngs=nnx.Rngs(0))


def image(h=16, w=20):
  return jax.random.normal(jax.random.key(1), (2, h, w, 3))


def count(name):
  _, shapes = vit_weights.build(vit.VIT_SIZES[name])
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.slow
def test_parameters_of_the_published_networks():
  assert count("dino_vits8") == 21_670_272
  # Four registers more, no token for masked patches in either.
  assert count("dinov2_vits14_reg") - count("dinov2_vits14") == 4 * 384
  assert count("deit_s16") == count("dino_vits16")


@pytest.mark.slow
@pytest.mark.parametrize("registers", [0, 3])
def test_one_token_a_patch_after_the_prefix(registers):
  model = tiny(registers=registers, layer_scale=True)
  tokens = model(image())
  assert model.prefix == 1 + registers
  assert tokens.shape == (2, model.prefix + 4 * 5, 16)
  assert tokens.dtype == jnp.float32


@pytest.mark.slow
def test_intermediate_layers_and_parts_of_the_attention():
  model = tiny()
  first, last = model.features(image(), [("tokens", 0), ("tokens", -1)])
  np.testing.assert_array_equal(last, model(image()))
  assert not np.allclose(first, last)
  block = model.blocks[2]
  x = model.embed(image())
  for other in model.blocks[:2]:
    x = other(x)
  parts = jnp.split(block.qkv(block.norm1(x)), 3, -1)
  for kind, part in zip(("queries", "keys", "values"), parts, strict=True):
    (found,) = model.features(image(), [(kind, 2)])
    np.testing.assert_allclose(found, part, rtol=1e-6)


@pytest.mark.slow
def test_examples_do_not_depend_on_each_other():
  model = tiny()
  np.testing.assert_allclose(
    model(image())[1], model(image()[1:])[0], atol=1e-6
  )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_attention_is_jax_s_own(dtype):
  q, k, v = 2 * jax.random.normal(jax.random.key(0), (3, 2, 7, 3, 8))
  expected = jax.nn.dot_product_attention(q, k, v)
  ours = attention.attend(*(x.astype(dtype) for x in (q, k, v)))
  assert ours.dtype == dtype
  tolerance = 1e-5 if dtype == jnp.float32 else 0.1
  np.testing.assert_allclose(ours.astype(jnp.float32), expected, atol=tolerance)


def test_three_products_make_what_one_does(monkeypatch):
  rng = np.random.default_rng(0)
  block = vit.Block(
    16,
    2,
    mlp_ratio=2,
    layer_scale=False,
    epsilon=1e-6,
    dtype=jnp.bfloat16,
    rngs=nnx.Rngs(0),
  )
  block.qkv.bias[...] = jnp.asarray(rng.normal(size=48), jnp.float32)
  y = jnp.asarray(rng.normal(size=(2, 5, 16)), jnp.bfloat16)
  expected = block._queries_keys_values(y)
  monkeypatch.setattr(flash, "_capability", lambda: 9.0)
  assert flash.has_cudnn(jnp.bfloat16, 8)
  for a, b in zip(block._queries_keys_values(y), expected, strict=True):
    np.testing.assert_array_equal(a, b)
  # In float32, or on an older GPU, there is no such kernel.
  assert not flash.has_cudnn(jnp.float32, 8)
  monkeypatch.setattr(flash, "_capability", lambda: 7.5)
  assert not flash.has_cudnn(jnp.bfloat16, 8)


def test_a_ramp_of_positions():
  # Worked out by hand for 28 to 56 cells with A = -0.75 and the 0.1.
  ramp = positions.resize_matrix(28, 56, "dino") @ np.arange(28.0)
  np.testing.assert_allclose(
    ramp[[0, 1, 2, 3, 27, 28, 54, 55]],
    [-0.10553, 0.19034, 0.66536, 1.29394]
    + [13.27343, 13.67978, 26.76942, 27.09613],
    atol=2e-5,
  )


def test_a_table_of_the_right_size_stays():
  table = jax.random.normal(jax.random.key(0), (5, 5, 2))
  for rule in positions.RULES:
    out = positions.resize_positions(table, (5, 5), rule)
    np.testing.assert_array_equal(out, table)
  with pytest.raises(ValueError, match="linear"):
    positions.resize_matrix(5, 6, "linear")


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda: tiny(num_heads=3), "width 16 .* 3 heads"),
    (lambda: tiny(position_rule="cubic"), "position_rule='cubic'.*antialias"),
    (lambda: tiny()(image(16, 18)), "16x18 pixels.*patch of 4"),
    (lambda: tiny().features(image(), [("keys", 3)]), "layer=3.*0 to 2"),
    (lambda: tiny().features(image(), [("masks", 0)]), "feature='masks'.*keys"),
  ],
)
def test_what_cannot_work_is_told(make, message):
  with pytest.raises(InputError, match=message):
    make()
