"""The image tower as `transformers`' MaskFormer: its masks, not its words."""

import importlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sseg_jax.checkpoints import named_arrays
from sseg_jax.errors import InputError
from sseg_jax.exporting import verify
from sseg_jax.exporting.source import Source
from sseg_jax.models import backbones, pretrained, sseg
from sseg_jax.models.layers import PIXEL_MEAN, PIXEL_STD, normalize_pixels
from sseg_jax.models.resnet import ResNet
from sseg_jax.models.swin import Swin

_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_ENCODER = "model.pixel_level_module.encoder."
_LEAST_WIDTH = 256
_CONVERTERS: dict[Any, Callable[..., Any]] = {
  Swin: pretrained.swin,
  ResNet: pretrained.resnet,
}


def check(config: Any) -> None:
  """Raises InputError for a network that MaskFormer there does not have."""
  missing = [
    name
    for name in ("torch", "transformers")
    if importlib.util.find_spec(name) is None
  ]
  if missing:
    raise InputError(
      f"to=transformers: {', '.join(missing)} is not installed; first"
      " `pip install torch transformers`"
    )
  c = config.model
  if c.head != "text":
    raise InputError(
      f"to=transformers: model.head={c.head!r}; only the masks of"
      " model.head='text' can be written, use --format instead"
    )
  if backbones.BACKBONES[c.backbone][0] not in _CONVERTERS:
    raise InputError(
      f"to=transformers: model.backbone={c.backbone!r}; MaskFormer there has"
      " Swin and ResNet alone"
    )
  if c.hidden_dim < _LEAST_WIDTH:
    raise InputError(
      f"to=transformers: model.hidden_dim={c.hidden_dim}; MaskFormer there"
      f" normalises 32 groups of features, as this package does from"
      f" {_LEAST_WIDTH} on alone"
    )
  for field, value in (("pixel_decoder", "fpn"), ("memory", "res5")):
    if c[field] != value:
      raise InputError(
        f"to=transformers: model.{field}={c[field]!r}; MaskFormer there has"
        f" {value!r} alone"
      )


def write(source: Source, folder: Path) -> tuple[float, int, int]:
  """Writes `config.json`, `model.safetensors` and a preprocessor's config.

  Returns:
    The largest difference of mask logits, as a share of the largest, of the
    network that was loaded from the folder; how many tensors were set, and how
    many there are. The others are computed, or belong to the class head.

  Raises:
    InputError: as `check`.
    verify.Failed: if the masks differ.
  """
  check(source.config)
  import torch
  import transformers

  module = transformers.MaskFormerForInstanceSegmentation(
    configuration(source.config)
  )
  arrays = {k: v.numpy() for k, v in module.state_dict().items()}
  found = tensors(source, arrays)
  module.load_state_dict(
    {k: torch.from_numpy(found.get(k, v)) for k, v in arrays.items()}
  )
  module.save_pretrained(folder)
  side = source.segmenter.image_size
  preprocessor = {
    "image_processor_type": "MaskFormerImageProcessor",
    "size": {"shortest_edge": side, "longest_edge": 2048},
    "image_mean": [v / 255 for v in PIXEL_MEAN],
    "image_std": [v / 255 for v in PIXEL_STD],
    "size_divisor": backbones.LARGEST_STRIDE,
  }
  text = json.dumps(preprocessor, indent=1)
  (folder / "preprocessor_config.json").write_text(text)
  return _difference(source, folder), len(found), len(arrays)


