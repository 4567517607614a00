"""What stored features of regions were made with, and whether that fits."""

import hashlib
from typing import Any

import jax
import numpy as np

from sseg_jax.data import fields, manifest, region_views
from sseg_jax.errors import InputError
from sseg_jax.models import teacher


def info(config: Any, views: int = 1) -> dict[str, Any]:
  """Returns what the features of regions depend on besides the labels.

  `views` are those of each picture that have features (`region_views.py`).
  """
  return {
    "regions": teacher.regions(config),
    "width": teacher.width(config),
    "teacher": config.model.teacher,
    "teacher_features": config.model.teacher_features,
    "teacher_more_k": list(config.model.teacher_more_k),
    **region_views.fields(config, views),
  }


def check_eye(config: Any, model_state: Any) -> None:
  """Raises InputError if features of records were made with other weights.

  Args:
    config: of a run; if its batches hold pictures, nothing is checked.
    model_state: of the run's first step, with the parameters of the eye.
  """
  if not fields.stored_regions(config):
    return
  arrays = model_state[teacher.NAME]
  if not all(x.is_fully_addressable for x in jax.tree.leaves(arrays)):
    return  # split over processes; too large to gather for a check
  mine = digest(jax.device_get(arrays))
  for folder in config.data.train.split(","):
    made = manifest.read_manifest(folder.strip()).info.get("pseudo_masks", {})
    if made.get("weights_sha256") != mine:
      raise InputError(
        f"{folder}: its region features were made with other weights than"
        " those of this run (pseudo_masks.weights); make them again with"
        " prepare --add_pseudo_masks --add_region_features, or name the same"
        " weights"
      )


def digest(arrays: Any) -> str:
  """Returns the SHA-256 of arrays, in the order of their names."""
  found = hashlib.sha256()
  for leaf in jax.tree.leaves(arrays):
    found.update(np.ascontiguousarray(leaf).tobytes())
  return found.hexdigest()
