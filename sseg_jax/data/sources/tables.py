"""Tables: .tsv and .csv as pandas, Excel and others write them."""

import collections
import csv
import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from sseg_jax import pictures
from sseg_jax.data.sources import json_rows
from sseg_jax.data.sources.listing import Listing
from sseg_jax.data.sources.rows import (
  Row,
  clean_all,
  encodable,
  is_url,
  lines,
  listed,
  shown,
)
from sseg_jax.errors import InputError

# European Excel separates by ";", Flickr30k by "|".
_DELIMITERS = {".csv": ",;\t|", ".tsv": "\t,;|", ".txt": "\t,;|"}
_NAMES = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar"}
_SAMPLE = 1000  # rows that decide which column holds what
_QUOTED_LINES = 100  # that a quoted cell may have
_ENOUGH = 10  # rows of equal width, which captions with tabs would not have


@dataclasses.dataclass(frozen=True)
class _Layout:
  """Which column holds what.

  Attributes:
    name: column of the pictures' names; -1 for the last cell of a row.
    captions: columns of captions.
    rest: whether further cells belong to the caption, cut by a delimiter that
      is part of it.
    ignored: columns that hold numbers and URLs alone.
    width: number of columns that the header names; 0 without a header.
    source: column of URLs, or None.
    license: column, or None.
    notes: what was found out rather than written.
  """

  name: int
  captions: tuple[int, ...]
  rest: bool = False
  ignored: frozenset[int] = frozenset()
  width: int = 0
  source: int | None = None
  license: int | None = None
  notes: tuple[str, ...] = ()


def read(path: Path, listing: Listing) -> Iterator[Row]:
  r"""Yields the rows of a table.

  Cells are quoted or not. Without a header, the column that names pictures is
  found by their suffixes and files, and all other text is the caption.

  Raises:
    InputError: a list of URLs, or columns of which none is known.
  """
  delimiter, sample = _sample(path, listing)
  if not sample:
    return
  layout = _layout(sample, delimiter, path, listing)
  listing.notes += layout.notes
  rows = _records(path, delimiter, listing)
  for number, cells in itertools.islice(rows, bool(layout.width), None):
    where = f"{path.name}:{number}"
    yield _row(cells, where, delimiter, layout)


def is_table(path: Path, listing: Listing) -> bool:
  """Whether a .txt is a table whose rows name pictures."""
  delimiter, sample = _sample(path, listing)
  return any(
    len(cells) > 1 and any(map(listing.names_picture, cells))
    for _, cells in sample
  )


def _sample(
  path: Path, listing: Listing
) -> tuple[str, list[tuple[int, list[str]]]]:
  """Returns the delimiter and the first rows."""
  delimiters = _DELIMITERS.get(path.suffix.lower(), _DELIMITERS[".csv"])
  for _, line in lines(path):
    # Excel's own way to tell the delimiter.
    if told := re.fullmatch(r"sep=(.)\s*", line, re.IGNORECASE):
      delimiters = told[1]
    break
  first = None
  for delimiter in delimiters:
    rows = list(itertools.islice(_records(path, delimiter, listing), _SAMPLE))
    first = first or (delimiter, rows)
    wide = [cells for _, cells in rows if len(cells) > 1]
    known = {json_rows.canonical(c) for cells in wide[:1] for c in cells}
    if 2 * len(wide) > len(rows) and (
      known & {*json_rows.CAPTION_NAMES, *json_rows.FILE_NAMES}
      or any(any(map(listing.names_picture, cells)) for cells in wide)
      or any(any(map(is_url, cells)) for cells in wide)
    ):
      return delimiter, rows
  assert first is not None
  return first


def _records(
  path: Path, delimiter: str, listing: Listing
) -> Iterator[tuple[int, list[str]]]:
  r"""Yields the cells of each row that is not blank, with its line's number.

  A quote that begins a cell quotes it where the standard's rules hold up to
  the cell's end: quotes inside are doubled, and after the last one comes the
  next cell or line. A quoted cell goes on over further lines as long as none
  of them looks like a row of its own. All other quotes are the caption's: many
  tables are written without quoting.
  """
  source = lines(path)
  ahead: collections.deque[tuple[int, str]] = collections.deque()

  def following() -> Iterator[tuple[int, str]]:
    """Yields the lines that come next, and keeps them in `ahead`."""
    yield from list(ahead)
    for entry in source:
      ahead.append(entry)
      yield entry

  def of_one_row(first: str, taken: list[str]) -> Iterator[str]:
    """Yields lines to `csv` as it asks for them; `taken` gets the further."""
    yield first
    names = _plain_cells(first, delimiter)
    # A list of names without suffixes is known by its files alone.
    test = listing.is_written
    if not any(map(test, names)):
      test = listing.names_picture
    for _, line in itertools.islice(following(), _QUOTED_LINES):
      cells = _plain_cells(line, delimiter)
      if len(cells) > 1 and any(map(test, cells)):
        return
      taken.append(line)
      yield line

  while True:
    if ahead:
      number, line = ahead.popleft()
    elif (entry := next(source, None)) is not None:
      number, line = entry
    else:
      return
    if number == 1 and re.fullmatch(r"sep=.\s*", line, re.IGNORECASE):
      continue
    taken: list[str] = []
    cells = None
    if '"' in line:
      reader = csv.reader(
        of_one_row(line, taken),
        delimiter=delimiter,
        skipinitialspace=True,
        strict=True,
      )
      try:
        cells = next(reader)
        for _ in taken:
          ahead.popleft()
      except (csv.Error, StopIteration):
        cells = None
    if cells is None:
      cells = line.rstrip("\r\n").split(delimiter)
    if any(cell.strip(" \t\r\n\ufeff") for cell in cells):
      yield number, cells