def tensors(
  source: Source, arrays: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Returns our values under the names there.

  The reader of such files is run on numbers in place of values, so that each
  element of ours says which tensor there it comes from, and which element of
  that. Both are floats, which the reader asks for; below 2^24 these are exact.

  Args:
    source: the checkpoint.
    arrays: all tensors there, by name; their shapes are used.
  """
  config, loaded = source.config, source.loaded
  leaves = named_arrays.flat(loaded.params)
  leaves |= named_arrays.flat(loaded.model_state)
  tensor = {
    name: np.full(value.shape, i, np.float32)
    for i, (name, value) in enumerate(arrays.items())
  }
  element = {
    name: np.arange(value.size, dtype=np.float32).reshape(value.shape)
    for name, value in arrays.items()
  }
  tensor, element = (_read(config, x, leaves) for x in (tensor, element))
  found = {
    name: np.full(value.size, np.nan, np.float32)
    for name, value in arrays.items()
  }
  names = list(arrays)
  for ours, which in tensor.items():
    where = element[ours].astype(np.int64)
    values = np.asarray(leaves[ours], np.float32)
    for number in np.unique(which):  # several where q, k and v are joined
      part = which == number
      found[names[int(number)]][where[part]] = values[part]
  return {
    name: values.reshape(arrays[name].shape)
    for name, values in found.items()
    if values.size and not np.isnan(values).any()
  }


def _read(config, arrays, leaves) -> dict[str, np.ndarray]:
  """Returns what the reader makes of a file's arrays, by our names."""
  convert = _CONVERTERS[backbones.BACKBONES[config.model.backbone][0]]
  of_backbone = {
    name.removeprefix(_ENCODER): value
    for name, value in arrays.items()
    if name.startswith(_ENCODER)
  }
  of_decoders = {
    name: value
    for name, value in arrays.items()
    if not name.startswith((_ENCODER, "class_", "criterion."))
  }
  return {
    **_prefixed("backbone", convert, of_backbone, leaves),
    **_prefixed("maskformer", pretrained.maskformer, of_decoders, leaves),
  }


def _prefixed(part, convert, arrays, leaves) -> dict[str, np.ndarray]:
  own = {
    name.removeprefix(f"{part}/"): leaf
    for name, leaf in leaves.items()
    if name.startswith(f"{part}/")
  }
  found = convert(arrays, own, f"transformers ({part})")
  return {f"{part}/{name}": where for name, where in found.items()}


def configuration(config: Any) -> Any:
  """Returns the `MaskFormerConfig` of the same sizes."""
  # Its classes take more arguments than their types tell.
  transformers: Any = importlib.import_module("transformers")
  c = config.model
  network, sizes = backbones.BACKBONES[c.backbone]
  if network is Swin:
    backbone = transformers.MaskFormerSwinConfig(
      image_size=config.evaluate.image_size,
      embed_dim=sizes["embed_dim"],
      depths=list(sizes["depths"]),
      num_heads=list(sizes["num_heads"]),
      window_size=sizes.get("window", 7),
      out_features=_STAGES,
    )
  else:
    backbone = transformers.ResNetConfig(
      depths=list(sizes["depths"]), out_features=_STAGES
    )
  return transformers.MaskFormerConfig(
    fpn_feature_size=c.hidden_dim,
    mask_feature_size=c.mask_dim,
    backbone_config=backbone,
    decoder_config=transformers.DetrConfig(
      d_model=c.hidden_dim,
      decoder_layers=c.decoder_layers,
      decoder_attention_heads=c.num_heads,
      decoder_ffn_dim=c.ffn_dim,
      num_queries=c.num_queries,
      encoder_layers=1,  # DETR's own; MaskFormer builds none
    ),
    num_labels=1,
  )


def _difference(source: Source, folder: Path) -> float:
  import torch

  transformers: Any = importlib.import_module("transformers")
  side = source.segmenter.image_size
  image = verify.pictures(side)[0][None].astype(np.float32)
  graphdef = sseg.build(source.config)[0]
  apply = jax.jit(lambda *x: sseg.apply_image(graphdef, *x).mask_logits[-1])
  ours = apply(source.loaded.params, source.loaded.model_state, image)
  module = transformers.MaskFormerForInstanceSegmentation.from_pretrained(
    folder
  ).eval()
  pixels = (
    np.asarray(normalize_pixels(jnp.asarray(image)))
    .transpose(0, 3, 1, 2)
    .copy()
  )
  with torch.inference_mode():
    theirs = module(pixel_values=torch.from_numpy(pixels))
  apart = np.abs(theirs.masks_queries_logits.numpy() - np.asarray(ours)).max()
  difference = float(apart / np.abs(np.asarray(ours)).max())
  if not difference <= verify.LARGEST_DIFFERENCE:
    raise verify.Failed(
      f"masks differ by {difference:.1e} of the largest, more than"
      f" {verify.LARGEST_DIFFERENCE:.0e}"
    )
  return difference
