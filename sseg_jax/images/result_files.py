"""Chooses the names of files that results are written to."""

import itertools
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sseg_jax import files
from sseg_jax.errors import InputError
from sseg_jax.runtime import progress_bar

# Formats in which the overlay can be written: those with 24-bit colours.
_WRITTEN = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
_LONGEST_STEM = 180  # bytes; with its endings a name may have 255


class Results(NamedTuple):
  """The files of one picture: overlay, label map, and heat maps if any."""

  overlay: Path
  labels: Path
  heatmaps: tuple[Path, ...]


def choose(
  images: Sequence[Path],
  out: str | os.PathLike,
  heatmaps: Sequence[str] = (),
) -> list[Results]:
  """Chooses the files for the results of each picture, and makes the folder.

  No result replaces one of the pictures, and no name is given twice. An older
  file is replaced only if the user named it or this package wrote it. Otherwise
  a number is added to the new name, and a note says so.

  Args:
    images: the pictures.
    out: a folder, or for one picture the name of a file.
    heatmaps: words of which each picture gets a heat map.

  Returns:
    The files of each picture.

  Raises:
    InputError: if `out` is no place to write these files to.
  """
  is_file = _is_file_name(out)
  given = Path(out)
  inputs = {_identity(image) for image in images} - {None}
  if is_file:
    if len(images) > 1:
      raise InputError(
        f"out={out} is one file for {len(images)} pictures; give a folder"
      )
    if given.suffix.lower() not in _WRITTEN:
      raise InputError(
        f"out={out}: results are not written as {given.suffix}; use one of"
        f" {', '.join(_WRITTEN)}"
      )
    if _identity(given) in inputs:
      raise InputError(f"out={out} is the picture itself; give another name")
  folder = given.parent if is_file else given
  taken = {_key(given)} if is_file else set()
  heat_kinds = [
    f"heat_{number}_{_plain(word)}" for number, word in enumerate(heatmaps, 1)
  ]
  chosen = []
  for image in images:
    stem = _short(given.stem if is_file else image.stem)
    kinds = [*([] if is_file else ["overlay"]), "labels", *heat_kinds]
    paths = _free(folder, stem, kinds, inputs, taken)
    taken |= {_key(path) for path in paths}
    overlay = given if is_file else paths.pop(0)
    chosen.append(Results(overlay, paths[0], tuple(paths[1:])))
  files.make_folder("out", folder)
  return chosen


def table(out: str | os.PathLike, start: str) -> Path:
  """Returns where a table is written: `areas.csv`, or one with a number.

  Args:
    out: the folder, which exists.
    start: what the first line of our own tables starts with; a file whose first
      line does not is left alone.
  """
  for number in itertools.count(1):
    path = Path(out) / ("areas.csv" if number == 1 else f"areas_{number}.csv")
    try:
      # A link may point anywhere, and a pipe would wait.
      is_ours = stat.S_ISREG(os.lstat(path).st_mode)
      if is_ours:
        with path.open("rb") as file:
          is_ours = file.read(len(start)) == start.encode()
    except FileNotFoundError:
      is_ours = True
    except OSError:
      is_ours = False
    if is_ours:
      return path
  raise AssertionError("unreachable")


def _plain(word: str) -> str:
  """Returns a word as a part of a file's name, on any system."""
  plain = "".join(c if c.isalnum() else "_" for c in word)
  # Bytes: a name may have 255 of them.
  return plain.encode()[:30].decode(errors="ignore")


def _is_file_name(out: str | os.PathLike) -> bool:
  """Whether --out is meant as a picture's name, not as a folder's."""
  from PIL import Image

  text = os.fspath(out)
  if os.path.isdir(text) or text.endswith(("/", os.sep)):
    return False
  suffix = os.path.splitext(text)[1].lower()
  others = (".heic", ".heif", ".svg")
  return suffix in others or suffix in Image.registered_extensions()


def _identity(path: Path) -> tuple[int, int] | None:
  """Identifies a file independently of its name."""
  try:
    status = path.stat()
  except (OSError, ValueError):
    return None
  return status.st_dev, status.st_ino


def _key(path: Path) -> str:
  # Some file systems do not tell capital letters from small ones.
  return os.path.abspath(path).casefold()


def _short(stem: str) -> str:
  while len(os.fsencode(stem)) > _LONGEST_STEM:
    stem = stem[:-1]
  return stem


def _free(
  folder: Path,
  stem: str,
  kinds: Sequence[str],
  inputs: set,
  taken: set[str],
) -> list[Path]:
  """Returns the first of `stem`, `stem_2`, … whose files may be written."""
  from sseg_jax.images import drawing

  told = False
  for number in itertools.count(1):
    name = stem if number == 1 else f"{stem}_{number}"
    paths = [folder / f"{name}_{kind}.png" for kind in kinds]
    if any(_key(path) in taken for path in paths):
      continue
    foreign = [
      path
      for path in paths
      if os.path.lexists(path)
      and (_identity(path) in inputs or not drawing.is_ours(path))
    ]
    if not foreign:
      if told:
        names = ", ".join(path.name for path in paths)
        _tell(f"writing {names} instead")
      return paths
    if not told:
      _tell(f"{foreign[0]} is no result of this program: it stays as it is")
      told = True
  raise AssertionError("unreachable")


def _tell(message: str) -> None:
  progress_bar.print_above(f"note: {message}")
