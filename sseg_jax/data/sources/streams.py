"""Which kind of source is given, and its parts."""

import dataclasses
import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator

from sseg_jax import files
from sseg_jax.data import import_tensorflow
from sseg_jax.data.sources import (
  folder,
  img2dataset,
  kinds,
  of_tfds,
  parquet_images,
  tars,
  tfrecords,
)
from sseg_jax.data.sources.rows import shown
from sseg_jax.data.sources.samples import Part, Sample
from sseg_jax.errors import InputError
from sseg_jax.images import reader

Read = Callable[[Part], Iterator[Sample]]
_FOLDER_PART = 256  # pictures of a folder that a process takes at a time


def _read_folder(part: Part) -> Iterator[Sample]:
  for item in part.of:
    try:
      image, reason = item.image.read_bytes(), ""
    except OSError:
      image, reason = b"", "missing_image"
    yield Sample(
      item.key,
      image,
      item.captions,
      source=item.source,
      license=item.license,
      reason=reason or ("" if image else "empty_file"),
    )


# How a part of each kind is read. A new kind adds its line here, and how it is
# recognised to `_kind_of_folder` or `_SUFFIXES`.
READERS: dict[str, Read] = {
  "folder": _read_folder,
  "webdataset": tars.read,
  "img2dataset": img2dataset.read,
  "parquet": parquet_images.read,
  "tfrecord": tfrecords.read,
  "tfds": of_tfds.read,
}
_SUFFIXES = {
  "webdataset": tars.SUFFIXES,
  "parquet": (".parquet",),
  "tfrecord": (".tfrecord", ".tfrecords"),
}


@dataclasses.dataclass(frozen=True)
class Stream:
  """A source, cut into parts.

  Attributes:
    kind: key of `READERS`.
    parts: in the order of the records.
    captions: where the captions are read, for the report.
    rejected: reason and name of every entry that is in no part.
    left_out: reason and name of every unusable caption that is in no part.
    notes: what else a user should know, as sentences.
  """

  kind: str
  parts: list[Part]
  captions: str
  rejected: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  left_out: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  notes: list[str] = dataclasses.field(default_factory=list)

  @property
  def count(self) -> int:
    """Number of samples, 0 if it is known only after reading."""
    counts = [part.count for part in self.parts]
    return sum(counts) if all(counts) else 0


def find(
  source: str,
  kind: str = "auto",
  captions: str = "auto",
  exclude: Iterable[str] = (),
) -> Stream:
  """Finds the parts of a source.

  Args:
    source: a folder; files, with `*`, `?` or `{0000..0575}` in their names;
      `tfds:NAME`. `gs://` is read for all kinds but folders of pictures.
    kind: key of `READERS`; "auto" looks at what is there.
    captions: for a folder of pictures, the file of captions; for the others the
      field or column of captions; "auto" searches.
    exclude: folders that are not read.

  Raises:
    InputError: an unknown kind, nothing there, or nothing of this kind.
  """
  if kind not in ("auto", *READERS):
    raise InputError(
      f"--kind={shown(kind)}: must be auto, {', '.join(READERS)}"
    )
  field = "" if captions == "auto" else str(captions)
  source = files.expand(source)
  names = _names(source)
  if kind == "auto":
    kind = _kind(source, names)
  if kind == "folder":
    found = folder.read_items(source, captions, exclude)
    return _of_folder(found)
  if kind == "tfds":
    parts = of_tfds.parts(source, field)
  elif kind == "img2dataset":
    parts = img2dataset.parts(source.rstrip("/"), names or [], field)
  else:
    parts = _of_files(kind, source, names, field)
  if not parts:
    wanted = ", ".join(_SUFFIXES.get(kind, ("00000_stats.json",)))
    raise InputError(
      f"--source={shown(source)} holds nothing of kind {kind}; expected"
      f" {wanted}"
    )
  told = f"{shown(source, 300)} ({kind}, {len(parts)} parts)"
  rejected = []
  if kind == "img2dataset" and img2dataset.LEFT_OUT in (names or []):
    rejected = img2dataset.left_out(f"{source.rstrip('/')}")
  return Stream(kind, parts, told, rejected)


