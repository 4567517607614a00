"""Frozen networks with random weights: speed does not depend on weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sseg_jax.bench.packages import need
from sseg_jax.models import vit, vit_weights
from sseg_jax.pseudo_masks.tokens import Tokens


def vit_s16() -> Tokens:
  """Returns a generator of pseudo-masks: DINO's ViT-S/16 and K-means."""
  sizes = vit.VIT_SIZES["dino_vits16"]
  graphdef, shapes = vit_weights.build(sizes)
  return Tokens(
    k=8,
    graphdef=graphdef,
    frozen=jax.tree.map(jnp.asarray, random(shapes)),
    parts=(("tokens", sizes["depth"] - 1),),
    iterations=10,
    metric="cosine",
    init="kmeans++",
    dtype=jnp.float32,
  )


def random(shapes: Any) -> Any:
  """Returns normal noise of a standard deviation of 0.02 for each shape."""
  rng = np.random.default_rng(0)

  def draw(x: Any) -> np.ndarray:
    return (0.02 * rng.normal(size=x.shape)).astype(x.dtype)

  return jax.tree.map(draw, shapes)


def in_transformers(name: str, image_size: int) -> Any:
  """Returns the ViT of transformers for a key of `vit.VIT_SIZES`."""
  transformers = need("transformers")
  sizes = vit.VIT_SIZES[name]
  return transformers.ViTModel(
    transformers.ViTConfig(
      hidden_size=sizes["width"],
      num_hidden_layers=sizes["depth"],
      num_attention_heads=sizes["num_heads"],
      intermediate_size=4 * sizes["width"],
      patch_size=sizes["patch"],
      image_size=image_size,
      layer_norm_eps=1e-6,
    ),
    add_pooling_layer=False,
  ).eval()
