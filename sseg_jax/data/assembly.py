"""Writes the chosen records of finished parts into shards.

Started again after an interruption, it goes on after the last whole shard. A
part's file is deleted as soon as its records are in whole shards, so the disk
need not hold them twice.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath

from sseg_jax.data import manifest, records, staging
from sseg_jax.data.conversion import Run
from sseg_jax.data.survivors import Survivors


def write_val(
  folder: str,
  parts: list[staging.Staged],
  chosen: Survivors,
  size: int,
  run: Run,
) -> list[manifest.Shard]:
  """Writes the held-out records; `size` is the number of records in a shard."""
  return list(_shards(folder, "val", parts, chosen.val, size, run))


def write_train(
  folder: str,
  parts: list[staging.Staged],
  chosen: Survivors,
  size: int,
  run: Run,
) -> list[manifest.Shard]:
  """Writes all other records, and deletes parts that are done with."""
  starts = staging.positions(parts)
  shards, part, written = [], 0, 0
  for shard in _shards(folder, "train", parts, chosen.train, size, run):
    shards.append(shard)
    written += shard.count
    end = chosen.train[written - 1] + 1
    while part < len(parts) and starts[part + 1] <= end:
      parts[part].path.unlink(missing_ok=True)
      part += 1
  return shards


def _shards(
  folder: str,
  split: str,
  parts: list[staging.Staged],
  numbers: np.ndarray,
  size: int,
  run: Run,
) -> Iterator[manifest.Shard]:
  """Writes shards of `size` records, and yields each in its order."""
  starts = staging.positions(parts)
  of = -(-len(numbers) // size)
  jobs = (
    (folder, split, shard, of, pieces)
    for shard in range(of)
    if (
      pieces := [
        (parts[at].folder, parts[at].number, rows)
        for at, rows in _by_part(
          numbers[shard * size : (shard + 1) * size], starts
        )
      ]
    )
  )
  for shard, _ in enumerate(run(write_shard, jobs)):
    made = finished(folder, split, shard, of)
    assert made is not None
    yield made


def finished(
  folder: str, split: str, number: int, of: int
) -> manifest.Shard | None:
  """Returns a shard that is whole; None if it must be written."""
  done = epath.Path(manifest.join(folder, f"{split}-{number:05d}.done"))
  name = _name(split, number, of)
  if done.exists() and epath.Path(manifest.join(folder, name)).exists():
    try:
      return manifest.Shard(**json.loads(done.read_text()))
    except (ValueError, TypeError):  # cut short
      pass
  return None


def _name(split: str, number: int, of: int) -> str:
  return f"{split}-{number:05d}-of-{of:05d}.tfrecord"


def write_shard(
  folder: str,
  split: str,
  number: int,
  of: int,
  pieces: Sequence[tuple[str, int, np.ndarray]],
) -> None:
  """Writes a shard, if it is not there, and then the file that says so.

  Args:
    folder: of the records.
    split: first part of its name.
    number: of the shard.
    of: how many there are.
    pieces: for each part in turn: the folder of parts, its number, and rows.
  """
  if finished(folder, split, number, of):
    return
  stem = manifest.join(folder, f"{split}-{number:05d}")
  writer = records.ShardWriter(stem)
  try:
    for place, part, rows in pieces:
      for fields in staging.Staged(place, part).read(rows):
        writer.write(records.encode(records.Record(**fields)))
  finally:
    writer.close()
  shard = writer.finish(folder, _name(split, number, of))
  epath.Path(f"{stem}.done").write_text(json.dumps(dataclasses.asdict(shard)))


def _by_part(numbers: np.ndarray, starts: np.ndarray):
  """Yields runs of records of one part: the part, and rows within it."""
  at = np.searchsorted(starts, numbers, "right") - 1
  cuts = np.flatnonzero(np.diff(at)) + 1
  for run in np.split(np.arange(len(numbers)), cuts):
    yield int(at[run[0]]), numbers[run] - starts[at[run[0]]]


def finish(
  folder: str,
  split: str,
  shards: list[manifest.Shard],
  rejected: dict,
  info: dict,
) -> None:
  """Writes the manifest of a split, and deletes what only a restart needs."""
  manifest.write_manifest(
    folder,
    {
      "split": split,
      "total": sum(shard.count for shard in shards),
      "labels": False,
      "pseudo_labels": False,
      "shards": [dataclasses.asdict(shard) for shard in shards],
      "rejected": rejected,
      "info": info,
    },
  )
  tidy(folder)


def tidy(folder: str) -> None:
  """Deletes what only the restart of an unfinished write needs."""
  for path in epath.Path(folder).glob("*.done"):
    path.unlink()
