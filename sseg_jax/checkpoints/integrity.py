"""The manifest of a checkpoint: shows whether its files changed after saving.

Orbax returns wrong values without an error if a byte of an array file changed.
The manifest holds the SHA-256 of every file. It is written last, so a
checkpoint without a manifest is incomplete.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterator

from etils import epath

MANIFEST = "manifest.json"

# Sub-folders covered: the arrays and the JSON beside them.
ITEMS = ("state", "metadata")


def write_manifest(folder: epath.Path) -> None:
  """Writes the manifest of a checkpoint whose files are complete."""
  text = json.dumps({"sha256": _digests(folder)}, indent=1)
  (folder / MANIFEST).write_text(text)


def damage(folder: epath.Path) -> str | None:
  """Returns what is wrong with the checkpoint, or None if it is whole."""
  file = folder / MANIFEST
  try:
    if file.exists() and not _is_file(file):  # a pipe would wait
      return f"{MANIFEST} is no file"
    expected = json.loads(file.read_text())["sha256"]
  except FileNotFoundError:
    return f"{MANIFEST} is missing: it was not saved to the end"
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return f"{MANIFEST} is not readable"
  if not expected or not isinstance(expected, dict):
    return f"{MANIFEST} lists no files"
  try:
    found = _digests(folder)
  except (OSError, ValueError) as error:
    return f"cannot be read ({error})"
  for name, digest in expected.items():
    if name not in found:
      return f"{name} is missing"
    if found[name] != digest:
      return f"{name} has changed since it was written"
  return None


def _digests(folder: epath.Path) -> dict[str, str]:
  """SHA-256 of every file of the items, by name relative to `folder`."""
  digests = {}
  for path in (p for item in ITEMS for p in _files(folder / item)):
    # Orbax adds its own mark of completion after ours.
    if path.name == "commit_success.txt":
      continue
    if not _is_file(path):
      raise ValueError(f"{path.relative_to(folder)} is no file")
    digest = hashlib.sha256()
    with path.open("rb") as file:
      while chunk := file.read(1 << 22):
        digest.update(chunk)
    digests[str(path.relative_to(folder))] = digest.hexdigest()
  return digests


def _is_file(path: epath.Path) -> bool:
  """Whether this is a file; links to devices and pipes are none."""
  local = os.fspath(path)
  if "://" in local:
    return True
  return stat.S_ISREG(os.stat(local).st_mode)


def _files(folder: epath.Path) -> Iterator[epath.Path]:
  """Yields all files below a folder; links to folders are not followed."""
  for path in sorted(folder.iterdir()) if folder.is_dir() else []:
    if not path.is_dir():
      yield path
    elif not os.path.islink(os.fspath(path)):  # it might lead back up here
      yield from _files(path)
