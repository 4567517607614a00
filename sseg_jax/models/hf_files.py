"""Networks as `transformers` saves them: config.json beside the weights.

Both CLIP and GroupViT are read through this module.
"""

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from flax import nnx

from sseg_jax import files, tokenizer
from sseg_jax.checkpoints import named_arrays
from sseg_jax.errors import InputError
from sseg_jax.models import pretrained, weights

_FILES = ("model.safetensors", "pytorch_model.bin")
_LARGEST = 100_000  # of a size in config.json
# How to get such a folder, for --help and for messages.
HOW = "a folder that transformers saved, with config.json and model.safetensors"
M = TypeVar("M", bound=nnx.Module)


@dataclasses.dataclass(frozen=True)
class Config:
  """A part of a config.json whose fields are checked as they are read.

  Attributes:
    fields: by name.
    place: the file, for messages.
    usual: of fields that the file does not have; `transformers` leaves out
      those with their usual value.
  """

  fields: Mapping[str, Any]
  place: object
  usual: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def part(self, name: str, **usual: Any) -> "Config":
    """Returns a group of fields."""
    found = self.fields.get(name)
    if not isinstance(found, dict):
      raise InputError(f"{self.place}: {name} is missing; give {HOW}")
    return Config(found, f"{self.place}: {name}", {**_USUAL[name], **usual})

  def _get(self, name: str) -> Any:
    value = self.fields.get(name)
    return self.usual.get(name) if value is None else value

  def number(self, name: str, least: int = 1) -> int:
    """Returns a whole number; InputError for anything else."""
    value = self._get(name)
    if type(value) is not int or not least <= value <= _LARGEST:
      raise InputError(
        f"{self.place}: {name} is {str(value)[:40]}, not a number from {least}"
        f" to {_LARGEST}; give {HOW}"
      )
    return value

  def numbers(self, name: str, least: int = 1) -> list[int]:
    """Returns a list of whole numbers; InputError for anything else."""
    values = self._get(name)
    if not isinstance(values, list | tuple) or not 0 < len(values) <= 100:
      raise InputError(
        f"{self.place}: {name} is {str(values)[:40]}, not a list; give {HOW}"
      )
    return [Config({name: v}, self.place).number(name, least) for v in values]

  def choice(self, name: str, known: Collection[str]) -> str:
    """Returns one of the known texts; InputError for anything else."""
    value = self._get(name)
    if value not in known:
      raise InputError(
        f"{self.place}: {name} is {str(value)[:40]}, and only"
        f" {', '.join(known)} can be read"
      )
    return value


# transformers' defaults, of CLIP.
_USUAL: dict[str, dict[str, Any]] = {
  "text_config": {
    "vocab_size": tokenizer.VOCAB_SIZE,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "num_hidden_layers": 12,
    "hidden_act": "quick_gelu",
  },
  "vision_config": {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
  },
}


def read(source: str, kind: str) -> tuple[Config, dict[str, np.ndarray], Path]:
  """Reads config.json and the arrays.

  Args:
    source: the folder, or the file of weights in it.
    kind: `model_type` that the config must have.

  Returns:
    The config, the arrays by name, and the file of the arrays. InputError names
    what is missing or wrong.
  """
  path = path_of(source)
  config = path.parent / "config.json"
  try:
    fields = json.loads(config.read_text(encoding="utf-8"))
  except FileNotFoundError as error:
    raise InputError(
      f"{config}: is missing, and says the sizes of the network; give {HOW}"
    ) from error
  except (OSError, ValueError, RecursionError) as error:
    raise InputError(f"{config}: cannot be read; give {HOW}") from error
  found_kind = fields.get("model_type") if isinstance(fields, dict) else None
  if found_kind != kind:
    raise InputError(
      f"{config}: model_type is {str(found_kind)[:40]}, where {kind} is needed"
    )
  return Config(fields, config, _WHOLE[kind]), weights.read_arrays(path), path


def path_of(source: str) -> Path:
  """Returns the file of weights; InputError if there is none."""
  place = Path(files.expand(source))
  if "://" in str(source):
    raise InputError(f"weights={source}: give {HOW}, from this machine")
  if place.is_dir():
    found = [place / name for name in _FILES if (place / name).is_file()]
    if not found:
      raise InputError(
        f"{place}: neither {' nor '.join(_FILES)} is there; give {HOW}"
      )
    path = found[0]
  else:
    path = place
  if not path.is_file():
    raise InputError(f"weights={source}: no such file or folder; give {HOW}")
  return path


_WHOLE: dict[str, dict[str, Any]] = {
  "clip": {"projection_dim": 512},
  "groupvit": {"projection_dim": 256, "projection_intermediate_dim": 4096},
}


def text_sizes(text: Config) -> dict[str, Any]:
  """Returns the arguments of `TextTower` for a `text_config`."""
  width = text.number("hidden_size")
  if text.number("vocab_size") != tokenizer.VOCAB_SIZE:
    raise InputError(
      f"{text.place}: vocab_size is {text.number('vocab_size')}, and only"
      f" CLIP's {tokenizer.VOCAB_SIZE} tokens can be read"
    )
  text.choice("hidden_act", ("quick_gelu",))
  if text.number("intermediate_size") != 4 * width:
    raise InputError(
      f"{text.place}: intermediate_size must be {4 * width}, four times the"
      " width"
    )
  return dict(
    vocab_size=tokenizer.VOCAB_SIZE,
    context_length=text.number("max_position_embeddings"),
    width=width,
    layers=text.number("num_hidden_layers"),
    num_heads=text.number("num_attention_heads"),
  )


def text_tower(
  arrays: Mapping[str, np.ndarray], leaves: Mapping[str, Any], place: object
) -> dict[str, np.ndarray]:
  """Returns the parameters "text/…" of a network from a file's arrays."""
  own = {k: v for k, v in arrays.items() if k.startswith("text_model.")}
  return prefixed("text", pretrained.text(own, part(leaves, "text"), place))


def logit_scale(
  arrays: Mapping[str, np.ndarray], place: object
) -> dict[str, np.ndarray]:
  """Returns the parameter "logit_scale"."""
  found = {k: v for k, v in arrays.items() if k == "logit_scale"}
  pretrained.tensors.check(found, {"logit_scale": ()}, place)
  return found


def part(leaves: Mapping[str, Any], name: str) -> dict[str, Any]:
  """Returns the leaves below a name, without it."""
  start = f"{name}/"
  return {
    key.removeprefix(start): leaf
    for key, leaf in leaves.items()
    if key.startswith(start)
  }


def prefixed(
  name: str, leaves: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """Returns the leaves below a name."""
  return {f"{name}/{key}": leaf for key, leaf in leaves.items()}


def filled(
  build: Callable[[], M],
  convert: Callable[[Mapping[str, Any]], Mapping[str, np.ndarray]],
  place: object,
) -> M:
  """Builds a network's structure and gives it the arrays of a file.

  Args:
    build: makes the network; no array of it is made.
    convert: from shapes by name to arrays by the same names.
    place: the file, for messages.
  """
  try:
    graphdef, state = nnx.split(nnx.eval_shape(build))
  except InputError as error:
    raise InputError(f"{place}: {error}") from error
  leaves = named_arrays.flat(nnx.to_pure_dict(state))
  found = convert(leaves)
  arrays = named_arrays.on_device({name: found[name] for name in leaves})
  nnx.replace_by_pure_dict(state, named_arrays.nested(arrays, int_keys=True))
  return nnx.merge(graphdef, state)
