"""The output folder of img2dataset, in each of its formats.

A shard is `00012.tar`, `00012.tfrecord`, a folder `00012` of files, or
`00012.parquet` with the pictures. Beside the first three lies `00012.parquet`
with a row for each URL, also for those that failed. `00012_stats.json` is
written last.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from sseg_jax.data.sources import parquet_images, tars, tfrecords
from sseg_jax.data.sources.rows import encodable
from sseg_jax.data.sources.samples import (
  Members,
  Part,
  Sample,
  need_pyarrow,
  open_file,
  reason_of_failure,
  split_name,
)
from sseg_jax.errors import InputError

# Rows of a published list that give no URL, as `recipes.py` counts them: JSON,
# but img2dataset takes every file that is called so for statistics of its own.
LEFT_OUT = "rows_left_out.counts"
_STATS = re.compile(r"^(\d{3,})_stats\.json$")
_SHARD = re.compile(r"^(\d{3,})(\.tar|\.tfrecord|\.parquet)?$")
_ORDER = (".tar", ".tfrecord", None, ".parquet")
_TABLE_ROWS = 4096  # rows of the table of URLs that are read at once


def is_output(names: list[str]) -> bool:
  """Whether the names in a folder are those of img2dataset."""
  return any(map(_STATS.match, names))


def parts(folder: str, names: list[str], field: str) -> list[Part]:
  """Returns a part for each shard, in order.

  Its `of` has the table of URLs, "" if there is none, and whether the shard is
  finished.
  """
  found: dict[str, dict[str | None, str]] = {}
  for name in names:
    if match := _SHARD.match(name.rstrip("/")):
      found.setdefault(match[1], {})[match[2]] = name.rstrip("/")
  finished = {m[1] for m in map(_STATS.match, names) if m}
  made = []
  for shard in sorted({*found, *finished}):
    kinds = found.get(shard, {})
    data = next((kinds[kind] for kind in _ORDER if kind in kinds), "")
    table = kinds.get(".parquet", "")
    made.append(
      Part(
        "img2dataset",
        f"{folder}/{data or shard}",
        shard,
        field,
        of=(
          f"{folder}/{table}" if table and table != data else "",
          f"{folder}/{shard}_stats.json" if shard in finished else "",
        ),
      )
    )
  return made


def read(part: Part) -> Iterator[Sample]:
  """Yields the samples of a shard, then the rows that failed, with reasons.

  A picture that the table calls a success and that the shard lacks is
  `missing_image`. A shard without `_stats.json` gives one sample
  `unfinished_shard` besides what can be read.
  """
  table, stats = part.of
  keys = set()
  for sample in _data(part):
    keys.add(sample.key)
    yield sample
  if table:
    yield from _failures(table, keys)
  elif stats and not part.path.endswith(".parquet"):
    yield from _counted(stats, len(keys))
  if not stats:
    yield Sample("", reason="unfinished_shard")


def _data(part: Part) -> Iterator[Sample]:
  suffix = os.path.splitext(part.path)[1]
  if suffix == ".tar":
    return tars.read(part)
  if suffix == ".tfrecord":
    return tfrecords.read(part)
  if suffix == ".parquet":
    # With a table of URLs alone, nothing was fetched: its rows say why.
    if not parquet_images.is_readable(part.path):
      return _failures(part.path, set())
    return parquet_images.read(part)
  return _files(part)


def _files(part: Part) -> Iterator[Sample]:
  if "://" in part.path:
    raise InputError(
      f"--source: {part.path}: img2dataset's files are read only from this"
      " machine; copy them here, or fetch with --output_format=webdataset"
    )
  groups: dict[str, Members] = {}
  try:
    names = sorted(os.listdir(part.path))
  except OSError:
    names = []  # a shard of which nothing was fetched
  for name in names:
    key, suffix = split_name(encodable(name))

    def read_bytes(path: str = os.path.join(part.path, name)) -> bytes:
      with open(path, "rb") as file:
        return file.read()

    groups.setdefault(key, Members(key)).add(suffix, read_bytes)
  for members in groups.values():
    yield from members.samples(part.field)


def _failures(table: str, seen: set[str]) -> Iterator[Sample]:
  """Yields the rows of a table of URLs whose picture is not in the shard."""
  parquet = need_pyarrow()
  import pyarrow

  try:
    with open_file(table) as file:
      rows = parquet.ParquetFile(file)
      wanted = [
        name
        for name in ("key", "status", "error_message")
        if name in rows.schema_arrow.names
      ]
      for batch in rows.iter_batches(_TABLE_ROWS, columns=wanted):
        for row in batch.to_pylist():
          if (sample := _failure(row)).key not in seen:
            yield sample
  except (OSError, pyarrow.ArrowException):
    yield Sample("", reason="damaged_table")


def _failure(row: Mapping[str, Any]) -> Sample:
  status = row.get("status") or ""
  reason = "missing_image"
  if status != "success":
    reason = reason_of_failure(status, row.get("error_message") or "")
  return Sample(encodable(row.get("key") or ""), reason=reason)


def _counted(stats: str, found: int) -> Iterator[Sample]:
  """Yields what `_stats.json` has counted, where there is no table of URLs."""
  try:
    with open_file(stats) as file:
      counts = json.loads(file.read())
    told = {n: int(counts[n]) for n in ("count", "successes")}
    messages = {str(k): int(v) for k, v in counts["status_dict"].items()}
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    yield Sample("", reason="damaged_table")
    return
  named = 0
  for message, count in messages.items():
    if message == "success":
      continue
    reason = reason_of_failure("failed_to_download", message)
    named += count
    for _ in range(count):
      yield Sample("", reason=reason)
  for _ in range(told["count"] - told["successes"] - named):
    yield Sample("", reason="failed_to_download")
  for _ in range(told["successes"] - found):
    yield Sample("", reason="missing_image")


def left_out(folder: str) -> list[tuple[str, str]]:
  """Returns reason and name of the rows of the list that gave no URL."""
  try:
    with open_file(f"{folder}/{LEFT_OUT}") as file:
      counted = json.loads(file.read())
    found = []
    for reason, entry in counted.items():
      names = entry["examples"]
      names += [""] * (entry["count"] - len(names))
      found += [(reason, name) for name in names]
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise InputError(
      f"{folder}/{LEFT_OUT} cannot be read ({error}); run the recipe again"
    ) from error
  return found
