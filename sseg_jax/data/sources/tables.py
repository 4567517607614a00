"""Tables: .tsv and .csv as pandas, Excel and others write them."""

import collections
import csv
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from sseg_jax.data.sources import columns, json_rows
from sseg_jax.data.sources.listing import Listing
from sseg_jax.data.sources.rows import (
  Row,
  clean_all,
  encodable,
  is_url,
  lines,
  listed,
)

# European Excel separates by ";", Flickr30k by "|".
_DELIMITERS = {".csv": ",;\t|", ".tsv": "\t,;|", ".txt": "\t,;|"}
_SAMPLE = 1000  # rows that decide which column holds what
_QUOTED_LINES = 100  # largest number of lines of a quoted cell


def read(path: Path, listing: Listing) -> Iterator[Row]:
  r"""Yields the rows of a table.

  Cells are quoted or not. Without a header, the column that names pictures is
  found by their suffixes and files, and all other text is the caption.

  Raises:
    InputError: the table is a list of URLs, or no column is known.
  """
  delimiter, sample = _sample(path, listing)
  if not sample:
    return
  layout = columns.find(sample, delimiter, path, listing)
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
    # Excel writes the delimiter in a first line like this.
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
  the cell's end: quotes inside are doubled, or follow a backslash, and after
  the last one comes the next cell or line. A quoted cell goes on over further
  lines as long as none of them looks like a row of its own. All other quotes
  are the caption's: many tables are written without quoting.
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
    # Names without suffixes: only files of these names show that it is a list.
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
    cells = None
    for escaped in ('"', r"\""):
      if escaped not in line:
        break
      taken: list[str] = []
      reader = csv.reader(
        # The second time, quotes of Spark and MySQL in the standard's form.
        (
          text if escaped == '"' else text.replace(escaped, '""')
          for text in of_one_row(line, taken)
        ),
        delimiter=delimiter,
        skipinitialspace=True,
        strict=True,
      )
      try:
        cells = next(reader)
      except (csv.Error, StopIteration):
        continue
      for _ in taken:
        ahead.popleft()
      break
    if cells is None:
      cells = line.rstrip("\r\n").split(delimiter)
    if any(cell.strip(" \t\r\n\ufeff") for cell in cells):
      yield number, cells


def _plain_cells(line: str, delimiter: str) -> list[str]:
  return [cell.strip().strip('"') for cell in line.split(delimiter)]


def _row(
  cells: list[str], where: str, delimiter: str, layout: columns.Layout
) -> Row:
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
      if i != at and not (i in layout.ignored and columns.is_no_text(cell))
    ]
    captions = listed(_join(texts, delimiter))
  name = name.strip()
  if not name:
    return Row(where, reason="no_file_name")
  if is_url(name):
    return Row(where, reason="url_not_file")
  kept, left_out = clean_all(captions)
  if kept and len(layout.captions) > 1 and layout.width:
    # With several caption columns, an empty cell is not a lost caption.
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
