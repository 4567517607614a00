"""The manifest of a checkpoint: shows whether its files changed after saving.

Orbax returns wrong values without an error if a byte of an array file changed.
The manifest holds the SHA-256 of every file. It is written last, so a
checkpoint without a manifest is incomplete.
"""

import hashlib
import json
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
  try:
    expected = json.loads((folder / MANIFEST).read_text())["sha256"]
  except FileNotFoundError:
    return f"{MANIFEST} is missing: it was not saved to the end"
  except (ValueError, KeyError, TypeError):
    return f"{MANIFEST} is not readable"
  found = _digests(folder)
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
    digest = hashlib.sha256()
    with path.open("rb") as file:
      while chunk := file.read(1 << 22):
        digest.update(chunk)
    digests[str(path.relative_to(folder))] = digest.hexdigest()
  return digests


def _files(folder: epath.Path) -> Iterator[epath.Path]:
  for path in sorted(folder.iterdir()) if folder.is_dir() else []:
    yield from _files(path) if path.is_dir() else [path]
