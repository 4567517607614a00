"""Converts the arrays of a file to the parameters of a `ViT`.

The file may have the names of the original code (DINO, DINOv2, DeiT, MAE,
MoCo v3) or of transformers, old or new, where queries, keys and values are
separate.
"""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from sseg_jax.checkpoints import named_arrays
from sseg_jax.errors import InputError
from sseg_jax.models import published, tensors, weights
from sseg_jax.models.keys import parameter_keys
from sseg_jax.models.vit import VIT_SIZES, ViT

_HEAD_DIM = 64  # of every published network

# Other names -> DINO's, in this order.
_RENAMES = (
  (r"^((module|backbone|vit|dinov2|dinov2_with_registers)\.)+", ""),
  (r"^base_encoder\.", ""),  # MoCo v3
  (r"^embeddings\.position_embeddings$", "pos_embed"),
  (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
  (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
  (r"^(encoder\.)?layers?\.(\d+)\.", r"blocks.\2."),
  (r"^layernorm\.", "norm."),
  (r"\.layernorm_before\.", ".norm1."),
  (r"\.layernorm_after\.", ".norm2."),
  (r"\.attention\.(attention\.)?(query|q_proj)\.", ".attn.q."),
  (r"\.attention\.(attention\.)?(key|k_proj)\.", ".attn.k."),
  (r"\.attention\.(attention\.)?(value|v_proj)\.", ".attn.v."),
  (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
  (r"\.intermediate\.dense\.", ".mlp.fc1."),
  (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
  (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
)
# Tensors that only training or classifying needs: heads, DINOv2's token for
# masked patches, MAE's decoder, MoCo's second encoder.
_UNUSED = re.compile(
  r"^(head|pooler|classifier|mask_token|decoder|momentum_encoder|predictor)"
)

# Ours -> DINO's, inside a block and at the top.
_LAYERS = {
  "norm1": "norm1",
  "qkv": "attn.qkv",
  "out": "attn.proj",
  "norm2": "norm2",
  "mlp_in": "mlp.fc1",
  "mlp_out": "mlp.fc2",
}


def load(
  source: str | os.PathLike,
  *,
  num_heads: int | None = None,
  position_rule: str | None = None,
  file_rule: str | None = None,
  dtype: DTypeLike = jnp.float32,
) -> tuple[nnx.GraphDef, dict]:
  """Loads a published network, or a file, whose shapes give the sizes.

  Args:
    source: a key of `published.PUBLISHED`, or the path of a file.
    num_heads: None for the published number, one per 64 features.
    position_rule: one of `positions.RULES`; None for the published one. A file
      gets `file_rule`, else "dino", or "antialias" if there are registers.
    file_rule: the position rule of a file if `position_rule` is None.
    dtype: of the products.

  Returns:
    The structure and the float32 parameters; `nnx.merge` makes a `ViT` of them.

  Raises:
    InputError: for a name or file that does not exist, and tensors that are
      missing, left over or of another shape.
  """
  path = weights.locate(source, VIT_SIZES)
  arrays = rename(weights.read_arrays(path), path)
  if str(source) in published.PUBLISHED:
    sizes = sizes_of(source)
  else:
    sizes = infer_sizes(arrays, path)
    position_rule = position_rule or file_rule
  if num_heads:
    sizes["num_heads"] = num_heads
  if position_rule:
    sizes["position_rule"] = position_rule
  return build(sizes, dtype)[0], convert(arrays, sizes, path)


def rounded(params: Any, dtype: DTypeLike) -> Any:
  """Returns frozen parameters, those of matrix products in the type `dtype`.

  Linear layers and the convolution convert them at each use anyway, so the
  network gives the same, and 16-bit parameters need half the memory. Norms stay
  float32. `params` may be shapes.
  """

  def one(path: Any, x: Any) -> Any:
    names = [str(getattr(key, "key", key)) for key in path]
    if names[-1] not in ("kernel", "bias") or names[-2].startswith("norm"):
      return x
    if isinstance(x, jax.ShapeDtypeStruct):
      return jax.ShapeDtypeStruct(x.shape, dtype)
    return jnp.asarray(x, dtype)

  return jax.tree.map_with_path(one, params)


def sizes_of(source: str | os.PathLike) -> dict[str, Any]:
  """Returns the arguments of `ViT` for a source of `load`.

  Published weights are not downloaded; a file is read. Raises InputError if the
  published weights are not those of a `ViT`.
  """
  if str(source) in published.PUBLISHED:
    published.check_network(str(source), VIT_SIZES)
    return dict(VIT_SIZES[published.PUBLISHED[str(source)].network])
  path = Path(source)
  return infer_sizes(rename(weights.read_arrays(path), path), path)


def abstract(
  source: str | os.PathLike,
  *,
  position_rule: str | None = None,
  file_rule: str | None = None,
  num_heads: int | None = None,
  dtype: DTypeLike = jnp.float32,
) -> tuple[nnx.GraphDef, dict]:
  """Returns the same as `load`, with shapes in place of arrays."""
  sizes = sizes_of(source)
  if num_heads:
    sizes["num_heads"] = num_heads
  if str(source) not in published.PUBLISHED:
    position_rule = position_rule or file_rule
  if position_rule:
    sizes["position_rule"] = position_rule
  return build(sizes, dtype)


def build(
  sizes: Mapping[str, Any], dtype: DTypeLike = jnp.float32
) -> tuple[nnx.GraphDef, dict]:
  """Returns the structure, and shapes in place of the parameters."""
  model = nnx.eval_shape(
    lambda: ViT(**sizes, dtype=dtype, rngs=parameter_keys(0))
  )
  graphdef, state = nnx.split(model)
  return graphdef, nnx.to_pure_dict(state)


def rename(
  arrays: Mapping[str, np.ndarray], place: object
) -> dict[str, np.ndarray]:
  """Renames arrays to DINO's names, and leaves out what no `ViT` uses."""
  renamed = {}
  for name, array in arrays.items():
    name = tensors.renamed(name, _RENAMES)
    if not _UNUSED.match(name):
      renamed[name] = array
  return tensors.join_qkv(renamed, ".attn.", place)


def infer_sizes(
  arrays: Mapping[str, np.ndarray], place: object
) -> dict[str, Any]:
  """Returns the arguments of `ViT` that fit the shapes; see `load`."""
  for name in ("cls_token", "pos_embed", "patch_embed.proj.weight"):
    if name not in arrays:
      raise InputError(
        f"{place}: the tensor {name} is missing; this is no ViT of the DINO"
        " family"
      )
  first = "blocks.0.mlp.fc1.weight"
  if first not in arrays:
    raise InputError(f"{place}: the tensor {first} is missing")
  dimensions = {
    "cls_token": 3,
    "pos_embed": 3,
    "patch_embed.proj.weight": 4,
    "register_tokens": 3,
    first: 2,
  }
  for name, count in dimensions.items():
    if name in arrays and (arrays[name].ndim != count or not arrays[name].size):
      raise InputError(
        f"{place}: {name} has shape {arrays[name].shape} where {count}"
        " dimensions are needed; these are weights of another network"
      )
  width = arrays["cls_token"].shape[-1]
  cells = arrays["pos_embed"].shape[1] - 1
  grid = math.isqrt(cells)
  if grid * grid != cells:
    raise InputError(
      f"{place}: pos_embed has {cells} cells, which is no square; only square"
      " tables are supported"
    )
  # `convert` reports other tensors that are left over.
  blocks = [
    int(n) for n in re.findall(r"(?m)^blocks\.(\d+)\.", "\n".join(arrays))
  ]
  registers = arrays.get("register_tokens", np.zeros((1, 0))).shape[1]
  return dict(
    patch=arrays["patch_embed.proj.weight"].shape[-1],
    width=width,
    depth=max(blocks) + 1,
    num_heads=max(1, width // _HEAD_DIM),
    grid=grid,
    mlp_ratio=arrays[first].shape[0] / width,
    layer_scale="blocks.0.ls1.gamma" in arrays,
    registers=registers,
    position_rule="antialias" if registers else "dino",
  )


def convert(
  arrays: Mapping[str, np.ndarray],
  sizes: Mapping[str, Any],
  place: object = "weights",
) -> dict:
  """Returns the parameters of `ViT(**sizes)` from arrays under DINO's names.

  Raises InputError, which names the array and `place`, if an array is missing,
  left over or of another shape.
  """
  expected = _expected(sizes)
  shapes = {name: shape for name, (shape, _) in expected.items()}
  tensors.check(arrays, shapes, place)
  leaves: dict[str, np.ndarray] = {}
  for name, (_, ours) in expected.items():
    array = arrays[name]
    if name == "register_tokens":
      leaves[ours] = np.concatenate([leaves[ours], array[0]])
      continue
    if array.ndim == 4:
      array = array.transpose(2, 3, 1, 0)  # [o,i,h,w] -> [h,w,i,o]
    elif array.ndim == 3:
      array = array[0]
    elif array.ndim == 2:
      array = array.T
    leaves[ours] = np.ascontiguousarray(array)
  return named_arrays.nested(leaves, int_keys=True)


def _expected(
  sizes: Mapping[str, Any],
) -> dict[str, tuple[tuple[int, ...], str]]:
  """Returns, by DINO's name, the shape in the file and our name."""
  shapes = named_arrays.flat(build(sizes)[1])
  table: dict[str, tuple[tuple[int, ...], str]] = {}
  width, registers = sizes["width"], sizes.get("registers", 0)
  table["cls_token"] = ((1, 1, width), "tokens")
  if registers:
    table["register_tokens"] = ((1, registers, width), "tokens")
  for ours, leaf in shapes.items():
    shape = tuple(leaf.shape)
    *layers, kind = ours.split("/")
    if ours == "tokens":
      continue
    if ours == "positions":
      table["pos_embed"] = ((1, *shape), ours)
      continue
    if kind.startswith("scale") and kind != "scale":  # scale1, scale2
      name = ".".join([*layers, f"ls{kind[-1]}", "gamma"])
      table[name] = (shape, ours)
      continue
    module = layers[-1]
    theirs = {"patch_embedding": "patch_embed.proj", **_LAYERS}.get(module)
    name = ".".join([*layers[:-1], theirs or module])
    if kind == "bias":
      table[f"{name}.bias"] = (shape, ours)
    elif len(shape) == 4:
      h, w, i, o = shape
      table[f"{name}.weight"] = ((o, i, h, w), ours)
    else:
      table[f"{name}.weight"] = (shape[::-1], ours)
  return table
