"""Reads a folder of pictures and captions: one item for each picture."""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from sseg_jax import files
from sseg_jax.data.sources import json_rows, kinds, sidecar
from sseg_jax.data.sources.listing import Listing, Match
from sseg_jax.data.sources.rows import Row, few, shown
from sseg_jax.errors import InputError

_SAMPLE = 1000  # rows by which the pictures' folder is found
_ADVICE = {
  "url_not_file": "fetch the pictures first, for example with img2dataset",
  "missing_image": "names are relative to --source or to its folder images/",
  "outside_source": "give the folder that holds all pictures as --source",
  "not_utf8": "save the file as UTF-8",
  "not_json": "each line must be one JSON object",
}


@dataclasses.dataclass(frozen=True)
class Item:
  """One picture with captions.

  Attributes:
    key: its name in the captions, valid UTF-8 and unique within the source.
    image: the file; it was there when the source was read.
    captions: with single spaces, none empty, at least one.
    source: its URL or other origin, where stated.
    license: where stated.
  """

  key: str
  image: Path
  captions: tuple[str, ...]
  source: str = ""
  license: str = ""


@dataclasses.dataclass(frozen=True)
class Found:
  """What a source holds; iterates over its items.

  Attributes:
    items: the pictures that can be used.
    rejected: reason and name of every other picture that the captions name,
      and reason and place of every entry that names no picture.
    left_out: reason and name for every unusable caption of a picture that has
      usable ones.
    notes: what else a user should know, as sentences.
    captions: where the captions were read.
  """

  items: list[Item]
  rejected: list[tuple[str, str]]
  left_out: list[tuple[str, str]]
  notes: list[str]
  captions: str

  @property
  def read(self) -> int:
    """Number of pictures that the captions name, and of entries without one."""
    return len(self.items) + len(self.rejected)

  def __iter__(self) -> Iterator[Item]:
    """Yields the items."""
    return iter(self.items)

  def __len__(self) -> int:
    """Returns the number of items."""
    return len(self.items)


def read_items(
  folder: str | Path,
  captions: str | Path = "auto",
  exclude: Iterable[str | Path] = (),
) -> Found:
  """Reads a folder of pictures and their captions, without opening a picture.

  Args:
    folder: folder of the pictures. They are next to their captions, in
      `images/`, or in any folder below that the names in the captions give.
      Links are followed.
    captions: the file, from here or from `folder`; "auto" looks for
      `captions.jsonl` and others in the order of `kinds.choose`. Kinds are
      those of `kinds.READERS`: JSON lines or a list with the fields of
      `json_rows.FILE_NAMES` and `CAPTION_NAMES`; COCO's captions; tables, with
      such a first line or without; one .txt a picture.
    exclude: folders that are not read.

  Returns:
    The pictures in the order of the captions (of the names, for `.txt`). A
    picture that comes again has the captions of all its entries.

  Raises:
    InputError: no folder, no captions, an unknown kind, or nothing usable.
  """
  if "://" in str(folder):
    raise InputError(
      f"--source={folder}: pictures are read only from this machine; copy them"
      " here first"
    )
  folder = Path(files.expand(folder))
  # The functions of os.path take names too long as missing; Path raises.
  if os.path.isfile(folder):
    raise InputError(
      f"--source={shown(folder)} is a file; give the folder of the pictures,"
      " and a file of captions as --captions"
    )
  if not os.path.isdir(folder):
    raise InputError(f"no such folder of pictures: {shown(folder)}")
  listing = Listing(folder, exclude)
  path = _captions_file(listing, captions)
  if path is None:
    place = "one .txt beside each picture"
    rows = sidecar.read(listing)
  else:
    place = shown(path, 1000)
    rows = _find_move(kinds.reader_of(path)(path, listing), listing)
  merged = _Merged(listing)
  for row in rows:
    merged.add(row)
  found = merged.found(place)
  if not found.items:
    raise _nothing(found, shown(folder, 1000), path, merged.details)
  if path is not None:
    merged.note_bare()
  return dataclasses.replace(found, notes=listing.notes + found.notes)


def _captions_file(listing: Listing, captions: str | Path) -> Path | None:
  if captions == "auto":
    name = kinds.choose(listing)
    return None if name is None else listing.path(name)
  given = Path(files.expand(captions))
  for path in (given, listing.folder / given):
    if os.path.isfile(path):
      kinds.reader_of(path)
      folder = os.path.relpath(
        os.path.abspath(path.parent), os.path.abspath(listing.folder)
      ).replace(os.sep, "/")
      if folder != "." and not folder.startswith(".."):
        listing.roots += [folder, f"{folder}/images"]
      return path
  raise InputError(
    f"no such file of captions: {shown(given)}, neither here nor in"
    f" {shown(listing.folder)}"
  )


