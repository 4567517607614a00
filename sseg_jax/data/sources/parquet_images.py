"""Parquet files that hold pictures: of Hugging Face, and of img2dataset.

Hugging Face stores a picture as a struct {bytes, path}, others as bytes.
"""

from collections.abc import Iterator
from typing import Any

from sseg_jax.data.sources import json_rows
from sseg_jax.data.sources.rows import encodable, shown
from sseg_jax.data.sources.samples import (
  Part,
  Sample,
  from_fields,
  need_pyarrow,
  open_file,
)
from sseg_jax.errors import InputError

_PICTURES = ("image", "jpg", "jpeg", "png", "webp", "img", "picture", "photo")
_ROWS = 64  # read at once, so that memory does not grow with the row groups


def read(part: Part) -> Iterator[Sample]:
  """Yields a sample for each row, in their order.

  Raises:
    InputError: pyarrow is missing, or no column holds pictures or captions.
  """
  parquet = need_pyarrow()
  import pyarrow

  try:
    with open_file(part.path) as file:
      table = parquet.ParquetFile(file)
      picture, others = _columns(table.schema_arrow, part)
      yield from _rows(table, picture, others, part.field)
  except (OSError, pyarrow.ArrowException):
    yield Sample("", reason="damaged_file")


def _rows(
  table: Any, picture: str, others: list[str], field: str
) -> Iterator[Sample]:
  number = 0
  for batch in table.iter_batches(_ROWS, columns=[picture, *others]):
    for row in batch.to_pylist():
      image = row.pop(picture)
      if isinstance(image, dict):
        image = image.get("bytes")
      key = row.get("key") or row.get("__key__") or f"{number:07d}"
      yield from_fields(encodable(key), image or b"", row, field)
      number += 1


def _columns(schema: Any, part: Part) -> tuple[str, list[str]]:
  """Returns the column of pictures, and those of everything else of use."""
  import pyarrow.types as types

  def holds_pictures(column: Any) -> bool:
    kind = column.type
    if types.is_struct(kind):
      return kind.get_field_index("bytes") >= 0
    is_bytes = types.is_binary(kind) or types.is_large_binary(kind)
    return is_bytes and column.name.lower() in _PICTURES

  found = [c.name for c in schema if holds_pictures(c)]
  found.sort(key=lambda n: n.lower() not in _PICTURES)
  named = ", ".join(schema.names)
  if not found:
    raise InputError(
      f"{shown(part.path)}: no column holds pictures (columns:"
      f" {shown(named)}); expected `image` as Hugging Face stores it, or `jpg`"
    )
  if part.field:
    wanted = [part.field] if part.field in schema.names else []
  else:
    wanted = [
      n for n in schema.names if json_rows.canonical(n) in _CAPTIONS
    ] or [n for n in schema.names if "caption" in n.lower()][:1]
    wanted = [n for n in wanted if n != found[0]]
  if not wanted:
    raise InputError(
      f"{shown(part.path)}: no column holds captions (columns:"
      f" {shown(named)}); name it with --captions=COLUMN"
    )
  others = [n for n in schema.names if json_rows.canonical(n) in _OTHERS]
  return found[0], list(dict.fromkeys(wanted + others))


_CAPTIONS = frozenset(json_rows.CAPTION_NAMES)
_OTHERS = frozenset(
  (
    *("key", "status", "errormessage"),
    *json_rows.SOURCE_NAMES,
    *json_rows.LICENSE_NAMES,
  )
)


def is_readable(path: str) -> bool:
  """Whether a file's columns hold pictures and captions."""
  parquet = need_pyarrow()
  import pyarrow

  try:
    with open_file(path) as file:
      _columns(parquet.ParquetFile(file).schema_arrow, Part("", path, ""))
  except (OSError, pyarrow.ArrowException, InputError):
    return False
  return True
