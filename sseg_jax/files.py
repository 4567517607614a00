"""Paths as a user gives them, and small files that a kill leaves whole.

Paths are of `pathlib` or `epath`. Only the standard library is needed.
"""

import contextlib
import errno
import json
import logging
import os
import pathlib
import shutil
from typing import Any

from sseg_jax.errors import InputError, Unavailable

FULL = (errno.ENOSPC, errno.EDQUOT)
# Errors that may not occur again at the next try.
_PASSING = (*FULL, errno.EIO, errno.ESTALE)


def expand(path: str | os.PathLike) -> str:
  """Returns a path with a leading `~` or `~user` replaced by that home folder.

  A shell does this only for a `~` that starts a word, so not in
  `--workdir=~/run`, and never in a config file. A path with a scheme
  (`gs://BUCKET/run`), "" and the name of an unknown user stay as they are.
  """
  text = os.fspath(path)
  return text if "://" in text else os.path.expanduser(text)


def path(text: str | os.PathLike) -> pathlib.Path:
  """Returns a local path, as `expand`: the type of a command's flag."""
  return pathlib.Path(expand(text))


def unwritable(
  field: str, folder: str | os.PathLike, error: OSError
) -> InputError | Unavailable:
  """Returns what to raise where `folder` cannot be made or written to.

  Args:
    field: what the folder is called, as "workdir".
    folder: as the user gave it.
    error: what the system said.
  """
  name = os.fspath(folder)
  if "://" not in name:
    for part in (pathlib.Path(name), *pathlib.Path(name).parents):
      if part.exists() and not part.is_dir():
        return InputError(
          f"{field}={name}: {part} is a file; give a folder, or the name of one"
          " to make"
        )
  reason = error.strerror or str(error).partition("\n")[0]
  if error.errno in _PASSING:
    return Unavailable(
      f"{field}={name} cannot be written ({reason}); make room and start again"
    )
  return InputError(
    f"{field}={name} cannot be written ({reason}); give a folder in which you"
    " may write"
  )


def full(field: str, folder: str | os.PathLike) -> Unavailable:
  """Returns what to raise where work that can go on finds its disk full.

  Args:
    field: what the folder is called, as "--out".
    folder: as the user gave it.
  """
  told = ""
  with contextlib.suppress(OSError):
    disk = shutil.disk_usage(folder)
    told = (
      f" ({disk.free / 2**20:.0f} of {disk.total / 2**20:.0f} MiB are free)"
    )
  return Unavailable(
    f"{field}={os.fspath(folder)}: the disk is full{told}; make room and start"
    " again, which goes on where it was"
  )


def write_text(path: Any, text: str) -> None:
  """Writes a file; its old content stays until the new one is complete."""
  new = path.with_name(f"{path.name}.new")
  new.write_text(text)
  new.replace(path)


def read_json(path: Any) -> Any | None:
  """Returns a file's content; None if it is missing or, with a warning, bad."""
  try:
    if path.exists() and not path.is_file():  # a pipe would wait
      raise ValueError("it is no file")
    return json.loads(path.read_text())
  except FileNotFoundError:
    return None
  except (OSError, ValueError, RecursionError) as error:
    logging.getLogger(__name__).warning(
      "%s is not readable (%s): taken as missing", path, error
    )
    return None


def make_folder(field: str, folder: pathlib.Path) -> None:
  """Makes a folder for results, and the folders above it.

  Args:
    field: what the folder is called in messages, as "out".
    folder: as the user gave it; it may exist.

  Raises:
    InputError: if it cannot be made or written to.
    Unavailable: if the disk is full or does not answer.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise unwritable(field, folder, error) from error
  except ValueError as error:  # NUL in its name
    raise InputError(
      f"{field}={str(folder)!r} is no folder's name ({error}); give another"
    ) from error
  if not os.access(folder, os.W_OK | os.X_OK):
    raise InputError(
      f"{field}={folder}: nothing may be written there; give another folder"
    )
