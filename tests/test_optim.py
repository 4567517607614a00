import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sseg_jax import optim
from sseg_jax.models import flax_versions


def _optim(**changes):
  fields = dict(
    schedule="cosine",
    power=1.0,
    layer_decay=1.0,
    peak_lr=5e-4,
    start_lr=1.25e-6,
    end_lr=1.25e-5,
    warmup_steps=10,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=0.05,
    clip_norm=5.0,
  )
  return types.SimpleNamespace(**{**fields, **changes})


def _config(total_steps=100, teacher_masks=False, **changes):
  return types.SimpleNamespace(
    optim=_optim(**changes),
    total_steps=total_steps,
    text=types.SimpleNamespace(frozen=False),
    model=types.SimpleNamespace(frozen=False, teacher_masks=teacher_masks),
  )


@pytest.mark.parametrize(
  "step, expected",
  [
    (0, 1.25e-6),
    (5, (1.25e-6 + 5e-4) / 2),
    (10, 5e-4),
    (55, (5e-4 + 1.25e-5) / 2),  # half-way down the cosine
    (100, 1.25e-5),
    (1000, 1.25e-5),
  ],
)
def test_schedule(step, expected):
  rate = optim.schedule(_optim(), 100)(step)
  np.testing.assert_allclose(rate, expected, rtol=1e-5)


def test_schedule_without_warmup_starts_at_the_peak():
  rate = optim.schedule(_optim(warmup_steps=0), 100)
  np.testing.assert_allclose(rate(0), 5e-4, rtol=1e-6)


class _Model(nnx.Module):
  def __init__(self, rngs):
    self.patch_embed = nnx.Conv(3, 8, (4, 4), rngs=rngs)
    self.blocks = flax_versions.List([nnx.Linear(8, 8, rngs=rngs)])
    self.norm = nnx.LayerNorm(8, rngs=rngs)
    self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
    self.token_embedding = nnx.Embed(16, 8, rngs=rngs)
    self.position_embedding = nnx.Param(jnp.zeros((5, 8)))
    self.relative_position_bias = nnx.Param(jnp.zeros((9, 2)))
    self.queries = nnx.Param(jnp.zeros((4, 8)))
    self.logit_scale = nnx.Param(jnp.zeros(()))


def test_decay_mask():
  params = nnx.to_pure_dict(nnx.state(_Model(nnx.Rngs(0)), nnx.Param))
  mask = optim.decay_mask(params)
  decayed = {
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, decays in jax.tree.leaves_with_path(mask)
    if decays
  }
  # "query" is here the projection of the attention, a matrix product.
  assert decayed == {
    "patch_embed/kernel",
    "blocks/0/kernel",
    "attention/query/kernel",
    "attention/key/kernel",
    "attention/value/kernel",
    "attention/out/kernel",
  }


def test_updates_are_adamw_s():
  kernel, first, second = np.random.default_rng(0).normal(size=(3, 2, 3))
  params = {"a": {"kernel": jnp.asarray(kernel), "bias": jnp.ones(3)}}
  transform = optim.build(
    _config(warmup_steps=0, b1=0.8, b2=0.9, eps=0.1, clip_norm=0.0)
  )
  state = transform.init(params)
  for gradient in (first, second):
    gradients = {
      "a": {"kernel": jnp.asarray(gradient), "bias": jnp.asarray(gradient[0])}
    }
    updates, state = transform.update(gradients, state, params)
  # Kingma and Ba 2015, Algorithm 1, and Loshchilov and Hutter 2019.
  mean = 0.2 * (0.8 * first + second) / (1 - 0.8**2)
  square = 0.1 * (0.9 * first**2 + second**2) / (1 - 0.9**2)
  rate = float(optim.schedule(_optim(warmup_steps=0), 100)(1))
  adam = mean / (np.sqrt(square) + 0.1)
  np.testing.assert_allclose(
    updates["a"]["kernel"], -rate * (adam + 0.05 * kernel), rtol=1e-5
  )
  np.testing.assert_allclose(updates["a"]["bias"], -rate * adam[0], rtol=1e-5)


@pytest.mark.parametrize("clip_norm, expected", [(0.0, 200.0), (5.0, 5.0)])
def test_gradients_are_clipped_by_global_norm(clip_norm, expected):
  params = {"kernel": jnp.ones((2, 2))}
  gradients = {"kernel": jnp.full((2, 2), 100.0)}
  transform = optim.build(_config(clip_norm=clip_norm))
  _, state = transform.update(gradients, transform.init(params), params)
  # Adam's first moment is (1 - b1) times the gradient it was given.
  moment = optax.tree.get(state, "mu")
  np.testing.assert_allclose(optax.tree.norm(moment), 0.1 * expected, rtol=1e-5)


def test_masks_of_an_eye_are_clipped_apart():
  """A large gradient of theirs leaves the other parts what they have alone."""
  config = _config(teacher_masks=True, clip_norm=1.0, weight_decay=0.0)
  params = {"teacher_masks": {"w": jnp.zeros(3)}, "text": {"w": jnp.zeros(2)}}
  grads = {
    "teacher_masks": {"w": jnp.array([300.0, 0.0, 400.0])},
    "text": {"w": jnp.array([0.3, 0.4])},
  }
  built = optim.build(config)
  updates, _ = built.update(grads, built.init(params), params)
  # The update of Adam does not show the norm; what enters it does.
  clip = optim._apart(optax.clip_by_global_norm(1.0))
  clipped, _ = clip.update(grads, clip.init(params))
  np.testing.assert_allclose(clipped["teacher_masks"]["w"], [0.6, 0, 0.8])
  np.testing.assert_array_equal(clipped["text"]["w"], grads["text"]["w"])
  alone = optim.build(_config(clip_norm=1.0, weight_decay=0.0))
  one = {"text": params["text"]}
  wanted, _ = alone.update({"text": grads["text"]}, alone.init(one), one)
  np.testing.assert_array_equal(updates["text"]["w"], wanted["text"]["w"])
