"""Attention in one kernel equals attention in several steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental.pallas import tpu as pltpu

from sseg_jax.models import attention, vit
from sseg_jax.models.kernels import flash
from sseg_jax.pseudo_masks import tokens as tokens_module


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1, 65, 128, 197])
def test_equals_plain_attention(tokens):
  rng = np.random.default_rng(0)
  q, k, v = jnp.asarray(rng.normal(size=(3, 2, tokens, 2, 32)), jnp.float32)
  # What stands in the padding makes no difference.
  padding = ((0, 0), (0, 128 * -(-tokens // 128) - tokens), (0, 0), (0, 0))
  padded = (jnp.pad(x, padding, constant_values=3) for x in (q, k, v))
  with pltpu.force_tpu_interpret_mode():
    found = jax.jit(flash.attend, static_argnums=3)(*padded, tokens)
  expected = attention.attend(q, k, v)
  assert found.shape == expected.shape
  np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_tokens_of_a_network_that_attends_in_one_kernel():
  rng = np.random.default_rng(0)
  network = vit.ViT(
    patch=8, width=32, depth=2, num_heads=2, grid=4, rngs=nnx.Rngs(0)
  )
  graphdef, frozen = nnx.split(network)
  made = tokens_module.Tokens(
    k=4,
    graphdef=graphdef,
    frozen=frozen,
    parts=(("tokens", 1),),
    iterations=3,
    metric="cosine",
    init="kmeans++",
    dtype=jnp.float32,
  )
  image = jnp.asarray(rng.integers(256, size=(2, 32, 48, 3)), jnp.uint8)
  with pltpu.force_tpu_interpret_mode():
    found = jax.jit(made.with_flash_attention().features)(frozen, image)
  expected = made.features(frozen, image)
  np.testing.assert_allclose(found, expected, atol=1e-5)
  assert found.shape == (2, 4, 6, 32)
  # The network itself is left as it was.
  assert not nnx.merge(made.graphdef, frozen).blocks[0].flash


@pytest.mark.parametrize(
  ("tokens", "expected"),
  [(1, (1, 128)), (785, (1, 896)), (1024, (1, 1024)), (3137, (5, 640))],
)
def test_blocks_hold_all_tokens_with_little_padding(tokens, expected):
  assert flash.block_size(tokens) == expected
