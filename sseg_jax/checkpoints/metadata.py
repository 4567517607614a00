"""The JSON beside a checkpoint's arrays: configuration, versions, thresholds.

Background thresholds are found after a checkpoint is saved. So they are written
to a file of their own, which is read as part of the metadata.
"""

import json
from collections.abc import Mapping
from typing import Any

from absl import logging
from etils import epath

from sseg_jax import files
from sseg_jax.errors import InputError, brief

# Written beside the manifest, which does not cover it: it may change later.
_THRESHOLDS_FILE = "thresholds.json"
_NAMES = ("thresholds", "thresholds_of")


def add_thresholds(
  folder: epath.Path, old: Mapping[str, Any], thresholds: Mapping[str, Any]
) -> bool:
  """Stores background thresholds with a checkpoint.

  Args:
    folder: the checkpoint's.
    old: its metadata; thresholds for other benchmarks stay.
    thresholds: from `background.to_store`; {} changes nothing.

  Returns:
    Whether they are stored. If the folder cannot be written to, a log message
    says so.
  """
  if not thresholds:
    return False
  if (
    old.get("thresholds_of", {}).get("combiner")
    != (thresholds["thresholds_of"]["combiner"])
  ):
    old = {}
  counts = {
    **old.get("thresholds_of", {}).get("classes", {}),
    **thresholds["thresholds_of"]["classes"],
  }
  merged = {
    "thresholds": {**old.get("thresholds", {}), **thresholds["thresholds"]},
    "thresholds_of": {**thresholds["thresholds_of"], "classes": counts},
  }
  try:
    write_thresholds(folder, merged)
  except OSError as error:
    logging.warning(
      "%s: the background thresholds cannot be stored there (%s)",
      folder,
      error,
    )
    return False
  return True


def write_thresholds(folder: epath.Path, thresholds: Mapping[str, Any]) -> None:
  """Writes thresholds; those written before are replaced."""
  text = json.dumps(thresholds, indent=1) + "\n"
  files.write_text(folder / _THRESHOLDS_FILE, text)


def read(folder: epath.Path) -> dict[str, Any]:
  """Returns the metadata of a checkpoint, with its newest thresholds."""
  try:
    metadata = json.loads((folder / "metadata" / "metadata").read_text())
    if not isinstance(metadata, dict):
      raise ValueError("no JSON object")
  except (OSError, ValueError, RecursionError) as error:
    raise InputError(
      f"{folder}: its metadata cannot be read ({brief(error)}); restore it from"
      " a copy"
    ) from error
  newer = files.read_json(folder / _THRESHOLDS_FILE)
  if isinstance(newer, dict):
    metadata |= thresholds(newer)
  return metadata


def thresholds(metadata: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the part of the metadata that tells background thresholds."""
  return {name: metadata[name] for name in _NAMES if name in metadata}
