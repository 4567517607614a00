"""The manifest of a folder of records, and the folder's life cycle.

The manifest is written last: without it the data set is unfinished and no
reader accepts it. Needs no TensorFlow for folders of this machine, since to
import it takes longer than to convert a thousand pictures.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from sseg_jax import files
from sseg_jax.errors import InputError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
# Shards, their indexes, and what an interrupted write leaves.
_OURS = re.compile(
  r"^\w+-\d{5,}(-of-\d{5,})?\.(tfrecord|index|done)(\.tmp)?$|^manifest\.json\.tmp$"
)


@dataclasses.dataclass(frozen=True)
class Shard:
  """One file of a data set: its name, records, size in bytes and SHA-256."""

  file: str
  count: int
  bytes: int
  sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
  """What a folder of records holds.

  Attributes:
    folder: where it lies.
    split: name of the split, the first part of the shards' names.
    shards: in the order of the records.
    total: records in all shards.
    labels: whether every record has `labels`.
    pseudo_labels: whether every record has `pseudo_labels`.
    rejected: reason -> {"count": int, "examples": names}.
    info: what the writer of the data set wants to keep.
  """

  folder: str
  split: str
  shards: tuple[Shard, ...]
  total: int
  labels: bool
  pseudo_labels: bool
  rejected: Mapping[str, Mapping[str, Any]]
  info: Mapping[str, Any]


def join(folder: str, name: str) -> str:
  """Joins a folder, local or remote, and a file's name."""
  return folder.rstrip("/") + "/" + name


def place(path: str) -> epath.Path:
  """Returns a local or remote path; InputError for a file system not known."""
  try:
    return epath.Path(path)
  except KeyError:  # epath's, for a scheme that it has no backend for
    raise InputError(
      f"{path}: this file system is not known; give a local folder or gs://"
    ) from None


def size(path: str) -> int:
  """Returns the bytes of a local or remote file."""
  if "://" not in path:
    # Not epath's: it asks for the owner's name, which a container may lack.
    return os.stat(path).st_size
  return place(path).stat().length


def read_manifest(folder: str) -> Manifest:
  """Reads and checks a folder's manifest.

  Raises:
    InputError: the folder or its manifest is missing, the manifest is not ours,
      or a shard is missing or has another size than was written.
  """
  folder = files.expand(folder)
  if not folder or not place(folder).is_dir():
    raise InputError(
      f"no such folder of records: {folder}; write one with"
      " `python -m sseg_jax.prepare`"
    )
  path = join(folder, MANIFEST)
  if not place(path).exists():
    raise InputError(
      f"{folder} holds no {MANIFEST}: not a folder of records, or its write was"
      " interrupted; write it again"
    )
  try:
    raw = json.loads(place(path).read_text())
    version = raw["format_version"]
    if version != FORMAT_VERSION:
      raise InputError(
        f"{path} has format version {version}, this package reads"
        f" {FORMAT_VERSION}; write the records again"
      )
    manifest = Manifest(
      folder=folder,
      split=raw["split"],
      shards=tuple(Shard(**shard) for shard in raw["shards"]),
      total=raw["total"],
      labels=raw["labels"],
      pseudo_labels=raw["pseudo_labels"],
      rejected=raw["rejected"],
      info=raw["info"],
    )
  except (
    UnicodeDecodeError,
    json.JSONDecodeError,
    KeyError,
    TypeError,
  ) as error:
    raise InputError(
      f"{path} is damaged ({type(error).__name__}: {error}); write the records"
      " again"
    ) from error
  for shard in manifest.shards:
    shard_path = join(folder, shard.file)
    if not place(shard_path).exists():
      raise InputError(
        f"{shard_path} is missing, though the manifest lists it; copy it again"
      )
    if (found := size(shard_path)) != shard.bytes:
      raise InputError(
        f"{shard_path} has {found} bytes, the manifest says {shard.bytes}; copy"
        " it again"
      )
  return manifest


def verify(manifest: Manifest) -> None:
  """Reads every shard and compares its SHA-256; raises InputError."""
  for shard in manifest.shards:
    path = join(manifest.folder, shard.file)
    if sha256(path) != shard.sha256:
      raise InputError(f"{path} does not match its SHA-256; copy it again")


def fingerprint(manifests: Iterable[Manifest]) -> str:
  """Returns a hash of the records of several folders, in their order."""
  shards = [
    [shard.count, shard.bytes, shard.sha256]
    for manifest in manifests
    for shard in manifest.shards
  ]
  return hashlib.sha256(json.dumps(shards).encode()).hexdigest()


def is_finished(folder: str) -> bool:
  """Whether a folder holds a manifest."""
  return place(join(folder, MANIFEST)).exists()


def clear(folder: str) -> None:
  """Deletes a data set: its manifest first, then shards and leftovers.

  Files that this module did not write stay.
  """
  if not place(folder).is_dir():
    return
  found = [path for path in place(folder).iterdir() if _OURS.match(path.name)]
  for path in (place(join(folder, MANIFEST)), *found):
    path.unlink(missing_ok=True)


def sha256(path: str) -> str:
  """Returns the hexadecimal SHA-256 of a file."""
  digest = hashlib.sha256()
  with place(path).open("rb") as file:
    while chunk := file.read(1 << 22):
      digest.update(chunk)
  return digest.hexdigest()


def write_manifest(folder: str, fields: Mapping[str, Any]) -> None:
  """Writes the manifest in one rename; `fields` are those of `Manifest`."""
  path = place(join(folder, MANIFEST))
  new = place(join(folder, f"{MANIFEST}.tmp"))
  text = json.dumps({"format_version": FORMAT_VERSION, **fields}, indent=2)
  new.write_text(text + "\n")
  new.replace(path)