def _of_folder(found: folder.Found) -> Stream:
  parts = [
    Part("folder", "", str(start), count=len(items), of=tuple(items))
    for start in range(0, len(found.items), _FOLDER_PART)
    if (items := found.items[start : start + _FOLDER_PART])
  ]
  return Stream(
    "folder",
    parts,
    found.captions,
    found.rejected,
    found.left_out,
    found.notes,
  )


def _names(source: str) -> list[str] | None:
  """Returns the names in a folder, in order; None if it is no folder."""
  if source.startswith(of_tfds.PREFIX):
    return None
  if "://" not in source:
    return sorted(os.listdir(source)) if os.path.isdir(source) else None
  tf = import_tensorflow()
  try:
    gfile = tf.io.gfile
    if not gfile.isdir(source):
      return None
    return sorted(name.rstrip("/") for name in gfile.listdir(source))
  except tf.errors.OpError as error:
    raise InputError(
      f"--source={shown(source)} cannot be read ({shown(error.message, 300)})"
    ) from error


def _kind(source: str, names: list[str] | None) -> str:
  if source.startswith(of_tfds.PREFIX):
    return "tfds"
  if names is None:
    for kind, suffixes in _SUFFIXES.items():
      if source.lower().endswith(suffixes):
        return kind
    return "folder"
  if img2dataset.is_output(names):
    return "img2dataset"
  if "features.json" in names and of_tfds.is_folder(source):
    return "tfds"
  # A list of captions, or pictures beside each other, make it a folder.
  small = {name.lower() for name in names}
  if any(map(reader.has_suffix, names)) or small & {*kinds.NAMES, "images"}:
    return "folder"
  for kind in ("webdataset", "parquet"):
    found = _below(source, names, _SUFFIXES[kind])
    if found and (kind != "parquet" or parquet_images.is_readable(found[0])):
      return kind
  return "folder"


def _below(source: str, names: list[str], suffixes: tuple) -> list[str]:
  """Returns the files of a folder, or of its folder `data`."""
  top = source.rstrip("/")
  found = [f"{top}/{n}" for n in names if n.lower().endswith(suffixes)]
  if not found and "data" in names:
    inner = _names(f"{top}/data") or []
    found = [f"{top}/data/{n}" for n in inner if n.lower().endswith(suffixes)]
  return found


def _of_files(
  kind: str, source: str, names: list[str] | None, field: str
) -> list[Part]:
  if names is not None:
    paths = _below(source, names, _SUFFIXES[kind])
  else:
    paths = [path for text in braces(source) for path in _matches(text)]
  seen: dict[str, int] = {}
  parts = []
  for path in paths:
    name = os.path.basename(path).partition(".")[0]
    seen[name] = seen.get(name, 0) + 1
    if seen[name] > 1:  # of another folder
      name = f"{name}-{seen[name]}"
    parts.append(Part(kind, path, name, field))
  return parts


def _matches(text: str) -> list[str]:
  if "://" in text:
    gfile = import_tensorflow().io.gfile
    found = sorted(gfile.glob(text))
  elif os.path.isfile(text):
    found = [text]
  else:
    found = sorted(glob.glob(text, recursive=True))
  if not found:
    raise InputError(
      f"--source: no file {shown(text, 300)}; fetch it, or change the range"
    )
  return found


def braces(text: str) -> list[str]:
  """Returns the texts that a shell makes of `a{00..12}b` and `a{x,y}b`."""
  match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", text)
  if not match:
    return [text]
  first, last, listed = match.groups()
  if listed is not None:
    inner = listed.split(",")
  else:
    width = len(first) if first.startswith("0") else 0
    inner = [f"{n:0{width}d}" for n in range(int(first), int(last) + 1)]
  head, tail = text[: match.start()], text[match.end() :]
  return [made for part in inner for made in braces(head + part + tail)]
