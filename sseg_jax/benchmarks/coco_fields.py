"""Fields of one entry of a COCO file, checked.

`where` names the entry in messages; see `place`.
"""

import math
from pathlib import Path
from typing import Any

from sseg_jax.benchmarks.coco_masks import MAX_SIDE
from sseg_jax.errors import InputError


def area(value: Any) -> float | None:
  """Returns an area above 0; None if it must be computed from the mask."""
  if isinstance(value, bool) or not isinstance(value, int | float):
    return None
  try:
    pixels = float(value)
  except OverflowError:
    return None
  return pixels if math.isfinite(pixels) and pixels > 0 else None


def crowd(entry: dict, where: str) -> bool:
  """Returns `iscrowd`, by default False; InputError if it is not 0 or 1."""
  value = entry.get("iscrowd")
  if value is None or value in (0, 1):
    return bool(value)
  raise InputError(f"{where}: iscrowd={shortened(value)} is neither 0 nor 1")


def side(entry: dict, field: str, where: str) -> int | None:
  """Returns a width or height; None where it is missing, null, NaN or 0.

  Raises:
    InputError: for any other value that is no number of pixels.
  """
  value = entry.get(field)
  if value is None or value == 0 or value != value:
    return None
  if (
    isinstance(value, bool)
    or not isinstance(value, int | float)
    or not 0 < value <= MAX_SIDE
    or value != int(value)
  ):
    raise InputError(
      f"{where}: {field}={shortened(value)} is no number of pixels; correct it,"
      " or leave it out to take the picture's"
    )
  return int(value)


def identifier(entry: dict, field: str, where: str) -> Any:
  """Returns an id: a number, or a text. A text of digits becomes a number.

  Raises:
    InputError: if the field is missing or holds something else.
  """
  value = entry.get(field)
  if isinstance(value, str):
    return int(value) if len(value) < 19 and value.isdecimal() else value
  if isinstance(value, bool) or not isinstance(value, int | float):
    state = "is missing" if field not in entry else f"={shortened(value)}"
    raise InputError(
      f"{where}: {field}{'' if state[0] == '=' else ' '}{state}; give a number"
    )
  if value != value:
    raise InputError(f"{where}: {field}=NaN; give a number")
  return value


def place(path: Path, what: str, number: int, entry: dict) -> str:
  """Returns how messages name an entry: the file, its kind, and its id."""
  if "id" in entry:
    return f"{path}: {what} {shortened(entry['id'])}"
  return f"{path}: {what} number {number + 1} (without id)"


def shortened(value: Any) -> str:
  """Returns a value as a text of at most 40 characters."""
  text = ascii(value)
  return text if len(text) <= 40 else f"{text[:37]}..."


def plain(name: str) -> str:
  """Returns a category's name without capitals and underscores."""
  return " ".join(name.replace("_", " ").lower().split())
