"""CLIP: an image tower and a text tower with a common space.

The image tower is a ViT with a norm before its blocks. Of the last block either
the usual output is taken, or the value path of MaskCLIP.

Source: openai/CLIP `clip/model.py`; chongzhou96/MaskCLIP
`mmseg/models/backbones/vit.py`. Files are those that `transformers` writes.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from sseg_jax.errors import InputError
from sseg_jax.models import hf_files, pretrained
from sseg_jax.models.keys import parameter_keys
from sseg_jax.models.layers import ACTIVATIONS
from sseg_jax.models.text import TextTower
from sseg_jax.models.vit import ViT

PIXEL_MEAN = (122.7709383, 116.7460125, 104.09373615)  # RGB, CLIP's own
PIXEL_STD = (68.5005327, 66.6321579, 70.32316305)

_IMAGE = (
  (r"^vision_model\.", ""),
  (r"^embeddings\.class_embedding$", "vit.tokens"),
  (r"^embeddings\.position_embedding\.weight$", "vit.positions"),
  (r"^embeddings\.patch_embedding\.", "vit.patch_embedding."),
  (r"^pre_layrnorm\.", "pre_norm."),  # so it is spelt there
  (r"^post_layernorm\.", "vit.norm."),
  (r"^encoder\.layers\.", "vit.blocks."),
  (r"\.layer_norm(\d)\.", r".norm\1."),
  (r"\.self_attn\.([qkv])_proj\.", r".attn.\1."),
  (r"\.self_attn\.out_proj\.", ".out."),
  (r"\.mlp\.fc1\.", ".mlp_in."),
  (r"\.mlp\.fc2\.", ".mlp_out."),
)


class ClipImage(nnx.Module):
  """The image tower and its projection.

  Args:
    joint: size of the common space.
    dtype: of the products.
    rngs: source of the initial values.
    **sizes: the fields of `vit_sizes.Sizes`.
  """

  def __init__(
    self, joint: int, *, dtype: DTypeLike, rngs: nnx.Rngs, **sizes: Any
  ):
    self.vit = ViT(dtype=dtype, rngs=rngs, **sizes)
    width = self.vit.width
    self.pre_norm = nnx.LayerNorm(
      width, epsilon=1e-5, use_fast_variance=False, dtype=dtype, rngs=rngs
    )
    self.projection = nnx.Linear(
      width, joint, use_bias=False, dtype=dtype, rngs=rngs
    )

  def _before_last(self, image: Float[Array, "b h w 3"]) -> Array:
    x = self.pre_norm(self.vit.embed(image))
    for block in list(self.vit.blocks)[:-1]:
      x = block(x)
    return x

  def __call__(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b t e"]:
    """Returns the embeddings of the class token and of each patch.

    Args:
      image: normalised; sides are multiples of the patch.
    """
    x = self.vit.blocks[-1](self._before_last(image))
    return self.projection(self.vit.norm(x))

  def value_path(
    self, image: Float[Array, "b h w 3"]
  ) -> tuple[Float[Array, "b t e"], Float[Array, "b t d"]]:
    """Returns embeddings without the last attention, and its keys (MaskCLIP).

    Each token of the last block takes its own value in place of an average.
    Keys, too, go through the layer that follows attention, as in MaskCLIP's
    `mmseg/models/backbones/vit.py`.
    """
    x = self._before_last(image)
    block = self.vit.blocks[-1]
    keys = block.out(block.attention_input(x, "keys"))
    x = x + block.out(block.attention_input(x, "values"))
    x = x + block.mlp(x)
    return self.projection(self.vit.norm(x)), keys


class Clip(nnx.Module):
  """Both towers, and the logarithm of the scale of their cosines."""

  def __init__(self, image: dict[str, Any], text: dict[str, Any], joint: int):
    """Builds both towers.

    Args:
      image: arguments of `ClipImage`.
      text: arguments of `TextTower`.
      joint: size of the common space.
    """
    rngs = parameter_keys(0)
    self.image = ClipImage(joint, dtype=jnp.float32, rngs=rngs, **image)
    self.text = TextTower(rngs=rngs, **text)
    self.text_projection = nnx.Linear(
      text["width"], joint, use_bias=False, rngs=rngs
    )
    self.logit_scale = nnx.Param(jnp.zeros(()))

  def encode_text(self, tokens: Int[Array, "b l"]) -> Float[Array, "b e"]:
    """Returns the embeddings of texts, given as the tokenizer's ids."""
    return self.text_projection(self.text(tokens))


def load(source: str) -> Clip:
  """Loads CLIP from a folder or file that `transformers` saved.

  Raises InputError for files that are missing, damaged, or of another network.
  """
  config, arrays, place = hf_files.read(source, "clip")
  vision, text = config.part("vision_config"), config.part("text_config")
  patch, side = vision.number("patch_size"), vision.number("image_size")
  width = vision.number("hidden_size")
  if side % patch:
    raise InputError(f"{place}: image_size {side} is no multiple of {patch}")
  image_sizes = dict(
    patch=patch,
    width=width,
    depth=vision.number("num_hidden_layers"),
    num_heads=vision.number("num_attention_heads"),
    grid=side // patch,
    mlp_ratio=vision.number("intermediate_size") / width,
    position_rule="size",
    epsilon=1e-5,
    activation=vision.choice("hidden_act", ACTIVATIONS),
  )
  return hf_files.filled(
    lambda: Clip(
      image_sizes, hf_files.text_sizes(text), config.number("projection_dim")
    ),
    lambda leaves: _leaves(arrays, leaves, place),
    place,
  )


def _leaves(
  arrays: Mapping[str, np.ndarray], leaves: Mapping[str, Any], place: object
) -> dict[str, np.ndarray]:
  """Returns the parameters of `Clip` by name."""
  image = {
    pretrained.tensors.renamed(k, _IMAGE): v
    for k, v in arrays.items()
    if k.startswith("vision_model.") and not k.endswith("position_ids")
  }
  if "visual_projection.weight" in arrays:
    image["projection.weight"] = arrays["visual_projection.weight"]
  if "vit.tokens" in image:
    image["vit.tokens"] = image["vit.tokens"][None]
  # CLIP's patches have no bias.
  bias = leaves["image/vit/patch_embedding/bias"]
  image["vit.patch_embedding.bias"] = np.zeros(bias.shape, np.float32)
  image = pretrained.tensors.join_qkv(image, ".attn.", place)
  image = {re.sub(r"\.attn\.qkv\.", ".qkv.", k): v for k, v in image.items()}
  found = hf_files.prefixed(
    "image",
    pretrained.converted(image, hf_files.part(leaves, "image"), place),
  )
  found |= hf_files.text_tower(arrays, leaves, place)
  projection = {
    name.removeprefix("text_projection."): array
    for name, array in arrays.items()
    if name.startswith("text_projection.")
  }
  found |= hf_files.prefixed(
    "text_projection",
    pretrained.converted(
      projection, hf_files.part(leaves, "text_projection"), place
    ),
  )
  return found | hf_files.logit_scale(arrays, place)
