"""One JSON document: COCO captions, Karpathy's splits, or a list of rows."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from sseg_jax.data.sources import coco_captions, json_lines, json_rows
from sseg_jax.data.sources.listing import Listing
from sseg_jax.data.sources.rows import Row, lines, shown
from sseg_jax.errors import InputError


def read(path: Path, listing: Listing) -> Iterator[Row]:
  """Yields the rows of a document, or of JSON lines with any suffix.

  A document is COCO's (`images` and `annotations`), a list of objects, an
  object with one such list in it, or an object from names to captions.

  Raises:
    InputError: neither JSON nor JSON lines, or none of these.
  """
  if path.suffix.lower() != ".json" and json_lines.is_lines(path):
    yield from json_lines.read(path, listing)
    return
  text = "".join(line for _, line in lines(path))
  try:
    data = json.loads(text)
  except (ValueError, RecursionError) as error:
    if not json_lines.has_objects(path):
      raise InputError(
        f"{shown(path)} is not JSON ({shown(error)}); expected a JSON document,"
        f" or lines of it, each with {json_rows.EXPECTED}"
      ) from None
    yield from json_lines.read(path, listing)
    return
  del text
  yield from _rows(data, path, listing)


def _rows(data: object, path: Path, listing: Listing) -> Iterator[Row]:
  if isinstance(data, Mapping):
    if coco_captions.fits(data):
      yield from coco_captions.read(data, path, listing)
      return
    tables = [
      value
      for value in data.values()
      if isinstance(value, list) and any(isinstance(v, dict) for v in value)
    ]
    fields = {json_rows.canonical(key) for key in data}
    if fields & set(json_rows.FILE_NAMES) and not tables:
      data = [data]
    elif len(tables) == 1:
      data = tables[0]
    elif any(map(listing.names_picture, data)):
      for key, value in data.items():
        row = value if isinstance(value, dict) else {"captions": value}
        yield json_rows.from_object(
          {"file_name": key, **row}, f"{path.name}:{shown(key)}", listing
        )
      return
    else:
      raise InputError(
        f"{shown(path)} holds no captions that can be read: fields found:"
        f" {shown(', '.join(map(str, data)) or 'none')}; expected COCO's"
        " `images` and `annotations`, a list of rows, or captions by file name"
      )
  if not isinstance(data, list):
    raise InputError(
      f"{shown(path)} holds a single {type(data).__name__}; expected a list of"
      f" rows, each with {json_rows.EXPECTED}"
    )
  for number, row in enumerate(data, 1):
    yield json_rows.from_object(row, f"{path.name}: row {number}", listing)
