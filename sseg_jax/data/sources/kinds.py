"""The kinds of files that hold captions, and which one of a source is read."""

from collections.abc import Callable, Iterator
from pathlib import Path

from sseg_jax.data.sources import json_file, sidecar, tables
from sseg_jax.data.sources.listing import Listing
from sseg_jax.data.sources.rows import Row, few, shown
from sseg_jax.errors import InputError
from sseg_jax.images import reader

Reader = Callable[[Path, Listing], Iterator[Row]]

# By suffix, in small letters. A new kind adds its line here.
READERS: dict[str, Reader] = {
  ".jsonl": json_file.read,
  ".ndjson": json_file.read,
  ".json": json_file.read,
  ".tsv": tables.read,
  ".csv": tables.read,
  ".txt": tables.read,
}
# Names that say what the file is. The first one that exists is read.
NAMES = (
  "captions.jsonl",
  "captions.ndjson",
  "captions.tsv",
  "captions.csv",
  "captions.json",
  "metadata.jsonl",
  "metadata.csv",
)
_WANTED = (
  "captions.jsonl, captions.tsv, captions.csv, a COCO captions_*.json,"
  " metadata.jsonl or one .txt beside each picture"
)


def reader_of(path: Path) -> Reader:
  """Returns the reader for a file; raises InputError for an unknown suffix."""
  try:
    return READERS[path.suffix.lower()]
  except KeyError:
    raise InputError(
      f"{shown(path)}: captions are read from {', '.join(READERS)}; convert the"
      " file, or give another --captions"
    ) from None


def choose(listing: Listing) -> str | None:
  """Returns the file that holds a source's captions.

  In this order: a file of a known name, the only .tsv, one .txt beside each
  picture, the only other table or JSON file, and the only file of a known name
  in a folder of the source. A note names the files that are not read.

  Returns:
    Its name below the source; None for one .txt beside each picture.

  Raises:
    InputError: there is none, or several and nothing tells which.
  """
  top = [name for name in listing.files if "/" not in name]
  named = [
    name
    for known in NAMES
    for name in sorted(top, reverse=True)  # names in small letters come first
    if name.lower() == known
  ]
  others = [name for name in top if _suffix(name) in READERS]
  texts = [name for name in others if _suffix(name) == ".txt"]
  others = [name for name in others if name not in texts + named]
  tsv = [name for name in others if _suffix(name) == ".tsv"]
  coco = [
    name
    for name in listing.files
    if _is_coco(name) and name.rpartition("/")[0] in ("", "annotations")
  ]
  if named:
    return _take(named[0], [*named, *tsv, *coco], listing)
  if tsv:
    return _take(_one(tsv, listing), [*tsv, *coco], listing)
  if table := _table(texts, listing):
    return _take(table, [table, *coco], listing)
  if sidecar.exist(listing):
    return _take(None, coco, listing)
  if coco:
    return _take(_one(coco, listing), coco, listing)
  if others:
    return _one(others, listing)
  deep = [
    name
    for name in listing.files
    if "/" in name and name.rpartition("/")[2].lower() in NAMES
  ]
  if deep:
    found = _one(deep, listing)
    below = found.rpartition("/")[0]
    listing.roots = [below, f"{below}/images", *listing.roots]
    return found
  if listing.pictures:
    raise InputError(
      f"no captions in {shown(listing.folder)}, which holds"
      f" {len(listing.pictures)} pictures{_rest(listing)}; expected {_WANTED}"
    )
  raise InputError(
    f"no pictures and no captions in {shown(listing.folder)}{_rest(listing)};"
    f" expected pictures, and {_WANTED}"
  )


def _suffix(name: str) -> str:
  return Path(name).suffix.lower()


def _is_coco(name: str) -> bool:
  base = name.rpartition("/")[2].lower()
  return base.startswith("captions_") and base.endswith(".json")


def _table(texts: list[str], listing: Listing) -> str | None:
  """Returns captions.txt where it is a table, as Kaggle's Flickr8k has it."""
  for name in texts:
    if name.lower() == "captions.txt" and tables.is_table(
      listing.path(name), listing
    ):
      return name
  return None


def _one(found: list[str], listing: Listing) -> str:
  if len(found) > 1:
    raise InputError(
      f"{shown(listing.folder)} holds several files that may have the captions"
      f" ({few(found)}); name one with --captions"
    )
  return found[0]


def _take(chosen: str | None, found: list[str], listing: Listing) -> str | None:
  left = [name for name in dict.fromkeys(found) if name != chosen]
  if left:
    listing.notes.append(
      f"captions in {few(left)} were not read; choose with --captions"
    )
  if chosen and sidecar.exist(listing):
    listing.notes.append("the .txt beside pictures were not read")
  return chosen


def _rest(listing: Listing) -> str:
  """Returns which suffixes a source has beside pictures."""
  counts: dict[str, int] = {}
  for name in listing.files:
    if not reader.has_suffix(name):
      suffix = _suffix(name) or "no suffix"
      counts[suffix] = counts.get(suffix, 0) + 1
  if not counts:
    return ""
  most = sorted(counts, key=lambda s: (-counts[s], s))[:5]
  return " and " + ", ".join(f"{counts[s]} {shown(s, 20)}" for s in most)
