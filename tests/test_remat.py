"""What is computed again gives the same gradients and is not kept."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sseg_jax import default_config
from sseg_jax.errors import InputError
from sseg_jax.models import remat, sseg
from sseg_jax.models.dropout import ExampleRngs
from sseg_jax.models.resnet import ResNet
from sseg_jax.models.swin import Swin

NETWORKS = {
  # Draws branches at random, and updates statistics.
  "swin": functools.partial(
    Swin, embed_dim=8, depths=(2, 2), num_heads=(1, 2), window=4, drop_path=0.5
  ),
  "resnet": functools.partial(ResNet, width=8, depths=(2, 2, 1, 1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_equal_and_what_is_kept_is_not(name, rng):
  image = jnp.asarray(rng.normal(size=(4, 64, 64, 3)).astype(np.float32))

  def run(policy):
    model = NETWORKS[name](remat=policy, rngs=nnx.Rngs(0))
    graphdef, *parts = nnx.split(model, nnx.Param, ...)
    params, rest = map(nnx.to_pure_dict, parts)

    def loss(params, rest):
      model = nnx.merge(graphdef, params, rest)
      rngs = ExampleRngs.from_ids(jax.random.key(1), jnp.arange(len(image)))
      levels = model(image, train=True, rngs=rngs)
      total = sum(jnp.square(x).mean() for x in levels.values())
      return total, nnx.to_pure_dict(nnx.split(model, nnx.Param, ...)[2])

    # What the forward pass hands to the backward pass.
    kept = jax.eval_shape(
      lambda params: jax.vjp(lambda p: loss(p, rest)[0], params)[1], params
    )
    kept = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kept))
    gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, rest)
    return jax.tree.leaves(gradients), kept

  expected, all_kept = run("none")
  largest = max(float(jnp.abs(x).max()) for x in expected)
  kept = []
  for policy in ("dots_saveable", "nothing_saveable"):
    found, bytes_kept = run(policy)
    kept.append(bytes_kept / all_kept)
    for a, b in zip(found, expected, strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * largest)
  print(f"{name}: keeps {kept[0]:.2f} and {kept[1]:.2f} of the bytes")
  assert kept[1] < kept[0] < 1


def test_every_policy_is_jax_s():
  for policy in remat.POLICIES[1:]:
    assert callable(getattr(jax.checkpoint_policies, policy))


def test_a_policy_that_does_not_exist_is_named():
  config = default_config.get_config()
  config.model.remat = "dots"
  with pytest.raises(InputError, match="model.remat='dots'.*dots_saveable"):
    sseg.build(config)


def test_parameters_are_those_of_a_model_that_keeps_everything(tiny_config):
  tiny_config.model.decoder_layers = 2
  expected = sseg.build(tiny_config)[1:]
  tiny_config.model.remat = "nothing_saveable"
  found = sseg.build(tiny_config)[1:]
  shapes = [
    [(jax.tree_util.keystr(p), x.shape) for p, x in flat]
    for flat in map(
      lambda tree: jax.tree.flatten_with_path(tree)[0], (expected, found)
    )
  ]
  assert shapes[0] == shapes[1]