def _plain_cells(line: str, delimiter: str) -> list[str]:
  return [cell.strip().strip('"') for cell in line.split(delimiter)]


def _layout(
  sample: Sequence[tuple[int, list[str]]],
  delimiter: str,
  path: Path,
  listing: Listing,
) -> _Layout:
  first, body = sample[0][1], [cells for _, cells in sample[1:]]
  known = [json_rows.canonical(cell) for cell in first]
  named = {*known} & {*json_rows.FILE_NAMES, *json_rows.CAPTION_NAMES} or any(
    re.fullmatch(r"\s*\w*caption\w*\s*", cell, re.IGNORECASE) for cell in first
  )
  data = any(pictures.has_suffix(c.strip()) or is_url(c) for c in first) or (
    any(
      listing.holds(cell)
      for cell, name in zip(first, known, strict=True)
      if name not in {*json_rows.FILE_NAMES, *json_rows.CAPTION_NAMES}
    )
  )
  # Of two columns that nobody knows, the first line is a row as well as not:
  # it is taken for one, and counted. More columns cannot be guessed.
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
) -> _Layout:
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
  return _Layout(
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
) -> _Layout:
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
    name = -1  # whatever number of cells the caption was cut to
  at = narrow - 1 if name < 0 else name
  columns = [i for i in range(narrow) if i != at]
  ignored = frozenset(
    i for i in columns if all(_is_no_text(row[i]) for row in usual)
  )
  texts = [i for i in columns if i not in ignored]
  if not texts:  # captions that are numbers, or empty
    ignored, texts = frozenset(), columns
  if len(texts) > 1 and narrow == wide and len(usual) >= _ENOUGH:
    raise InputError(
      f"{shown(path)} has {wide} columns, and no first line that names them;"
      f" expected {json_rows.EXPECTED}, or two columns alone"
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
  return _Layout(
    name=name,
    captions=tuple(texts),
    rest=True,
    ignored=ignored,
    notes=tuple(notes),
  )


def _is_no_text(cell: str) -> bool:
  return not cell.strip() or is_url(cell) or _is_number(cell)


def _is_number(cell: str) -> bool:
  return bool(re.fullmatch(r"\s*[-+]?[\d.]+(e[-+]?\d+)?\s*", cell, re.I))


def _row(cells: list[str], where: str, delimiter: str, layout: _Layout) -> Row:
  if layout.width:
    needed = max(layout.name, *layout.captions) + 1
    if len(cells) < needed:
      return Row(where, reason="too_few_cells")
    extra = cells[layout.width :]
    captions = [c for i in layout.captions for c in listed(cells[i])]
    if any(cell.strip() for cell in extra):
      if not layout.rest:
        return Row(where, reason="too_many_cells")
      captions = [_join(cells[layout.captions[0] :], delimiter)]
    name = cells[layout.name]
  else:
    if len(cells) < 2:
      return Row(where, reason="too_few_cells")
    at = layout.name % len(cells) if layout.name < 0 else layout.name
    if at >= len(cells):
      return Row(where, reason="too_few_cells")
    name = cells[at]
    texts = [
      cell
      for i, cell in enumerate(cells)
      if i != at and not (i in layout.ignored and _is_no_text(cell))
    ]
    captions = listed(_join(texts, delimiter))
  name = name.strip()
  if not name:
    return Row(where, reason="no_file_name")
  if is_url(name):
    return Row(where, reason="url_not_file")
  kept, left_out = clean_all(captions)
  if kept and len(layout.captions) > 1 and layout.width:
    # Of several columns, some may be empty: that is no caption lost.
    left_out = tuple(r for r in left_out if r != "empty_caption")

  def cell(place: int | None) -> str:
    if place is None or place >= len(cells):
      return ""
    return encodable(cells[place].strip())

  return Row(
    where,
    name,
    kept,
    left_out,
    source=cell(layout.source),
    license=cell(layout.license),
  )


def _join(cells: Sequence[str], delimiter: str) -> str:
  """Returns a caption that delimiters have cut."""
  between = {"\t": " ", "|": " | "}.get(delimiter, f"{delimiter} ")
  while cells and not cells[-1].strip():
    cells = cells[:-1]
  return between.join(cells)
