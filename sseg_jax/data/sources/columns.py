"""Which column of a table holds what."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from sseg_jax.data.sources import json_rows
from sseg_jax.data.sources.listing import Listing
from sseg_jax.data.sources.rows import is_url, shown
from sseg_jax.errors import InputError
from sseg_jax.images import reader

_NAMES = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}
_ENOUGH = 10  # rows of equal width, which captions with tabs would not have


@dataclasses.dataclass(frozen=True)
class Layout:
  """Which column holds what.

  Attributes:
    name: column of the pictures' names; -1 for the last cell of a row.
    captions: columns of captions.
    rest: whether further cells belong to the caption, because the caption
      contains the delimiter.
    ignored: columns that hold only numbers or URLs.
    width: number of columns that the header names; 0 without a header.
    source: column of URLs, or None.
    license: column, or None.
    notes: sentences about what was guessed and not written in a header.
  """

  name: int
  captions: tuple[int, ...]
  rest: bool = False
  ignored: frozenset[int] = frozenset()
  width: int = 0
  source: int | None = None
  license: int | None = None
  notes: tuple[str, ...] = ()


def find(
  sample: Sequence[tuple[int, list[str]]],
  delimiter: str,
  path: Path,
  listing: Listing,
) -> Layout:
  """Finds the columns by a first line of names, or by what they hold.

  Args:
    sample: the first rows, numbered, at least one.
    delimiter: between their cells.
    path: of the table, for messages.
    listing: the files that a column can name.

  Raises:
    InputError: the table is a list of URLs, or no column is known.
  """
  first, body = sample[0][1], [cells for _, cells in sample[1:]]
  known = [json_rows.canonical(cell) for cell in first]
  named = {*known} & {*json_rows.FILE_NAMES, *json_rows.CAPTION_NAMES} or any(
    re.fullmatch(r"\s*\w*caption\w*\s*", cell, re.IGNORECASE) for cell in first
  )
  data = any(reader.has_suffix(c.strip()) or is_url(c) for c in first) or (
    any(
      listing.holds(cell)
      for cell, name in zip(first, known, strict=True)
      if name not in {*json_rows.FILE_NAMES, *json_rows.CAPTION_NAMES}
    )
  )
  # With two columns of unknown names, the first line may be a header or a row;
  # it is treated as a row. With more columns the layout cannot be guessed.
  unknown = len(first) > 2 and 2 * sum(
    len(cells) == len(first) and any(map(listing.names_picture, cells))
    for cells in body
  ) > len(body)
  if not data and (named or unknown):
    return _with_header(first, known, body, path, listing)
  return _without_header([first, *body], delimiter, path, listing)


def _scores(
  rows: Sequence[Sequence[str]], listing: Listing
) -> list[tuple[int, int]]:
  """Returns for each column how many cells are files, and how many may be."""
  width = max(map(len, rows), default=0)
  columns = [[row[i] for row in rows if i < len(row)] for i in range(width)]
  return [
    (
      sum(not is_url(cell) and listing.holds(cell.strip()) for cell in column),
      sum(map(listing.names_picture, column)),
    )
    for column in columns
  ]


def _urls(rows: Sequence[Sequence[str]]) -> int | None:
  """Returns the column in which more than half of the cells are URLs."""
  for i in range(max(map(len, rows), default=0)):
    column = [row[i] for row in rows if i < len(row)]
    if 2 * sum(map(is_url, column)) > len(rows):
      return i
  return None


def _url_list(path: Path, column: int) -> InputError:
  return InputError(
    f"{shown(path)} is a list of URLs (column {column + 1}) and names no"
    " pictures on this machine; fetch them first, for example with img2dataset,"
    " and give its output folder as --source"
  )


def _with_header(
  first: list[str],
  known: list[str],
  body: list[list[str]],
  path: Path,
  listing: Listing,
) -> Layout:
  scores = _scores(body, listing)
  scores += [(0, 0)] * (len(first) - len(scores))
  scores = scores[: len(first)]
  best = max(range(len(first)), key=lambda i: (scores[i], -i))
  stated = [known.index(n) for n in json_rows.FILE_NAMES if n in known]
  notes = []
  if stated:
    name = max(stated, key=lambda i: (scores[i], -stated.index(i)))
    # A column that is called `image` may hold numbers.
    if not any(scores[name]) and any(scores[best]):
      name = best
  else:
    name = best
  urls = _urls(body)
  if not any(scores[name]) and urls is not None:
    raise _url_list(path, urls)
  numbered = [re.sub(r"\d+$", "", n) for n in known]
  captions: tuple[int, ...] = ()
  for wanted in json_rows.CAPTION_NAMES:
    found = tuple(
      i for i, n in enumerate(numbered) if n == wanted and i != name
    )
    if found:
      captions = found
      break
  if not captions:  # blip_caption, caption_en
    captions = tuple(
      i for i, n in enumerate(known) if "caption" in n and i != name
    )
    if len(captions) > 1:
      captions = ()
  if not captions and len(first) == 2:
    captions = (1 - name,)
    notes.append(
      f"{shown(path.name)}: the column {shown(first[1 - name])!r} was taken for"
      " the captions"
    )
  if not captions or not (stated or any(scores[name])):
    raise InputError(
      f"{shown(path)}: columns found: {shown(', '.join(first))}; expected"
      f" {json_rows.EXPECTED}; rename them in the first line"
    )
  if name not in stated:
    notes.append(
      f"{shown(path.name)}: the column {shown(first[name])!r} was taken for the"
      " pictures' names"
    )
  places = [
    next((i for i, n in enumerate(known) if n in names and i != name), None)
    for names in (json_rows.SOURCE_NAMES, json_rows.LICENSE_NAMES)
  ]
  return Layout(
    name=name,
    captions=captions,
    # Text that is cut by a delimiter can be joined where nothing follows it.
    rest=captions == (len(first) - 1,),
    width=len(first),
    source=places[0],
    license=places[1],
    notes=tuple(notes),
  )


def _without_header(
  rows: list[list[str]], delimiter: str, path: Path, listing: Listing
) -> Layout:
  usual = [row for row in rows if len(row) > 1]
  if not usual:
    raise InputError(
      f"{shown(path)}: no {_NAMES.get(delimiter, repr(delimiter))} between a"
      f" picture's name and its caption (line 1: {shown(rows[0][0], 60)});"
      " expected both in each line, or a first line with the columns' names:"
      f" {json_rows.EXPECTED}"
    )
  scores = _scores(usual, listing)
  name = max(range(len(scores)), key=lambda i: (scores[i], -i))
  urls = _urls(usual)
  if not any(scores[name]) and urls is not None:
    raise _url_list(path, urls)
  narrow, wide = min(map(len, usual)), max(map(len, usual))
  lasts = [row[-1] for row in usual]
  if name and sum(map(listing.names_picture, lasts)) >= scores[name][1]:
    name = -1  # the last cell, however many cells the caption was cut into
  at = narrow - 1 if name < 0 else name
  columns = [i for i in range(narrow) if i != at]
  ignored = frozenset(
    i for i in columns if all(is_no_text(row[i]) for row in usual)
  )
  texts = [i for i in columns if i not in ignored]
  if not texts:  # captions that are numbers, or empty
    ignored, texts = frozenset(), columns
  if len(texts) > 1 and narrow == wide and len(usual) >= _ENOUGH:
    raise InputError(
      f"{shown(path)} has {wide} columns, and no first line that names them;"
      f" expected {json_rows.EXPECTED}, or only two columns"
    )
  notes = []
  if name:
    place = "the last column" if name < 0 else f"column {name + 1}"
    notes.append(f"{shown(path.name)}: {place} names the pictures")
  if ignored:
    told = ", ".join(str(i + 1) for i in sorted(ignored))
    notes.append(
      f"{shown(path.name)}: numbers or URLs in column {told} are not used; name"
      " the columns in a first line to use them"
    )
  if wide > narrow or len(texts) > 1:
    notes.append(
      f"{shown(path.name)}: rows of more than {narrow if wide > narrow else 2}"
      " cells were taken as captions that hold the delimiter, and joined"
    )
  return Layout(
    name=name,
    captions=tuple(texts),
    rest=True,
    ignored=ignored,
    notes=tuple(notes),
  )


def is_no_text(cell: str) -> bool:
  """Whether a cell is blank, a URL or a number."""
  return not cell.strip() or is_url(cell) or _is_number(cell)


def _is_number(cell: str) -> bool:
  return bool(re.fullmatch(r"\s*[-+]?[\d.]+(e[-+]?\d+)?\s*", cell, re.I))
