"""The convolution's gradients are those of XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sseg_jax.models.kernels import convolution


def conv(size, stride, padding, dtype=jnp.float32, **options):
  return nnx.Conv(
    5,
    6,
    (size, size),
    strides=(stride, stride),
    padding=padding,
    dtype=dtype,
    rngs=nnx.Rngs(0),
    **options,
  )


def gradients(layer, x):
  def loss(layer, x):
    y = layer(x)
    weight = jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)
    return (y * weight).sum()

  value, found = nnx.jit(nnx.value_and_grad(loss, argnums=(0, 1)))(layer, x)
  return value, *jax.tree.leaves(found)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["SAME", "VALID", 1])
def test_gradients(size, stride, padding):
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 36, 40, 5)), "f4")
  ours = conv(
    size,
    stride,
    padding,
    conv_general_dilated=convolution.conv_general_dilated,
  )
  theirs = conv(size, stride, padding)
  for a, b in zip(gradients(ours, x), gradients(theirs, x), strict=True):
    assert a.shape == b.shape and jnp.abs(b).max() > 0
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


def test_bfloat16_is_no_worse_than_xla():
  x = jnp.asarray(
    np.random.default_rng(0).normal(size=(2, 18, 20, 5)), jnp.bfloat16
  )
  own = {"conv_general_dilated": convolution.conv_general_dilated}
  exact = gradients(conv(3, 1, "SAME"), x.astype(jnp.float32))
  ours = gradients(conv(3, 1, "SAME", jnp.bfloat16, **own), x)
  theirs = gradients(conv(3, 1, "SAME", jnp.bfloat16), x)
  for a, b, e in zip(ours, theirs, exact, strict=True):
    assert a.dtype == b.dtype
    errors = (jnp.abs(g.astype(jnp.float32) - e).max() for g in (a, b))
    rounding = 2**-8 * float(jnp.abs(e).max())
    assert next(errors) <= next(errors) + rounding


def test_what_is_not_plain_is_left_to_xla():
  x = jnp.ones((1, 9, 9, 6))
  own = {"conv_general_dilated": convolution.conv_general_dilated}
  for options in ({"kernel_dilation": 2}, {"feature_group_count": 3}):
    layers = (
      nnx.Conv(6, 6, (3, 3), rngs=nnx.Rngs(0), **options, **given)
      for given in (own, {})
    )
    a, b = (layer(x) for layer in layers)
    np.testing.assert_array_equal(a, b)


def test_only_a_cpu_gets_the_shifted_products():
  def loss(kernel):
    return convolution.conv_general_dilated(x, kernel, (1, 1), "SAME").sum()

  x, kernel = jnp.ones((1, 16, 16, 3)), jnp.ones((3, 3, 3, 4))
  traced = jax.jit(jax.grad(loss)).trace(kernel)
  texts = {
    platform: traced.lower(lowering_platforms=(platform,)).as_text()
    for platform in ("cpu", "tpu", "cuda")
  }
  assert texts["cpu"].count("dot_general") == 9
  assert not any("dot_general" in texts[p] for p in ("tpu", "cuda"))
