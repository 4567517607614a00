"""GroupViT's weights, as `transformers` saves them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sseg_jax.errors import InputError
from sseg_jax.models import hf_files, pretrained
from sseg_jax.models.groupvit import GroupViT, Sizes

# What a config.json leaves out, as `transformers` fills it in.
_USUAL_TEXT: dict[str, Any] = {
  "hidden_size": 256,
  "intermediate_size": 1024,
  "num_attention_heads": 4,
}
_USUAL: dict[str, Any] = {
  "hidden_size": 384,
  "intermediate_size": 1536,
  "num_attention_heads": 6,
  "patch_size": 16,
  "hidden_act": "gelu",
  "depths": (6, 3, 3),
  "num_group_tokens": (64, 8, 0),
  "num_output_groups": (64, 8, 8),
}
# Names of tensors there, and here.
_IMAGE = (
  (r"^vision_model\.", ""),
  (r"^embeddings\.position_embeddings$", "positions"),
  (r"^embeddings\.patch_embeddings\.projection\.", "patch_embedding."),
  (r"^embeddings\.layernorm\.", "patch_norm."),
  (r"^encoder\.stages\.", "stages."),
  (r"^layernorm\.", "norm."),
  (r"\.layers\.", ".blocks."),
  (r"\.layer_norm(\d)\.", r".norm\1."),
  (r"\.self_attn\.([qkv])_proj\.", r".self.\1."),
  (r"\.self_attn\.out_proj\.", ".out."),
  (r"(\.blocks\.\d+)\.mlp\.fc1\.", r"\1.mlp_in."),
  (r"(\.blocks\.\d+)\.mlp\.fc2\.", r"\1.mlp_out."),
  (r"\.group_projector\.0\.", ".group_norm."),
  (r"\.group_projector\.1\.", ".group_mlp."),
  (r"\.downsample\.", ".assign."),
  (r"\.pre_assign_attn\.attn\.", ".cross."),
  (r"\.pre_assign_attn\.", "."),
  (r"\.assign\.assign\.", ".assign."),
  (r"\.q_proj\.", ".query."),
  (r"\.k_proj\.", ".key."),
  (r"\.v_proj\.", ".value."),
  (r"\.out_proj\.", ".out."),
)
_PROJECTION = (
  (r"^\w+_projection\.", ""),
  (r"^0\.", "fc1."),
  (r"^1\.", "norm."),
  (r"^3\.", "fc2."),
)


def load(source: str) -> GroupViT:
  """Loads GroupViT from a folder or file that `transformers` saved.

  Raises InputError for files that are missing, damaged, or of another network.
  """
  config, arrays, place = hf_files.read(source, "groupvit")
  vision, text = (
    config.part("vision_config", **_USUAL),
    config.part("text_config", **_USUAL_TEXT),
  )
  vision.choice("hidden_act", ("gelu",))
  width, patch = vision.number("hidden_size"), vision.number("patch_size")
  ratios = vision.fields.get("assign_mlp_ratio", (0.5, 4))
  if not (
    isinstance(ratios, list | tuple)
    and len(ratios) == 2
    and all(isinstance(r, int | float) and 0 < r < 100 for r in ratios)
  ):
    raise InputError(f"{vision.place}: assign_mlp_ratio must be two numbers")
  sizes = Sizes(
    patch=patch,
    grid=vision.number("image_size") // patch,
    width=width,
    num_heads=vision.number("num_attention_heads"),
    mlp_hidden=vision.number("intermediate_size"),
    depths=tuple(vision.numbers("depths")),
    group_tokens=tuple(vision.numbers("num_group_tokens", 0)),
    output_groups=tuple(vision.numbers("num_output_groups", 0)),
    mixer_hidden=int(ratios[0] * width),
    channels_hidden=int(ratios[1] * width),
    assign_eps=float(vision.fields.get("assign_eps", 1.0)),
  )
  same = len(sizes.depths) == len(sizes.group_tokens)
  if (
    not same
    or len(sizes.depths) != len(sizes.output_groups)
    or not sizes.group_tokens[0]
    or width % sizes.num_heads
  ):
    raise InputError(
      f"{vision.place}: depths, num_group_tokens, num_output_groups or"
      f" num_attention_heads do not fit each other; give {hf_files.HOW}"
    )
  return hf_files.filled(
    lambda: GroupViT(
      sizes,
      hf_files.text_sizes(text),
      config.number("projection_intermediate_dim"),
      config.number("projection_dim"),
    ),
    lambda leaves: _leaves(arrays, leaves, place),
    place,
  )


def _leaves(
  arrays: Mapping[str, np.ndarray], leaves: Mapping[str, Any], place: object
) -> dict[str, np.ndarray]:
  """Returns the parameters of `GroupViT` by name."""
  image = {
    pretrained.tensors.renamed(k, _IMAGE): v[0] if v.ndim == 3 else v
    for k, v in arrays.items()
    if k.startswith("vision_model.")
  }
  image = pretrained.tensors.join_qkv(image, ".self.", place)
  image = {k.replace(".self.qkv.", ".qkv."): v for k, v in image.items()}
  found = hf_files.prefixed(
    "image",
    pretrained.converted(image, hf_files.part(leaves, "image"), place),
  )
  found |= hf_files.text_tower(arrays, leaves, place)
  for ours, theirs in (("image", "visual"), ("text", "text")):
    own = {
      pretrained.tensors.renamed(k, _PROJECTION): v
      for k, v in arrays.items()
      if k.startswith(f"{theirs}_projection.") and "num_batches" not in k
    }
    name = f"{ours}_projection"
    found |= hf_files.prefixed(
      name, pretrained.converted(own, hf_files.part(leaves, name), place)
    )
  return found | hf_files.logit_scale(arrays, place)
