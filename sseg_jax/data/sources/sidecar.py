"""One text file beside each picture, with one caption a line."""

import codecs
import os
from collections.abc import Iterator

from sseg_jax.data.sources.listing import Listing
from sseg_jax.data.sources.rows import Row, clean_all, few, split_lines
from sseg_jax.images import reader

SUFFIXES = (".txt", ".caption")
# Files that downloaders write next to a picture and that are not pictures.
_DATA = (".json", ".npy", ".npz", ".md", ".csv", ".tsv", ".jsonl", ".xml")


def exist(listing: Listing) -> bool:
  """Whether any picture has such a file."""
  if not any(name.lower().endswith(SUFFIXES) for name in listing.files):
    return False
  return any(_beside(name, listing) for name in listing.pictures)


def read(listing: Listing) -> Iterator[Row]:
  """Yields a row for each picture, whether it has captions or not.

  Pictures outside of `images/`, where there is such a folder, count only where
  they have captions. A text whose only neighbours have unknown suffixes gives a
  row for each of these, rejected as `unknown_suffix`.
  """
  inside = any(name.startswith("images/") for name in listing.files)
  used, bare = set(), []
  for name in listing.pictures:
    text = _beside(name, listing)
    key = name.removeprefix("images/")
    if key in listing.files:
      key = name
    if text is None and inside and not name.startswith("images/"):
      bare.append(name)
      continue
    if text is None:
      yield Row(name, key, left_out=("no_caption",))
      continue
    used.add(text)
    captions, left_out = _captions(text, listing)
    yield Row(text, key, captions, left_out)
  if bare:
    listing.notes.append(
      f"pictures outside of images/ without a .txt: {len(bare)} ({few(bare)})"
    )
  yield from _alone(used, listing)


def _beside(name: str, listing: Listing) -> str | None:
  """Returns the text beside a picture, or above `images/`."""
  stem = os.path.splitext(name)[0]
  for place in (stem, name, stem.removeprefix("images/")):
    for suffix in SUFFIXES:
      if (text := listing.like(place + suffix)) is not None:
        return text
  return None


def _captions(
  text: str, listing: Listing
) -> tuple[tuple[str, ...], tuple[str, ...]]:
  try:
    data = listing.path(text).read_bytes()
  except OSError:
    return (), ("unreadable_captions",)
  if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
    decoded = data.decode("utf-16", "replace").replace("\ufffd", "\udcff")
  else:
    decoded = data.decode("utf-8-sig", "surrogateescape")
  captions, left_out = clean_all(
    line for line in split_lines(decoded) if line.strip()
  )
  return captions, left_out or (() if captions else ("empty_caption",))


def _alone(used: set[str], listing: Listing) -> Iterator[Row]:
  """Yields files of unknown suffix beside a text; notes texts beside none."""
  unused = [
    name
    for name in listing.files
    if name.lower().endswith(SUFFIXES) and name not in used
  ]
  if not unused:
    return
  beside: dict[str, list[str]] = {}
  for name in listing.files:
    if not name.lower().endswith((*SUFFIXES, *_DATA)):
      beside.setdefault(os.path.splitext(name)[0], []).append(name)
  lonely = []
  for text in unused:
    stem = os.path.splitext(text)[0]
    found = beside.get(stem, []) + beside.get(f"images/{stem}", [])
    found = [name for name in found if not reader.has_suffix(name)]
    if not found:
      lonely.append(text)
    for name in found:
      yield Row(name, reason="unknown_suffix")
  if lonely:
    listing.notes.append(
      f"texts without a picture: {len(lonely)} ({few(lonely)})"
    )
