"""JSON lines: one object a line (`captions.jsonl`, `metadata.jsonl`)."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from sseg_jax.data.sources import json_rows
from sseg_jax.data.sources.listing import Listing
from sseg_jax.data.sources.rows import Row, lines


def read(path: Path, listing: Listing) -> Iterator[Row]:
  """Yields the rows; a line that is no JSON is a row with a reason."""
  for number, line in lines(path):
    if not line.strip("\0 \t\r\n\v\f\ufeff"):
      continue
    where = f"{path.name}:{number}"
    try:
      row = json.loads(line)
    # RecursionError: nested too deep. ValueError: also numbers too long.
    except (ValueError, RecursionError):
      escaped = any("\udc80" <= c <= "\udcff" for c in line)
      yield Row(where, reason="not_utf8" if escaped else "not_json")
      continue
    yield json_rows.from_object(row, where, listing)


def is_lines(path: Path) -> bool:
  """Whether the first line that is not blank is a whole object of its own."""
  for _, line in lines(path):
    if line.strip():
      try:
        row = json.loads(line)
      except (ValueError, RecursionError):
        return False
      return isinstance(row, dict) and not {"images", "annotations"} & set(row)
  return True


def has_objects(path: Path) -> bool:
  """Whether one of the first lines is an object, or none is written at all."""
  some = False
  for _, line in itertools.islice(lines(path), 100):
    some |= bool(line.strip())
    try:
      if isinstance(json.loads(line), dict):
        return True
    except (ValueError, RecursionError):
      continue
  return not some
