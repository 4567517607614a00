"""The pictures that are meant by paths, folders and patterns."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from sseg_jax.errors import InputError
from sseg_jax.images import reader, writer


def expand(given: Sequence[str | os.PathLike]) -> list[Path]:
  """Returns the pictures meant, each once, in the order given.

  Args:
    given: of each picture the path; of a folder all pictures in it, by name,
      without those in folders below and without results of this package; of a
      pattern with *, ? or [] (** for any folders) all pictures that match.
      A file that does not exist stays in the list: reading it tells so.

  Raises:
    InputError: a folder holds no picture, or a pattern matches none.
  """
  found: dict[str, Path] = {}
  for item in given:
    path = Path(os.path.expanduser(item))
    for picture in _pictures(path):
      found.setdefault(os.path.abspath(picture), picture)
  return list(found.values())


def _pictures(path: Path) -> list[Path]:
  try:
    is_folder, exists = path.is_dir(), os.path.lexists(path)
  except ValueError:  # a NUL in the name
    return [path]
  if is_folder:
    try:
      inside = sorted(child for child in path.iterdir() if _is_picture(child))
    except OSError as error:
      raise InputError(
        f"{path}: cannot be listed ({error.strerror}); check its permissions"
      ) from error
    if not inside:
      raise InputError(
        f"{path}: is a folder without pictures; name the pictures, or give a"
        f" pattern such as '{path}/**/*.jpg'"
      )
    return inside
  if exists or not glob.has_magic(str(path)):
    return [path]
  matches = glob.iglob(str(path), recursive=True)
  inside = sorted(p for p in map(Path, matches) if _is_picture(p))
  if not inside:
    raise InputError(f"{path}: no picture's name matches this pattern")
  return inside


def _is_picture(path: Path) -> bool:
  if not reader.has_suffix(path) or not path.is_file():
    return False
  return not writer.is_ours(path)
