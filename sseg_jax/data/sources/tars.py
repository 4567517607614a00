"""Webdataset's tars: the files of a sample have one name and many suffixes."""

import tarfile
from collections.abc import Iterator
from typing import IO

from sseg_jax.data.sources.rows import encodable
from sseg_jax.data.sources.samples import (
  Members,
  Part,
  Sample,
  open_file,
  split_name,
)

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_COMPRESSED = SUFFIXES[1:]


def read(part: Part) -> Iterator[Sample]:
  """Yields the samples of a tar in the order of their first files.

  Only names and places of its files are kept, and the pictures are read one by
  one. The files of a sample may lie anywhere in the tar. In a compressed tar
  they must follow each other, as webdataset writes them.

  A tar that ends too early gives what comes before, and one sample with the
  reason `damaged_file`.
  """
  try:
    with open_file(part.path) as file:
      if part.path.lower().endswith(_COMPRESSED):
        yield from _stream(file, part)
      else:
        yield from _indexed(file, part)
  except OSError:
    yield Sample("", reason="unreadable_file")


def _indexed(file: IO[bytes], part: Part) -> Iterator[Sample]:
  groups: dict[str, Members] = {}
  damaged = False

  def reader_of(offset: int, size: int):
    def read_bytes() -> bytes:
      file.seek(offset)
      data = file.read(size)
      if len(data) < size:
        raise OSError("the tar ends too early")
      return data

    return read_bytes

  try:
    with tarfile.open(fileobj=file, mode="r:") as tar:
      while (member := tar.next()) is not None:
        _forget(tar)
        if not member.isreg():
          continue
        _add(groups, member.name, reader_of(member.offset_data, member.size))
      damaged = _ends_early(file, tar.offset)
  except (tarfile.TarError, EOFError, ValueError):
    damaged = True
  for members in groups.values():
    yield from members.samples(part.field)
  if damaged:
    yield Sample("", reason="damaged_file")


def _forget(tar: tarfile.TarFile) -> None:
  """Empties the list of members that a tar keeps of all that it has read."""
  vars(tar)["members"] = []


def _ends_early(file: IO[bytes], offset: int) -> bool:
  """Whether a tar lacks its end, blocks of zeros, and so perhaps files."""
  file.seek(offset)
  rest = file.read(512)
  return len(rest) < 512 or any(rest)


def _add(groups: dict[str, Members], name: str, read_bytes) -> None:
  key, suffix = split_name(encodable(name.removeprefix("./")))
  base = key.rpartition("/")[2]
  # Metadata of webdataset and of macOS; a name without suffix is no member.
  if base.startswith(("__", "._")) or not base or not suffix:
    return
  free = key
  while not groups.setdefault(free, Members(free)).add(suffix, read_bytes):
    free += "+"


def _stream(file: IO[bytes], part: Part) -> Iterator[Sample]:
  group: dict[str, Members] = {}
  seen: set[str] = set()

  def finished() -> Iterator[Sample]:
    for members in group.values():
      yield from members.samples(part.field)
    group.clear()

  try:
    with tarfile.open(fileobj=file, mode="r|*") as tar:
      for member in tar:
        _forget(tar)
        content = tar.extractfile(member) if member.isreg() else None
        if content is None:
          continue
        key = split_name(encodable(member.name.removeprefix("./")))[0]
        if group and key not in group:
          seen.update(group)
          yield from finished()
        data = content.read()
        name = member.name.removeprefix("./")
        if key in seen:
          name = name.replace(key, key + "+", 1)
        _add(group, name, lambda data=data: data)
    yield from finished()
  except (tarfile.TarError, EOFError, ValueError, OSError):
    yield from finished()
    yield Sample("", reason="damaged_file")
