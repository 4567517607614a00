"""The files of a source, and the search for a picture by its name."""

import collections
import dataclasses
import functools
import os
import re
import unicodedata
import urllib.parse
from collections.abc import Iterable, Iterator
from pathlib import Path

from sseg_jax.data.sources.rows import encodable, few, is_url, shown
from sseg_jax.images import reader


@dataclasses.dataclass(frozen=True)
class Match:
  """The result of a search for a picture.

  Attributes:
    path: the file; None where there is none.
    key: its name as written, with "/" between folders; valid UTF-8.
    reason: why there is none: `missing_image`, `ambiguous_name` (several files
      differ from the name only in capitals or in Unicode form) or
      `outside_source` (".." leads out of the source).
    respelled: whether the file's name is written in another way.
  """

  path: Path | None
  key: str
  reason: str = ""
  respelled: bool = False


class Listing:
  """All files below a folder, through links as well, read once.

  A folder that several paths lead to is listed once; if one of the paths has no
  link, it is listed by that one. Links to a folder that holds the source
  are not followed.

  Args:
    folder: the source.
    exclude: folders that are left out, such as those that are being written.

  Attributes:
    folder: the source.
    files: names below the source, with "/", in order.
    links: whether there were links.
    notes: sentences for the user.
    roots: folders, below the source, that names are relative to, in this order.
    move: what `find_move` found.
  """

  def __init__(self, folder: Path, exclude: Iterable[str | Path] = ()):
    self.folder = folder
    self.links = False
    self.notes: list[str] = []
    self.roots = ["", "images"]
    self.move: tuple[str, str] | None = None
    self._real = os.path.realpath(folder)
    self._exclude = {os.path.realpath(place) for place in exclude}
    names: list[str] = []
    # macOS keeps a file's attributes in `._NAME` on other systems' disks.
    attributes: list[str] = []
    for name in self._walk():
      base = name.rpartition("/")[2]
      (attributes if base.startswith("._") else names).append(name)
    # The order of `sorted(folder.rglob("*"))`.
    names.sort(key=lambda name: name.split("/"))
    self.files: dict[str, None] = dict.fromkeys(names)
    if attributes:
      self.notes.append(
        "files of macOS that hold no picture:"
        f" {len(attributes)} ({few(attributes)})"
      )
    self._note_text_links()

  def _note_text_links(self) -> None:
    """Notes links that git or an archive has written as text files."""
    plain = [name for name in self.files if "." not in name.rpartition("/")[2]]
    found = []
    for name in plain[:1000]:
      path = self.path(name)
      try:
        target = path.read_text() if path.stat().st_size < 1024 else ""
        if target and (path.parent / target.strip()).is_dir():
          found.append(name)
      except (OSError, ValueError):  # no text, or no path
        continue
    if found:
      self.notes.append(
        "links to folders that were stored as text, as git does where links"
        f" are off: {len(found)} ({few(found)}); put links in their place"
      )

  def _walk(self) -> Iterator[str]:
    parents = {_identity(p) for p in Path(self._real).parents}
    visited = set()
    folders, linked = collections.deque([""]), collections.deque[str]()
    while folders or linked:
      # Real folders first, so that a file has its real name.
      below = folders.popleft() if folders else linked.popleft()
      path = os.path.join(self.folder, below) if below else str(self.folder)
      try:
        identity = _identity(path)
        if identity in visited or os.path.realpath(path) in self._exclude:
          continue
        if identity in parents:
          self.notes.append(
            f"the link {shown(below)} leads to a folder that holds the source;"
            " it was not followed"
          )
          continue
        visited.add(identity)
        entries = list(os.scandir(path))
      except OSError as error:
        self.notes.append(
          f"the folder {shown(path)} cannot be read"
          f" ({error.strerror or error}); its files are not counted"
        )
        continue
      for entry in entries:
        name = f"{below}/{entry.name}" if below else entry.name
        is_link = _holds(entry.is_symlink)
        self.links |= is_link
        if _holds(entry.is_dir):
          (linked if is_link else folders).append(name)
        elif _holds(entry.is_file) or not os.path.exists(entry.path):
          yield name  # a broken link is found to be missing later

  @functools.cached_property
  def pictures(self) -> list[str]:
    """The files whose suffix is a picture's, in order."""
    return [name for name in self.files if reader.has_suffix(name)]

  @functools.cached_property
  def _by_form(self) -> dict[str, list[str]]:
    return _grouped((_form(name), name) for name in self.files)

  @functools.cached_property
  def _by_stem(self) -> dict[str, list[str]]:
    return _grouped(
      (_form(os.path.splitext(name)[0]), name) for name in self.pictures
    )

  @functools.cached_property
  def _by_base(self) -> dict[str, list[str]]:
    return _grouped(
      (_form(name.rpartition("/")[2]), name) for name in self.pictures
    )

  def path(self, name: str) -> Path:
    """Returns where a file of the listing lies."""
    return self.folder / name

  def like(self, name: str) -> str | None:
    """Returns the file of this name, or the only one of a similar name.

    Similar are names that differ in case or Unicode form (é as one character or
    as two) alone.
    """
    if name in self.files:
      return name
    found = _only(self._by_form.get(_form(name), ()), name)
    return found[0] if len(found) == 1 else None

  def is_written(self, text: str) -> bool:
    """Whether a text ends as a picture's name does, or is a file's name."""
    return reader.has_suffix(text) or text in self.files

  def names_picture(self, text: str) -> bool:
    """Whether a cell of a table can be the name of a picture."""
    text = text.strip()
    if not text or len(text) > 1024 or is_url(text):
      return False
    return reader.has_suffix(text) or self.holds(text)

  def holds(self, text: str) -> bool:
    """Whether a cell of a table names a file of the source."""
    return len(text) < 4096 and self.find(text).path is not None

  def find(self, name: str) -> Match:
    """Searches the picture that an entry names.

    The name is relative to one of `roots`, or absolute. Where no file has it, a
    name with backslashes, "%20" and the like, "file://", a leading slash, a
    caption's number ("a.jpg#0"), in other case, in the other Unicode form or
    without a suffix finds the only file that it fits.
    """
    missing = Match(None, encodable(name), "missing_image")
    if not name.strip() or "\0" in name:
      return missing
    outside = False
    forms = _spellings(name)
    for number, form in enumerate(forms):
      if os.path.isabs(form) and os.path.isfile(form):
        return self._absolute(form)
      for below, key in self._below(form):
        if below is None:
          outside = True
        elif below in self.files:
          return Match(self.path(below), key, respelled=number > 0)
    for table in (self._by_form, self._by_stem):
      for form in forms:
        for below, key in self._below(form):
          found = table.get(_form(below), ()) if below else ()
          found = _only(found, below or "")
          if len(found) == 1:
            return Match(self.path(found[0]), key, respelled=True)
          if found:
            return Match(None, key, "ambiguous_name")
    if self.links:  # a folder that is listed by another of its names
      for form in forms:
        for below, key in self._below(form):
          if below and os.path.isfile(self.path(below)):
            return Match(self.path(below), key)
    return dataclasses.replace(
      missing, reason="outside_source" if outside else "missing_image"
    )

  def _absolute(self, name: str) -> Match:
    # Both names of both, as the source or the file may lie behind a link.
    for file in (os.path.normpath(name), os.path.realpath(name)):
      for folder in (os.path.abspath(self.folder), self._real):
        below = os.path.relpath(file, folder).replace(os.sep, "/")
        if below in self.files:
          return Match(self.path(below), encodable(below))
    return Match(Path(name), encodable(name))

  def _below(self, form: str) -> Iterator[tuple[str | None, str]]:
    """Yields the names below the source that a name can mean, and its key.

    None for a name that leads outside.
    """
    if os.path.isabs(form):
      return  # its leading slash is undone by another of `_spellings`
    name = os.path.normpath(form).replace(os.sep, "/")
    key = encodable(name)
    for root in self.roots:
      below = os.path.normpath(os.path.join(root, form)).replace(os.sep, "/")
      leads_out = below == ".." or below.startswith("../")
      yield (None if leads_out else below), key
    if self.move is not None:
      start, place = (f"{part}/" if part else "" for part in self.move)
      if name.startswith(start) and not name.startswith("../"):
        below = place + name.removeprefix(start)
        yield below, encodable(below if start else name)

  def find_move(self, names: Iterable[str]) -> tuple[str, str] | None:
    """Finds the folder that most of the names are relative to.

    For lists whose names begin with folders of another machine
    (`/home/me/photos/a.jpg`), or with none though the pictures lie in one (of
    COCO in `val2017/`). `find` uses what is found.

    Returns:
      The names' first folders and the folder of the source in whose place they
      stand, both possibly ""; None where no pair fits more than half of the
      names, or where several do equally well.
    """
    names = [os.path.normpath(_spellings(name)[-1]) for name in names]
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    for name in names:
      parts = name.replace(os.sep, "/").split("/")
      for below in self._by_base.get(_form(parts[-1]), ()):
        places = below.split("/")
        same = 1
        while same < min(len(parts), len(places)) and (
          _form(parts[-same - 1]) == _form(places[-same - 1])
        ):
          same += 1
        counts["/".join(parts[:-same]), "/".join(places[:-same])] += 1
    # Of pairs that fit equally often, the one that takes least off the names.
    best = sorted(
      (-count, pair[0].count("/") + bool(pair[0]), pair)
      for pair, count in counts.items()
      if 2 * count > len(names)
    )
    if not best or (len(best) > 1 and best[0][:2] == best[1][:2]):
      return None
    self.move = best[0][2]
    return self.move


