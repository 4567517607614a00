"""Unlabelled pictures for self-training, in parts that become shards.

They are read from folders of records, or from folders of pictures. Captions and
label maps of records are not read.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sseg_jax import files
from sseg_jax.data import manifest, pseudo_labels, records, reencode
from sseg_jax.errors import InputError
from sseg_jax.images import input_files, reader

_QUALITY = 95  # of JPEGs that have to be made, as in `prepare`


class Rejected(NamedTuple):
  """A picture that cannot be used, and the reason in one word."""

  name: str
  reason: str


class Part(NamedTuple):
  """Pictures that become one shard.

  Attributes:
    size: number of pictures, those that cannot be used included.
    digest: SHA-256 of names and contents.
    read: yields the pictures in order, as records that have `key` and `image`.
  """

  size: int
  digest: str
  read: Callable[[], Iterator[records.Record | Rejected]]


def open_parts(given: str, names: str, size: int) -> list[Part]:
  """Returns the pictures that `self_training.pictures` means.

  Args:
    given: `self_training.pictures`.
    names: `self_training.names`.
    size: number of pictures in a part. Shards of records stay as they are.

  Raises:
    InputError: if there is no picture, if a folder is missing or damaged, or
      if a listed name is that of no picture.
  """
  places = [files.expand(p.strip()) for p in given.split(",") if p.strip()]
  if not places:
    raise InputError(
      "self_training.pictures is empty; name a folder of pictures or of records"
    )
  parts: list[Part] = []
  plain: list[str] = []
  for place in places:
    if manifest.is_finished(place):
      found = manifest.read_manifest(place)
      parts += [_of_shard(found, shard) for shard in found.shards]
    else:
      plain.append(place)
  if names and not plain:
    raise InputError(
      f"self_training.names={names}: chooses from folders of pictures, and"
      f" self_training.pictures={given} has records alone; leave names out"
    )
  parts += _of_files(plain, names, size)
  if not sum(part.size for part in parts):
    raise InputError(
      f"self_training.pictures={given}: holds no pictures; name another folder"
    )
  return parts


def pixels_of(
  part: Part,
  count: int,
  rejected: list[tuple[str, str]],
  moved: Callable[[], None],
) -> Iterator[tuple[list[records.Record], list[np.ndarray]]]:
  """Yields the pictures of a part, some at a time: records, and their pixels.

  Args:
    part: the pictures.
    count: of pictures at a time, those that cannot be used included.
    rejected: gets name and reason of each picture that cannot be used.
    moved: is called for each picture.
  """
  rows = part.read()
  while some := list(itertools.islice(rows, count)):
    whole: list[records.Record] = []
    images: list[np.ndarray] = []
    for item in some:
      moved()
      if isinstance(item, Rejected):
        rejected.append((item.name, item.reason))
        continue
      name = item.key.decode("utf-8", "replace")
      try:
        images.append(np.asarray(reader.decode(item.image, name).image))
      except reader.BadPicture as error:
        rejected.append((name, error.reason))
      else:
        whole.append(item)
    yield whole, images


def _of_shard(source: manifest.Manifest, shard: manifest.Shard) -> Part:
  def read() -> Iterator[records.Record]:
    for record in pseudo_labels.read_shard(source, shard):
      # Captions and labels of the source are left behind here.
      yield records.Record(
        key=record.key,
        image=record.image,
        source=record.source,
        license=record.license,
      )

  return Part(shard.count, shard.sha256, read)


def _of_files(places: Sequence[str], names: str, size: int) -> list[Part]:
  if not places:
    return []
  try:
    paths = input_files.expand(places)
  except InputError as error:
    raise InputError(f"self_training.pictures: {error}") from error
  for path in paths:
    if not path.is_file():
      raise InputError(
        f"self_training.pictures={path}: no such file or folder; name a folder"
        " of pictures or of records"
      )
  if names:
    paths = _chosen(paths, names)
  rows = iter(paths)
  parts = []
  while some := list(itertools.islice(rows, size)):
    parts.append(Part(len(some), _digest(some), _reader(some)))
  return parts


def _chosen(paths: Sequence[Path], names: str) -> list[Path]:
  """Returns the pictures that a file lists, in its order."""
  place = Path(files.expand(names))
  try:
    lines = place.read_text(encoding="utf-8-sig").splitlines()
  except (OSError, ValueError) as error:
    raise InputError(
      f"self_training.names={names}: cannot be read as a text file; give one"
      " with a picture's name a line"
    ) from error
  known = {path.stem: path for path in paths} | {p.name: p for p in paths}
  wanted = [line.split()[0] for line in lines if line.strip()]
  missing = [name for name in wanted if name not in known]
  if missing or not wanted:
    what = f"{len(missing)} names, as {missing[0]!r}," if missing else "no name"
    raise InputError(
      f"self_training.names={names}: has {what} of no picture in"
      " self_training.pictures; name the list that belongs to this folder"
    )
  return [known[name] for name in dict.fromkeys(wanted)]


def _digest(paths: Sequence[Path]) -> str:
  found = hashlib.sha256()
  for path in paths:
    found.update(path.name.encode(errors="surrogateescape") + b"\0")
    try:
      found.update(hashlib.sha256(path.read_bytes()).digest())
    except OSError:
      found.update(b"unreadable")  # rejected when it is read
  return found.hexdigest()


def _reader(
  paths: Sequence[Path],
) -> Callable[[], Iterator[records.Record | Rejected]]:
  def read() -> Iterator[records.Record | Rejected]:
    for path in paths:
      try:
        data = reencode.to_jpeg(path.read_bytes(), quality=_QUALITY)
      except OSError:
        yield Rejected(path.name, "missing_image")
      except reencode.Rejected as error:
        yield Rejected(path.name, str(error))
      else:
        key = path.name.encode(errors="surrogateescape")
        yield records.Record(key=key, image=data)

  return read
