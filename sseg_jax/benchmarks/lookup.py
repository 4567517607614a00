"""Finds the files that benchmarks name, and reports those left out."""

import codecs
import logging
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from sseg_jax.errors import InputError
from sseg_jax.images import reader


def is_file(path: Path) -> bool:
  """Whether a file is there; False also for what cannot be a file's name."""
  try:
    return path.is_file()
  except (OSError, ValueError):  # too long a name, or NUL in it
    return False


def walk(folder: Path) -> Iterator[Path]:
  """Files in a folder and its sub-folders, linked ones as well, in order.

  Names that start with a dot are left out: systems put notes of their own
  there. InputError names a folder that cannot be read.
  """

  def refuse(error: OSError) -> None:
    raise InputError(
      f"{error.filename}: cannot be read ({error.strerror}); allow reading it"
    ) from error

  seen = set()  # folders, because a link may form a cycle
  for root, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
    real = os.path.realpath(root)
    if real in seen:
      folders.clear()
      continue
    seen.add(real)
    folders[:] = sorted(f for f in folders if not f.startswith("."))
    for file in sorted(files):
      if not file.startswith("."):
        yield Path(root, file)


class Pictures:
  """Pictures of one folder by name; ignores suffix, case and accent forms."""

  def __init__(self, folder: Path):
    """Reads nothing yet."""
    self.folder = folder
    self._stems: dict[str, list[Path]] | None = None

  def find(self, stem: str) -> Path | None:
    """The picture with this stem; InputError if there are several."""
    usual = self.folder / f"{stem}.jpg"
    if is_file(usual):
      return usual
    if self._stems is None:
      self._stems = {}
      paths = self.folder.iterdir() if self.folder.is_dir() else ()
      for path in sorted(paths):
        if reader.has_suffix(path) and not path.name.startswith("."):
          self._stems.setdefault(normal(path.stem), []).append(path)
    found = self._stems.get(normal(stem), [])
    if len(found) > 1:
      raise InputError(
        f"{found[1]}: shares its name with {found[0].name}, so {stem!r} may be"
        " either; rename one"
      )
    return found[0] if found else None


def normal(name: str) -> str:
  """A file name with its accents composed, as most systems keep them."""
  # macOS takes accents apart where other systems keep them composed.
  return unicodedata.normalize("NFC", name)


def read_lines(path: Path, what: str) -> list[str]:
  """Lines of a text file, UTF-8 or UTF-16 with its mark, as editors save them.

  OSError if it cannot be opened; InputError if it is no text.
  """
  data = path.read_bytes()
  wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
  try:
    text = data.decode("utf-16" if wide else "utf-8-sig")
  except UnicodeDecodeError as error:
    raise InputError(f"{path}: {what} is not UTF-8 text; save it so") from error
  return text.splitlines()


def named(names: Sequence[object], limit: int = 3) -> str:
  """The first few of some names, and how many more there are."""
  text = ", ".join(str(name) for name in names[:limit])
  more = len(names) - limit
  return f"{text} and {more} more" if more > 0 else text


def tell(message: str) -> None:
  """Prints one line about what was left out or corrected."""
  logging.getLogger("sseg_jax.benchmarks").warning("%s", message)
