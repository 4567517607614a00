"""A small ViT with random weights on disk, for tests of what uses one."""

import jax
import numpy as np

from sseg_jax import default_config
from sseg_jax.models import vit_weights

SIZES = dict(patch=4, width=64, depth=3, num_heads=1, grid=4)


def write(path) -> str:
  """Writes the weights under DINO's names; returns the path."""
  rng = np.random.default_rng(0)
  arrays = {
    name: (rng.normal(size=shape) * shape[-1] ** -0.5).astype(np.float32)
    for name, (shape, _) in vit_weights._expected(SIZES).items()
  }
  np.savez(path, **arrays)
  return str(path)


def config_of(weights, **fields):
  config = default_config.get_config()
  config.dtype = "float32"
  config.pseudo_masks.update(generator="dino", weights=weights, k=3, **fields)
  return config


def pictures(b=2, h=16, w=24):
  return jax.random.uniform(jax.random.key(5), (b, h, w, 3)) * 255


def keys(b=2):
  return jax.random.split(jax.random.key(0), b)