def _holds(test) -> bool:
  try:
    return test()
  except OSError:
    return False


def _identity(path: str | Path) -> tuple[int, int]:
  status = os.stat(path)
  return status.st_dev, status.st_ino


def _form(name: str) -> str:
  """Returns the same text for names that differ in case or Unicode form."""
  if name.isascii():
    return name.lower()
  return unicodedata.normalize(
    "NFC", unicodedata.normalize("NFC", name).casefold()
  )


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
  groups: dict[str, list[str]] = {}
  for key, name in pairs:
    groups.setdefault(key, []).append(name)
  return groups


def _only(found: Iterable[str], name: str) -> list[str]:
  """Returns those that differ only in Unicode form, if any; else all."""
  found = list(found)
  if len(found) > 1:
    wanted = unicodedata.normalize("NFC", name)
    same = [f for f in found if unicodedata.normalize("NFC", f) == wanted]
    return same or found
  return found


def _spellings(name: str) -> list[str]:
  """Yields the name as written, then with more and more repairs."""
  forms = [name]
  for undo in (
    str.strip,
    lambda n: re.sub(r"^file:/*(?=/)", "", n, flags=re.IGNORECASE),
    lambda n: n.replace("\\", "/"),
    lambda n: urllib.parse.unquote(n, errors="surrogateescape"),
    lambda n: re.sub(r"#\d+$", "", n),
    lambda n: n.lstrip("/"),
  ):
    undone = [undo(form) for form in forms]
    forms += [n for n in undone if n and "\0" not in n and n not in forms]
  return forms
