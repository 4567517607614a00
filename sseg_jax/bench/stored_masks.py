"""A training step that reads its pseudo-masks, and one that makes them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from sseg_jax import default_config, train_step
from sseg_jax.bench import frozen
from sseg_jax.bench.timing import Case, Way


def cached(small: bool) -> Case:
  """A training step that clusters tokens, against one that reads labels."""
  config = default_config.get_config()
  size, batch = (64, 4) if small else (224, 8)
  config.batch_size, config.image_size, config.dtype = batch, size, "float32"
  config.model.backbone = "conv_small"
  config.model.hidden_dim = config.model.mask_dim = 64
  config.model.num_queries, config.model.decoder_layers = 16, 2
  config.model.ffn_dim, config.model.proj_hidden = 256, 256
  config.text.layers, config.text.width = 2, 64
  config.text.num_heads = 1
  if small:
    config.model.decoder_layers = config.text.layers = 1
  rng = np.random.default_rng(0)
  batch_of = {
    "id": jnp.arange(batch),
    "valid": jnp.ones(batch, bool),
    "image": jnp.asarray(rng.integers(256, size=(batch, size, size, 3)), "u1"),
    "text": jnp.asarray(
      rng.integers(1, 49_000, size=(batch, config.text.context_length))
    ),
    "pseudo_labels": jnp.asarray(
      rng.integers(8, size=(batch, size // 16, size // 16))
    ),
  }
  ways = {}
  for mode in ("cached", "online"):
    config = config.copy_and_resolve_references()
    config.pseudo_masks.mode = mode
    config.pseudo_masks.stride = 16
    setup = train_step.make_setup(config)
    if mode == "online":
      made = frozen.vit_s16()
      setup = dataclasses.replace(
        setup, generator=made, frozen={"pseudo_masks": made.frozen}
      )
    ways[mode] = _stepper(setup, batch_of)
  return Case(
    f"training step, batch {batch}, {size} px, small model; online runs a"
    " frozen ViT-S/16 and K-means in the step",
    ways,
  )


def _stepper(setup, batch) -> Way:
  step = jax.jit(functools.partial(train_step.train_step, setup))
  state = train_step.init_state(setup)

  def run():
    return jax.block_until_ready(step(state, setup.frozen, batch)[0].step)

  return run
