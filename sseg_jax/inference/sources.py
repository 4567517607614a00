"""Where a model may come from: a run, an exported folder, the hub.

Nothing that is read here is executed: arrays are Orbax's or `safetensors`, all
else is JSON. The network is built by this package, and the arrays must fit it.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sseg_jax import config_files, default_config, files
from sseg_jax.checkpoints import checkpoint, exported, hub, named_arrays
from sseg_jax.checkpoints.checkpoint import Loaded
from sseg_jax.errors import InputError
from sseg_jax.models import fields, sseg

# Below an exported folder, where it has one folder for each format.
_FORMAT = "safetensors"


def read(
  source: str | os.PathLike,
  *,
  step: int | None = None,
  revision: str | None = None,
  sha256: str | None = None,
) -> Loaded:
  """Reads a model from any of the places; the arguments as for `api.load`.

  Returns:
    As `checkpoint.load` does, with the config complete and locked, and with the
    place in `metadata["source"]`. `folder` is None for exported weights.
  """
  place = files.expand(source)
  origin = place
  repository = hub.repository(place)
  if repository:
    place, origin = hub.download(repository, revision=revision)
  elif revision is not None:
    raise InputError(
      f"revision={revision} is for a repository of the hub, and {place} is"
      " none; leave it out"
    )
  folder = _exported(place)
  if folder is None:
    if sha256 is not None:
      raise InputError(
        f"sha256 is for exported weights, and {place} is a run; leave it out"
      )
    loaded = checkpoint.load(place, step=step)
  else:
    if step is not None:
      raise InputError(f"step={step}: {place} is an export, which has one step")
    if sha256 is not None:
      hub.check_sha256(folder / exported.WEIGHTS, sha256)
    loaded = exported.load(folder)
  config = _config(loaded.config, origin)
  _check_arrays(loaded, config, origin)
  return loaded._replace(
    config=config, metadata={**loaded.metadata, "source": origin}
  )


def _exported(place: str) -> Path | None:
  if "://" in place:
    return None
  for folder in (Path(place), Path(place) / _FORMAT):
    try:
      if exported.is_exported(folder):
        return folder
    except ValueError:  # a NUL in the name
      pass
  return None


def _config(stored: Any, place: str) -> ConfigDict:
  """Returns a stored config, whose fields have the types that they need."""
  remedy = "the file is damaged or was changed; load another copy"
  try:
    config = default_config.completed(stored)
    for name in config_files.names(default_config.get_config()):
      *path, last = name.split(".")
      node, kinds = config, default_config.get_config()
      for part in path:
        node, kinds = node[part], kinds[part]
      kind = kinds.get_type(last)
      value = config_files.convert(
        name, node[last], kind, name in config_files.optional()
      )
      with node.unlocked(), node.ignore_type():
        node[last] = value
    fields.check(config)
  except InputError as error:
    raise InputError(f"{place}: config: {error}") from error
  # Whatever a group of fields raises that is a number, and the like.
  except Exception as error:
    raise InputError(
      f"{place}: config: is not one of sseg_jax ({_brief(error)}); {remedy}"
    ) from error
  return config


def _check_arrays(loaded: Any, config: ConfigDict, place: str) -> None:
  """InputError unless the stored arrays are those of the config's network."""
  try:
    _, params, model_state = sseg.build(config)
  except InputError as error:
    raise InputError(f"{place}: config: {error}") from error
  except Exception as error:
    raise InputError(
      f"{place}: config: makes no network ({_brief(error)}); the file is"
      " damaged or was changed; load another copy"
    ) from error
  wanted = named_arrays.flat({"params": params, "model_state": model_state})
  found = named_arrays.flat(
    {"params": loaded.params, "model_state": loaded.model_state}
  )
  for name in [*wanted, *found]:
    asked, has = _shape(wanted.get(name)), _shape(found.get(name))
    if asked != has:
      raise InputError(
        f"{place}: the weights are of another network than the config: {name}"
        f" is {has} and must be {asked}; load another copy"
      )
    if not np.issubdtype(found[name].dtype, np.number):
      raise InputError(
        f"{place}: {name} holds {found[name].dtype}, not numbers; load another"
        " copy"
      )


def _shape(array: Any) -> str:
  return "missing" if array is None else str(list(array.shape))


def _brief(error: Exception) -> str:
  text = " ".join(str(error).split())[:80]
  return f"{type(error).__name__}: {text}" if text else type(error).__name__
