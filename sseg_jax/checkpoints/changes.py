"""What differs between a run's settings and those of its checkpoint.

A run that resumes from a checkpoint may have other settings. Settings that
decide the order of the data or the form of the network must not change:
otherwise the rest of an epoch would repeat some pictures and miss others, or
the stored parameters would not fit. All other changes are logged. They are
stored with the step under "changes", in the metadata of later checkpoints and
in result.json.
"""

import json
from collections.abc import Mapping
from typing import Any

from sseg_jax import stored_config
from sseg_jax.errors import InputError

_FIXED = {
  "task",
  "seed",
  "batch_size",
  "loss.mask_every",  # which pictures learn masks is a part of the order
  "data.source",
  "data.lanes",
  "data.shuffle_window",
  "data.weights",
  "data.shapes.train_size",
  "data.shapes.hard_share",
  "optim.layer_decay",  # the optimizer's state has another form with 1
}
_FIXED_PARTS = ("model.", "text.")
# Fields that may change: they say how the network learns, not what it is.
_FREE = {
  "model.weights",
  "model.drop_path",
  "model.dropout",
  "model.remat",
  "model.deep_supervision",
  "text.weights",
  "text.dropout",
}
# With data.source="shapes" the run itself puts its own folders at the start of
# these fields: this many of them.
_FILLED = {"data.train": 1, "data.val": 1, "evaluate.benchmarks": 3}


# A network with a fixed list of classes takes these from its records.
_COMPLETED = ("data.classes", "evaluate.background_threshold")


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
  """Compares a run's settings with those of the checkpoint it resumes from.

  Args:
    metadata: metadata of the checkpoint; {} if there is no checkpoint.
    config: the run's configuration, as the user gave it.
    workdir: the run's folder, for the message.

  Returns:
    Dotted name -> [old value, new value] of each changed field.

  Raises:
    InputError: if a field differs that must not; it names all such fields.
  """
  if "config" not in metadata:
    return {}
  stored = stored_config.completed(metadata["config"]).to_dict()
  old, new = flat(stored), flat(json.loads(json.dumps(config.to_dict())))
  if old["data.source"] == "shapes":
    for name, count in _FILLED.items():
      given = old[name].split(",")[count:]
      old[name] = ",".join(given)
  if new["model.head"] != "text":
    for name in _COMPLETED:
      if not new[name]:
        old[name] = new[name]
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
    metadata: metadata of the checkpoint; {} if there is no checkpoint.
    found: fingerprint of the records; None if the run draws its own.
    config: the run's configuration.
    workdir: the run's folder, for the message.
  """
  known = metadata.get("records")
  if None not in (known, found) and known != found:
    raise InputError(
      f"{workdir} holds a run on other records than those in"
      f" data.train={config.data.train!r}: these stay the same in a run; give"
      " the folders it began with, or another --workdir for a new run"
    )
