"""Exported folders: weights in `safetensors`, everything else in JSON.

Such a folder is what `python -m sseg_jax.export` writes. It is read on any
machine, and no file of it is ever run or unpickled.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from sseg_jax import files
from sseg_jax.checkpoints import named_arrays
from sseg_jax.checkpoints.checkpoint import Loaded
from sseg_jax.errors import InputError

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"
# Keys of config.json and the types of their values.
KEYS: dict[str, tuple[type, ...]] = {
  "config": (dict,),
  "words": (list,),
  "templates": (list,),
  "thresholds": (dict,),
  "preprocessing": (dict,),
  "step": (int,),
  "commit": (str, type(None)),
}
_PARTS = ("params", "model_state")
_LONGEST_NAME = 256  # letters; each "/" is a level of nesting
_LARGEST_CONFIG = 2**24  # bytes; a config.json has some thousands


def is_exported(path: str | os.PathLike) -> bool:
  """Whether a folder has the two files of an export."""
  folder = Path(files.expand(path))
  return all((folder / name).is_file() for name in (WEIGHTS, CONFIG))


def load(path: str | os.PathLike) -> Loaded:
  """Reads an exported folder, as `checkpoint.load` reads a step's.

  Returns:
    The same as `checkpoint.load`. Its `metadata` holds all of `config.json`,
    and `thresholds` and `thresholds_of` as `background.stored` reads them.

  Raises:
    InputError: if a file is missing or damaged, or a key of `config.json` is
      missing or of another type.
  """
  folder = Path(files.expand(path))
  fields = read_config(folder)
  leaves = read_weights(folder)
  tree = named_arrays.nested(leaves, int_keys=True)
  thresholds = fields["thresholds"]
  metadata = {
    **fields,
    "thresholds": thresholds.get("values", {}),
    "thresholds_of": {
      key: thresholds[key]
      for key in ("combiner", "classes")
      if key in thresholds
    },
  }
  return Loaded(
    config=fields["config"],
    params=tree.get("params", {}),
    model_state=tree.get("model_state", {}),
    step=fields["step"],
    metadata=metadata,
  )


def read_config(folder: Path) -> dict[str, Any]:
  """Returns `config.json`, whose keys and types are checked (`KEYS`)."""
  path = folder / CONFIG
  try:
    if path.stat().st_size > _LARGEST_CONFIG:
      raise InputError(
        f"{path}: {path.stat().st_size} bytes are too many; export again"
      )
    fields = json.loads(path.read_text(encoding="utf-8"))
  except InputError:  # is a ValueError
    raise
  except OSError as error:
    raise InputError(
      f"{path}: cannot be read ({error.strerror}); give a folder that"
      " `python -m sseg_jax.export` wrote"
    ) from error
  # RecursionError: thousands of brackets within each other.
  except (ValueError, RecursionError) as error:
    raise InputError(f"{path}: is not JSON ({error}); export again") from error
  if not isinstance(fields, dict):
    raise InputError(f"{path}: holds no JSON object; export again")
  for key, types in KEYS.items():
    if key not in fields:
      raise InputError(f"{path}: has no key {key!r}; export again")
    value = fields[key]
    if not isinstance(value, types) or isinstance(value, bool):
      raise InputError(
        f"{path}: {key} is {str(value)[:40]!r}, of type"
        f" {type(value).__name__}; it must be {types[0].__name__}; export again"
      )
  for key in ("words", "templates"):
    if not all(isinstance(item, str) for item in fields[key]):
      raise InputError(f"{path}: {key} holds what is no text; export again")
  return fields


def read_weights(folder: Path) -> dict[str, np.ndarray]:
  """Returns the arrays by name: `params/…` and `model_state/…`."""
  path = folder / WEIGHTS
  try:
    leaves = safetensors.numpy.load_file(path)
  # Its shapes and types may be any: KeyError, OverflowError among others.
  except Exception as error:
    reason = str(error).split("\n")[0][:200] or type(error).__name__
    raise InputError(
      f"{path}: cannot be read as weights ({reason}); export again, or copy the"
      " file again"
    ) from error
  leaves = {k: v for k, v in leaves.items() if k.split("/")[0] in _PARTS}
  names = set(leaves)
  for name in names:
    if len(name) > _LONGEST_NAME:
      raise InputError(
        f"{path}: an array's name has {len(name)} letters; export again"
      )
    # A leaf cannot be a folder as well: "params/a" beside "params/a/b".
    above = name.split("/")
    if any("/".join(above[:i]) in names for i in range(1, len(above))):
      raise InputError(f"{path}: {name} is below another array; export again")
  return leaves


def save(folder: Path, tree: Mapping[str, Any], fields: Mapping[str, Any]):
  """Writes the two files that `load` reads.

  Args:
    folder: exists, local.
    tree: nested dicts of arrays below the keys `params` and `model_state`;
      other keys are stored too, and not read by `load`.
    fields: of `config.json`, at least `KEYS`.
  """
  missing = KEYS.keys() - fields.keys()
  if missing:
    raise ValueError(f"fields lack {sorted(missing)}")
  leaves = {
    name: np.asarray(leaf, order="C")
    for name, leaf in named_arrays.flat(dict(tree)).items()
  }
  safetensors.numpy.save_file(leaves, folder / WEIGHTS, {"format": "np"})
  text = json.dumps(fields, indent=1, ensure_ascii=False)
  (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
