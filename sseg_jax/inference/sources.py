"""Where a model may come from: a run, an exported folder, the hub.

Nothing that is read here is executed: arrays are Orbax's or `safetensors`, all
else is JSON. The network is built by this package, and the arrays must fit it.
"""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sseg_jax import config_files, default_config, files, stored_config
from sseg_jax.checkpoints import checkpoint, exported, hub, named_arrays
from sseg_jax.checkpoints.checkpoint import Loaded
from sseg_jax.errors import InputError, brief
from sseg_jax.inference import background, rarity
from sseg_jax.inference.sliding_window import LARGEST_SIZE
from sseg_jax.models import fields, sseg

# Below an exported folder, where it has one folder for each format.
_FORMAT = "safetensors"
# Prompt templates of an export; CLIP's are 80.
_MOST_TEMPLATES = 1000
_LONGEST_TEMPLATE = 1000  # letters
# Fields that cost time or memory, and that no array of the file is as large as.
_LIMITS = {
  "evaluate.image_size": (1, LARGEST_SIZE),
  "evaluate.stride": (1, LARGEST_SIZE),
  "pseudo_masks.k": (1, 1024),
  "pseudo_masks.stride": (1, 1024),
  "pseudo_masks.iterations": (1, 10_000),
  "pseudo_masks.restarts": (1, 1000),
  "pseudo_masks.upsample": (1, 64),
  "pseudo_masks.fit_every": (1, 1024),
  "pseudo_masks.median_passes": (0, 100),
  "pseudo_masks.majority_passes": (0, 100),
  "pseudo_masks.colour_steps": (0, 1000),
}
_USUAL_LAYERS = 100  # so many are built in a moment
_LAYERS = (
  "text.layers",
  "model.decoder_layers",
  "model.encoder_layers",
  "model.stem_depths",
)


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
  try:
    _check_limits(config, loaded)
    background.check_stored(loaded.metadata)
    rarity.check_stored(loaded.metadata)
    _check_templates(loaded.metadata.get("templates"))
  except InputError as error:
    raise InputError(f"{origin}: {error}") from error
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
    except (OSError, ValueError):  # too long a name, a NUL in it
      pass
  return None


def _config(stored: Any, place: str) -> ConfigDict:
  """Returns a stored config, whose fields have the types that they need."""
  remedy = "the file is damaged or was changed; load another copy"
  try:
    config = stored_config.completed(stored)
    defaults = default_config.get_config()
    for name in config_files.names(defaults):
      *path, last = name.split(".")
      node, kinds = config, defaults
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
      f"{place}: config: is not one of sseg_jax ({brief(error)}); {remedy}"
    ) from error
  return config


def _check_limits(config: ConfigDict, loaded: Any) -> None:
  """InputError for fields that would cost any amount of time or memory.

  What the arrays decide is checked with them; here is what they do not.
  """
  limits: dict[str, tuple[int, int]] = dict(_LIMITS)
  # Each layer has an array: more layers need not be built to be wrong.
  try:
    arrays = len(jax.tree.leaves([loaded.params, loaded.model_state]))
  except Exception as error:  # keys that cannot be sorted, as "a" beside 0
    raise InputError(
      f"the weights are of another network ({brief(error)}); load another copy"
    ) from error
  limits |= {name: (0, max(arrays, _USUAL_LAYERS)) for name in _LAYERS}
  for name, (low, high) in limits.items():
    *path, last = name.split(".")
    node = config
    for part in path:
      node = node[part]
    values = node[last]
    if not isinstance(values, list | tuple):
      values = (values,)
    if not all(low <= value <= high for value in values):
      raise InputError(
        f"config: {name}={config_files.shown(node[last])} is not from {low} to"
        f" {high}; the file is damaged or was changed; load another copy"
      )


def _check_templates(templates: Any) -> None:
  """InputError unless these are prompt templates, in a usual number."""
  if templates is None:
    return
  good = isinstance(templates, list | tuple) and all(
    isinstance(text, str) and "{}" in text and len(text) <= _LONGEST_TEMPLATE
    for text in templates
  )
  if not good or not 0 < len(templates) <= _MOST_TEMPLATES:
    raise InputError(
      f"templates={config_files.shown(templates)}: they must be 1 to"
      f" {_MOST_TEMPLATES} short texts with {{}} in each; load another copy"
    )


def _check_arrays(loaded: Any, config: ConfigDict, place: str) -> None:
  """InputError unless the stored arrays are those of the config's network."""
  try:
    _, params, model_state = sseg.build(config)
  except InputError as error:
    raise InputError(f"{place}: config: {error}") from error
  except Exception as error:
    raise InputError(
      f"{place}: config: makes no network ({brief(error)}); the file is"
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
    kind = jnp.floating if _is_float(wanted[name]) else np.number
    if not jnp.issubdtype(found[name].dtype, kind):
      raise InputError(
        f"{place}: {name} holds {found[name].dtype}, not numbers; load another"
        " copy"
      )


def _is_float(array: Any) -> bool:
  return jnp.issubdtype(array.dtype, jnp.floating)


def _shape(array: Any) -> str:
  return "missing" if array is None else str(list(array.shape))
