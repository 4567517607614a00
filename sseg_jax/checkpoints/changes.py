"""What differs between a run's settings and those of its checkpoint.

A run that goes on from a checkpoint may be given other settings. Those that
decide the order of the data or the form of the network must stay: the rest of
an epoch would repeat some pictures and miss others, and the parameters would
mean something else. All others are told, and kept with the step in the metadata
of later checkpoints and in result.json, under "changes".
"""

import json
from collections.abc import Mapping
from typing import Any

from sseg_jax import default_config
from sseg_jax.errors import InputError

_FIXED = {
  "task",
  "seed",
  "batch_size",
  "loss.mask_every",  # which pictures learn masks is a part of the order
  "data.source",
  "data.lanes",
  "data.shuffle_window",
  "data.shapes.train_size",
  "data.shapes.hard_share",
}
_FIXED_PARTS = ("model.", "text.")
# Fields of these parts that say how the network learns, not what it is.
_FREE = {
  "model.weights",
  "model.drop_path",
  "model.dropout",
  "model.remat",
  "model.deep_supervision",
  "text.weights",
  "text.dropout",
}
# With data.source="shapes" so many folders at the start of these are the run's
# own, which it fills in itself.
_FILLED = {"data.train": 1, "data.val": 1, "evaluate.benchmarks": 3}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Returns the values of a nested configuration by their dotted names."""
  found: dict[str, Any] = {}
  for name, value in config.items():
    if isinstance(value, Mapping):
      found |= flat(value, f"{prefix}{name}.")
    else:
      found[prefix + name] = value
  return found


def since(
  metadata: Mapping[str, Any], config: Any, workdir: Any
) -> dict[str, list[Any]]:
  """Compares a run's settings with those of the checkpoint it goes on from.

  Args:
    metadata: of the checkpoint; {} for none.
    config: the run's, as the user gave it.
    workdir: for the message.

  Returns:
    Dotted name -> [old value, new value] of what may change.

  Raises:
    InputError: if something differs that must stay; names all of it.
  """
  if "config" not in metadata:
    return {}
  stored = default_config.completed(metadata["config"]).to_dict()
  old, new = flat(stored), flat(json.loads(json.dumps(config.to_dict())))
  if old["data.source"] == "shapes":
    for name, count in _FILLED.items():
      given = old[name].split(",")[count:]
      old[name] = ",".join(given)
  found = {
    name: [old[name], new[name]]
    for name in sorted(old.keys() & new.keys())
    if old[name] != new[name]
  }
  wrong = [
    f"{name}={a!r}, not {b!r}"
    for name, (a, b) in found.items()
    if _must_stay(name, a, b)
  ]
  if wrong:
    raise InputError(
      f"{workdir} holds a run with {'; '.join(wrong)}: these stay the same in a"
      " run; give the stored values, or another --workdir for a new run"
    )
  return found


def _must_stay(name: str, old: Any, new: Any) -> bool:
  if name == "optim.clip_norm":
    return not old or not new  # the optimizer's state has other parts then
  fixed = name in _FIXED or name.startswith(_FIXED_PARTS)
  return fixed and name not in _FREE


def check_records(
  metadata: Mapping[str, Any], found: str | None, config: Any, workdir: Any
) -> None:
  """Raises InputError if `data.train` holds other records than it did.

  Args:
    metadata: of the checkpoint; {} for none.
    found: fingerprint of the records; None where the run draws its own.
    config: the run's.
    workdir: for the message.
  """
  known = metadata.get("records")
  if None not in (known, found) and known != found:
    raise InputError(
      f"{workdir} holds a run on other records than those in"
      f" data.train={config.data.train!r}: these stay the same in a run; give"
      " the folders it began with, or another --workdir for a new run"
    )
