"""The rows of Table 1 and of the study behind it, as settings."""

from collections.abc import Mapping
from typing import Any

import ml_collections

from sseg_jax import default_config
from sseg_jax.errors import InputError

# The paper's own column: oracle mIoU and seconds per image at batch 128.
PAPER: dict[str, dict[str, float]] = {
  "spectral": {"voc": 49.2, "context": 43.2, "seconds": 0.543},
  "pixels": {"voc": 49.5, "context": 43.3, "seconds": 0.188},
  "imagenet_vit": {"voc": 68.8, "context": 58.1, "seconds": 0.079},
  "groupvit": {"voc": 73.7, "context": 54.6, "seconds": 0.002},
  "dino": {"voc": 78.8, "context": 66.3, "seconds": 0.002},
}

_VIT = {"metric": "cosine"}
_DINO = {"generator": "dino", **_VIT}
_UPSAMPLED = {**_DINO, "upsample": 4}
_RESTARTED = {**_UPSAMPLED, "restarts": 4}
_COLOURED = {**_RESTARTED, "colour_steps": 5}
_SMOOTHED = {**_COLOURED, "smooth_radius": 4.0}

# Row -> fields of `config.pseudo_masks`.
ROWS: dict[str, dict[str, Any]] = {
  "spectral": {"generator": "spectral"},
  "pixels": {"generator": "pixels"},
  "colours": {"generator": "pixels", "position_weight": 0.0},
  "imagenet_vit": {"generator": "imagenet_vit", **_VIT},
  "groupvit": {"generator": "groupvit"},
  "mae": {"generator": "mae", **_VIT},
  "dinov2": {"generator": "dinov2", **_VIT},
  "dino": _DINO,
  # The study, from the paper's plain form on. With a ViT-S/14 at 448 pixels,
  # over five seeds, 26 photos of VOC val go from 50.6 (plain) to 59.0
  # (and_smooth) and 57.0 (and_keys), 100 photos of COCO val from 38.5 to 42.7
  # and 43.4. They were chosen on 49 photos of VOC train: 68.7, 71.9 and 72.2.
  "plain": _DINO,
  "euclidean": {**_DINO, "metric": "euclidean"},
  "farthest": {**_DINO, "init": "farthest"},
  "more_iterations": {**_DINO, "iterations": 30},
  "keys": {**_DINO, "feature": "keys"},
  "upsampled": _UPSAMPLED,
  "and_restarts": _RESTARTED,
  "and_colours": _COLOURED,
  "and_smooth": _SMOOTHED,
  "and_keys": {**_SMOOTHED, "feature": "tokens+keys:10"},
}
GROUPS = {
  "table": tuple(ROWS)[: tuple(ROWS).index("plain")],
  "study": tuple(ROWS)[tuple(ROWS).index("plain") :],
}
# Its weights are a folder, which must be given; others have published ones.
NEEDS_FOLDER = "groupvit"


def choose(names: str, weights: str = "") -> list[str]:
  """Reads `"pixels,study"`: rows and groups; InputError for others.

  Args:
    names: as `--generators` takes them.
    weights: as `--weights` takes them. A group has the row `NEEDS_FOLDER` only
      if its weights are among them.
  """
  has_folder = f",{NEEDS_FOLDER}=" in f",{weights}"
  chosen: list[str] = []
  for name in filter(None, (part.strip() for part in names.split(","))):
    if name not in ROWS and name not in GROUPS:
      raise InputError(
        f"generators={name!r} is neither a row ({', '.join(ROWS)}) nor a group"
        f" ({', '.join(GROUPS)})"
      )
    chosen += [
      row
      for row in GROUPS.get(name, (name,))
      if row != NEEDS_FOLDER or has_folder or name == NEEDS_FOLDER
    ]
  if not chosen:
    raise InputError(f"generators={names!r} names none; use e.g. table")
  return list(dict.fromkeys(chosen))


def config_of(
  row: str, fields: Mapping[str, Any], dtype: str = "float32"
) -> ml_collections.ConfigDict:
  """Returns the configuration of a row; `fields` come on top of its own."""
  config = default_config.get_config()
  config.dtype = dtype
  for name, value in {**ROWS[row], **fields}.items():
    if name not in config.pseudo_masks:
      raise InputError(
        f"pseudo_masks.{name}={value!r}: there is no such field; see"
        " default_config.py"
      )
    try:
      config.pseudo_masks[name] = value
    except TypeError as error:
      raise InputError(f"pseudo_masks.{name}={value!r}: {error}") from error
  return config