def _find_move(rows: Iterator[Row], listing: Listing) -> Iterator[Row]:
  """Makes names relative to the folder where most of the first are found."""
  first = list(itertools.islice(rows, _SAMPLE))
  names = [row.name for row in first if row.name]
  hits = sum(listing.find(name).path is not None for name in names)
  if names and 2 * hits < len(names):
    move = listing.find_move(names)
    if move is not None:
      start, place = (shown(part) + "/" if part else "" for part in move)
      listing.notes.append(
        f"{start} at the names' start was taken for {place or 'the source'}"
        if start
        else f"the pictures were found in {place}"
      )
  yield from first
  yield from rows


class _Merged:
  """Joins the entries of each picture."""

  def __init__(self, listing: Listing):
    self.details: dict[str, str] = {}  # the first for each reason
    self._listing = listing
    self._rows: dict[str, tuple[Match, list[Row]]] = {}
    self._lost: dict[str, str] = {}  # key -> reason
    self._rejected: list[tuple[str, str]] = []

  def add(self, row: Row) -> None:
    """Takes the next row."""
    if row.detail:
      reason = row.reason or "no_caption"
      self.details.setdefault(reason, f"{row.where}: {row.detail}")
    if row.reason:
      self._rejected.append((row.reason, shown(row.where)))
      return
    match = self._listing.find(row.name)
    if match.path is None:
      if row.captions:
        self._lost[match.key] = match.reason
      else:
        reason = row.left_out[0] if row.left_out else "no_caption"
        self._lost.setdefault(match.key, reason)
    else:
      place = self._place(match.path)
      self._rows.setdefault(place, (match, []))[1].append(row)

  def _place(self, path: Path) -> str:
    """Returns the same text for all names of a file."""
    return os.path.realpath(path) if self._listing.links else str(path)

  def found(self, captions: str) -> Found:
    """Returns all that was added."""
    items: list[Item] = []
    left_out: list[tuple[str, str]] = []
    rejected = self._rejected + [(r, key) for key, r in self._lost.items()]
    keys: set[str] = set()
    respelled = []
    for match, rows in self._rows.values():
      key = match.key
      while key in keys:  # two names that differ in bytes that are not UTF-8
        key += "+"
      keys.add(key)
      # A dict keeps the order and removes repeated captions.
      texts = dict.fromkeys(itertools.chain(*(row.captions for row in rows)))
      reasons = [*itertools.chain(*(row.left_out for row in rows))]
      if not texts:
        rejected.append((reasons[0] if reasons else "no_caption", key))
        continue
      left_out += [(reason, key) for reason in reasons]
      if match.respelled:
        respelled.append(key)
      items.append(
        Item(
          key=key,
          image=match.path or Path(),
          captions=tuple(texts),
          source=next((row.source for row in rows if row.source), ""),
          license=next((row.license for row in rows if row.license), ""),
        )
      )
    notes = []
    if respelled:
      notes.append(
        "names that are spelt otherwise than their files:"
        f" {len(respelled)} ({few(respelled)})"
      )
    return Found(items, rejected, left_out, notes, captions)

  def note_bare(self) -> None:
    """Notes the pictures that no entry names."""
    bare = [
      name
      for name in self._listing.pictures
      if self._place(self._listing.path(name)) not in self._rows
    ]
    if bare:
      self._listing.notes.append(
        f"pictures that the captions do not name: {len(bare)} ({few(bare)})"
      )


def _nothing(
  found: Found, folder: str, path: Path | None, details: dict[str, str]
) -> InputError:
  """Returns the error to raise if no caption can be used."""
  if not found.rejected:
    return InputError(
      f"{found.captions} holds no captions; expected one picture an entry, with"
      f" {json_rows.EXPECTED}"
    )
  names: dict[str, list[str]] = {}
  for reason, name in found.rejected:
    names.setdefault(reason, []).append(name)
  told = ", ".join(
    f"{reason}: {len(names[reason])} ({few(names[reason])})"
    for reason in sorted(names, key=lambda reason: -len(names[reason]))
  )
  most = max(names, key=lambda reason: len(names[reason]))
  advice = details.get(most) or _ADVICE.get(most)
  advice = f"; {advice}" if advice else ""
  if path is None:
    return InputError(
      f"{folder}: no picture has a caption in a .txt beside it; {told}{advice}"
    )
  return InputError(
    f"{found.captions}: no entry gives a picture of {folder} and its caption;"
    f" {told}{advice}"
  )
