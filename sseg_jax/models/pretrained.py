"""Published weights for the networks that are trained, as a start.

The paper starts from random weights. `model.weights` and `text.weights` may
give a name in `published.PUBLISHED`, or a file with the tensors' names of

- Swin's own code (Microsoft), or transformers' Swin;
- torchvision's or transformers' ResNet, bottlenecks with the stride in the 3x3;
- a ViT of DINO's family, as `vit_weights.py` reads them;
- transformers' MaskFormer, backbone and both decoders;
- a text tower: CLIP's own code, or the CLIP and the GroupViT of transformers.
  (CLIP's own files are programs, of which the `state_dict` has to be saved;
  open_clip has the same names, but most of its networks have another GELU.)

Tensors that S-Seg does not have, as those of a classifier, are left out.
Parameters that a file does not have, as Swin's four output norms, keep their
initial values. Everything else has to fit.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging

from sseg_jax.checkpoints import named_arrays
from sseg_jax.errors import InputError
from sseg_jax.models import (
  backbones,
  published,
  teacher,
  teacher_tail,
  tensors,
  vit_sizes,
  vit_weights,
  weights,
)
from sseg_jax.models.resnet import ResNet
from sseg_jax.models.swin import Swin
from sseg_jax.models.vit_pyramid import TokenMap, ViTPyramid

Arrays = Mapping[str, np.ndarray]
Leaves = Mapping[str, Any]  # arrays or their shapes

_HEAD_DIM = 64  # of CLIP's and GroupViT's text towers
_MASKFORMER_HEADS = 8

# Names of a MaskFormer file's tensors: of the backbone, and of the decoders.
_BACKBONE = re.compile(r"^(model\.)?pixel_level_module\.encoder\.")
_DECODERS = re.compile(
  r"^((model\.)?(pixel_level_module\.decoder|transformer_module)|mask_embedder)"
  r"\."
)
_PREFIXES = (r"^((module|model|backbone|swin|resnet)\.)+", "")

# Both names of a layer -> ours. Patterns of transformers come first.
_SWIN = (
  _PREFIXES,
  (r"^embeddings\.patch_embeddings\.projection\.", "patch_embedding."),
  (r"^embeddings\.norm\.", "patch_norm."),
  (r"^patch_embed\.proj\.", "patch_embedding."),
  (r"^patch_embed\.norm\.", "patch_norm."),
  (r"^(encoder\.)?layers\.(\d+)\.downsample\.", r"merges.\2."),
  (r"^(encoder\.)?layers\.(\d+)\.blocks\.(\d+)\.", r"stages.\2.\3."),
  (r"\.layernorm_before\.", ".norm1."),
  (r"\.layernorm_after\.", ".norm2."),
  (r"\.attention\.(self\.query|q_proj)\.", ".attention.q."),
  (r"\.attention\.(self\.key|k_proj)\.", ".attention.k."),
  (r"\.attention\.(self\.value|v_proj)\.", ".attention.v."),
  (r"\.attention\.(output\.dense|o_proj)\.", ".attention.out."),
  (r"\.attn\.proj\.", ".attention.out."),
  (r"\.(attention\.(self|relative_position_bias)|attn)\.", ".attention."),
  (r"\.relative_position_bias_table$", ".relative_position_bias"),
  (r"\.(intermediate\.dense|mlp\.fc1)\.", ".mlp_in."),
  (r"\.(output\.dense|mlp\.fc2)\.", ".mlp_out."),
  (
    r"^(?:hidden_states_)?norms\.stage(\d)\.",
    lambda found: f"norms.{int(found[1]) - 1}.",
  ),
  (r"^hidden_states_norms\.", "norms."),
  (r"^norm(\d)\.", r"norms.\1."),
)
# Classifiers, the norm before them, and constants for the size of a window.
_SWIN_UNUSED = re.compile(
  r"^(head|classifier|norm\.|layernorm\.|pooler)|relative_position_index$"
  r"|attn_mask$"
)
_RESNET = (
  _PREFIXES,
  (r"^embedder\.embedder\.", "stem."),
  (r"^conv1\.", "stem.convolution."),
  (r"^bn1\.", "stem.normalization."),
  (r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.", r"stages.\1.\2."),
  (
    r"^layer(\d+)\.(\d+)\.",
    lambda found: f"stages.{int(found[1]) - 1}.{found[2]}.",
  ),
  (r"\.layer\.(\d)\.", lambda found: f".conv{int(found[1]) + 1}."),
  (r"\.conv(\d)\.(weight|bias)$", r".conv\1.convolution.\2"),
  (r"\.bn(\d)\.", r".conv\1.normalization."),
  (r"\.downsample\.0\.", ".shortcut.convolution."),
  (r"\.downsample\.1\.", ".shortcut.normalization."),
  (r"\.convolution\.", ".conv."),
  (r"\.normalization\.", ".norm."),
)
_RESNET_UNUSED = re.compile(r"^(fc|classifier)\.|num_batches_tracked$")
_MASKFORMER = (
  (r"^model\.", ""),
  (r"^pixel_level_module\.decoder\.mask_projection\.", "fpn.mask_features."),
  (r"^pixel_level_module\.decoder\.fpn\.stem\.", "fpn.outputs.0."),
  (
    r"^pixel_level_module\.decoder\.fpn\.layers\.(\d+)\.proj\.",
    r"fpn.laterals.\1.",
  ),
  (
    r"^pixel_level_module\.decoder\.fpn\.layers\.(\d+)\.block\.",
    lambda found: f"fpn.outputs.{int(found[1]) + 1}.",
  ),
  (r"^(fpn\.(?:outputs|laterals)\.\d+)\.0\.", r"\1.conv."),
  (r"^(fpn\.(?:outputs|laterals)\.\d+)\.1\.", r"\1.norm."),
  (r"^transformer_module\.input_projection\.", "input_proj."),
  (r"^transformer_module\.queries_embedder\.weight$", "query_positions"),
  (r"^transformer_module\.decoder\.layernorm\.", "norm."),
  (r"^transformer_module\.decoder\.layers\.", "layers."),
  (r"\.self_attn_layer_norm\.", ".norms.0."),
  (r"\.encoder_attn_layer_norm\.", ".norms.1."),
  (r"\.final_layer_norm\.", ".norms.2."),
  (r"\.self_attn\.", ".self_attention."),
  (r"\.encoder_attn\.", ".cross_attention."),
  (r"\.q_proj\.", ".query."),
  (r"\.k_proj\.", ".key."),
  (r"\.v_proj\.", ".value."),
  (r"\.(o_proj|out_proj)\.", ".out."),
  (r"\.mlp\.(fc\d)\.", r".\1."),
  (r"^mask_embedder\.(\d+)\.0\.", r"mask_embed.layers.\1."),
)
_TEXT = (
  (r"^(module|text_encoder)\.", ""),
  (r"^text(_model)?\.", ""),
  (r"^embeddings\.", ""),
  (r"^position(_embedding\.weight|al_embedding)$", "position_embedding"),
  (r"^(encoder\.layers|transformer\.resblocks)\.", "blocks."),
  (r"\.(layer_norm1|ln_1)\.", ".norm1."),
  (r"\.(layer_norm2|ln_2)\.", ".norm2."),
  (r"\.(self_attn|attn)\.", ".attention."),
  (r"\.attention\.in_proj_", ".attention.qkv."),
  (r"\.attention\.([qkv])_proj\.", r".attention.\1."),
  (r"\.out_proj\.", ".out."),
  (r"\.mlp\.(fc1|c_fc)\.", ".mlp_in."),
  (r"\.mlp\.(fc2|c_proj)\.", ".mlp_out."),
  (r"^(final_layer_norm|ln_final)\.", "norm."),
)
_TEXT_USED = re.compile(
  r"^(token_embedding|position_embedding|blocks\.|norm\.)(?!.*position_ids)"
)

# The last part of our name -> torch's. Other names are the same in both.
_KINDS = {
  "kernel": "weight",
  "scale": "weight",
  "embedding": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}


def load(
  config: Any, params: dict[str, Any], model_state: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Replaces the parameters that `model.weights` and `text.weights` give.

  Args:
    config: fields as in `default_config.py`.
    params: of `sseg.init`.
    model_state: likewise.

  Returns:
    Both again, with the published arrays in their places.

  Raises:
    InputError: for a name or file that does not exist, and tensors that are
      missing, left over, or of another shape than the config's.
  """
  leaves = {**named_arrays.flat(params), **named_arrays.flat(model_state)}
  new: dict[str, np.ndarray] = {}
  if config.model.weights:
    new |= _image(config, leaves)
  if config.text.weights:
    _check_heads(config.text, "text", max(1, config.text.width // _HEAD_DIM))
    path = weights.locate(config.text.weights, {"text"}, field="text.weights")
    found = text(
      weights.read_arrays(path), _part(leaves, "text"), f"{path} (text.weights)"
    )
    new |= {f"text/{name}": array for name, array in found.items()}
    logging.info("the text tower starts from %s", path)
  if teacher.is_eye(config):
    frozen = named_arrays.flat(teacher.load(config))
    new |= {f"{teacher.NAME}/{name}": array for name, array in frozen.items()}
    new |= teacher_tail.initial(config, frozen)

  def filled(tree):
    flat = named_arrays.flat(tree)
    arrays = [new.get(name, leaf) for name, leaf in flat.items()]
    made = jax.tree.unflatten(jax.tree.structure(tree), arrays)
    return named_arrays.on_device(made)

  return filled(params), filled(model_state)


def _image(config: Any, leaves: Leaves) -> dict[str, np.ndarray]:
  name = config.model.backbone
  network, sizes = backbones.BACKBONES[name]
  converters: dict[Any, Callable[..., Arrays]]
  converters = {Swin: swin, ResNet: resnet, ViTPyramid: vit, TokenMap: vit}
  convert = converters.get(network)
  if convert is None:
    raise InputError(
      f"model.weights={config.model.weights!r}: no weights are published for"
      f" model.backbone={name!r}; leave the field empty"
    )
  networks = {name, f"maskformer/{name}"}
  if convert is vit:  # those that differ by how they were trained alone
    networks = vit_sizes.published(sizes)
  path = weights.locate(config.model.weights, networks, field="model.weights")
  place = f"{path} (model.weights, for model.backbone={name!r})"
  arrays = weights.read_arrays(path)
  found = {}
  decoders = {k: v for k, v in arrays.items() if _DECODERS.match(k)}
  if decoders:
    _check_heads(config.model, "model", _MASKFORMER_HEADS)
    part = _part(leaves, "maskformer")
    found = {
      f"maskformer/{k}": v for k, v in maskformer(decoders, part, place).items()
    }
    arrays = {
      _BACKBONE.sub("", k): v for k, v in arrays.items() if _BACKBONE.match(k)
    }
  part = _part(leaves, "backbone")
  found |= {f"backbone/{k}": v for k, v in convert(arrays, part, place).items()}
  what = "backbone and mask decoders start" if decoders else "backbone starts"
  logging.info("%s from %s", what, path)
  return found


def _check_heads(fields: Any, part: str, usual: int) -> None:
  """Warns or raises if the heads differ, which no tensor's shape shows."""
  if fields.num_heads == usual:
    return
  message = (
    f"{part}.num_heads={fields.num_heads}, where published networks of this"
    f" size have {usual}"
  )
  if fields.weights in published.PUBLISHED:
    raise InputError(f"{message}, as {part}.weights={fields.weights!r}")
  logging.warning("%s; %s may need as many", message, fields.weights)


def swin(arrays: Arrays, leaves: Leaves, place: object) -> Arrays:
  """Returns the leaves of a `Swin` by name, from a file's tensors.

  Args:
    arrays: by their names in the file.
    leaves: of the network, by name; their shapes are used.
    place: the file, for messages.

  Raises:
    InputError: for tensors missing, left over, or of another shape.
  """
  named = _renamed(arrays, _SWIN)
  named = {k: v for k, v in named.items() if not _SWIN_UNUSED.search(k)}
  if not any(name.startswith("norms.") for name in named):
    # A classifier's file does not have them. They keep their initial values.
    leaves = {k: v for k, v in leaves.items() if not k.startswith("norms/")}
  named = tensors.join_qkv(named, ".attention.", place)
  return converted(named, leaves, place)


def resnet(arrays: Arrays, leaves: Leaves, place: object) -> Arrays:
  """Does the same as `swin` for a `ResNet`, with its running statistics."""
  named = _renamed(arrays, _RESNET)
  named = {k: v for k, v in named.items() if not _RESNET_UNUSED.search(k)}
  return converted(named, leaves, place)


def vit(arrays: Arrays, leaves: Leaves, place: object) -> Arrays:
  """Does the same for a ViT that is a backbone, without its other layers."""
  named = vit_weights.rename(arrays, place)
  sizes = vit_weights.infer_sizes(named, place)
  found = named_arrays.flat(vit_weights.convert(named, sizes, place))
  wanted = _part(leaves, "vit")
  tensors.check(found, {k: tuple(v.shape) for k, v in wanted.items()}, place)
  return {f"vit/{name}": array for name, array in found.items()}


def maskformer(arrays: Arrays, leaves: Leaves, place: object) -> Arrays:
  """Does the same for a `MaskFormer`, from the tensors of both decoders."""
  return converted(_renamed(arrays, _MASKFORMER), leaves, place)


def text(arrays: Arrays, leaves: Leaves, place: object) -> Arrays:
  """Does the same for a `TextTower`; the file may hold an image tower too."""
  # In such files only this part of a name tells the towers apart.
  if any("text_model." in name for name in arrays):
    arrays = {k: v for k, v in arrays.items() if "text_model." in k}
  named = _renamed(arrays, _TEXT)
  named = {k: v for k, v in named.items() if _TEXT_USED.match(k)}
  named = tensors.join_qkv(named, ".attention.", place)
  return converted(named, leaves, place)


def _part(leaves: Leaves, part: str) -> dict[str, Any]:
  start = f"{part}/"
  return {
    name.removeprefix(start): leaf
    for name, leaf in leaves.items()
    if name.startswith(start)
  }


def _renamed(arrays: Arrays, rules: tensors.Rules) -> Arrays:
  return {tensors.renamed(name, rules): v for name, v in arrays.items()}


def converted(arrays: Arrays, leaves: Leaves, place: object) -> Arrays:
  """Converts arrays from torch's layout; theirs are our names with dots."""
  names, shapes = {}, {}  # by torch's name
  for ours, leaf in leaves.items():
    *layers, kind = ours.split("/")
    theirs = ".".join([*layers, _KINDS.get(kind, kind)])
    names[theirs], shapes[theirs] = ours, tuple(leaf.shape)
    if kind == "kernel":
      *window, d_in, d_out = leaf.shape
      shapes[theirs] = (d_out, d_in, *window)
  arrays = {
    # A 1x1 convolution in the file is a linear layer here.
    k: v[..., 0, 0] if v.ndim == 4 and len(shapes.get(k, v.shape)) == 2 else v
    for k, v in arrays.items()
  }
  tensors.check(arrays, shapes, place)
  return {
    ours: _kernel(arrays[theirs]) if ours.endswith("kernel") else arrays[theirs]
    for theirs, ours in names.items()
  }


def _kernel(array: np.ndarray) -> np.ndarray:
  axes = (*range(2, array.ndim), 1, 0)  # [o, i, h, w] -> [h, w, i, o]
  return np.ascontiguousarray(array.transpose(axes))
