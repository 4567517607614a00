"""Writes the chosen records of finished parts into shards.

Started again after an interruption, it goes on after the last whole shard. A
part's file is deleted as soon as its records are in whole shards, so the disk
need not hold them twice.
"""

import dataclasses
import json

import numpy as np
from etils import epath

from sseg_jax.data import manifest, records, staging
from sseg_jax.data.survivors import Survivors


def write_val(
  folder: str, parts: list[staging.Staged], chosen: Survivors, size: int
) -> list[manifest.Shard]:
  """Writes the held-out records; `size` is the number of records in a shard."""
  starts = staging.positions(parts)
  return [
    _shard(folder, "val", number, numbers, of, parts, starts)
    for number, of, numbers in _cut(chosen.val, size)
  ]


def write_train(
  folder: str,
  parts: list[staging.Staged],
  chosen: Survivors,
  size: int,
) -> list[manifest.Shard]:
  """Writes all other records, and deletes parts that are done with."""
  starts = staging.positions(parts)
  shards, part = [], 0
  for number, of, numbers in _cut(chosen.train, size):
    shards.append(_shard(folder, "train", number, numbers, of, parts, starts))
    while part < len(parts) and starts[part + 1] <= numbers[-1] + 1:
      parts[part].path.unlink(missing_ok=True)
      part += 1
  return shards


def _cut(numbers: np.ndarray, size: int):
  """Yields the number of each shard, of how many, and its records."""
  of = -(-len(numbers) // size)
  for shard in range(of):
    yield shard, of, numbers[shard * size : (shard + 1) * size]


def _shard(
  folder: str,
  split: str,
  number: int,
  numbers: np.ndarray,
  of: int,
  parts: list[staging.Staged],
  starts: np.ndarray,
) -> manifest.Shard:
  stem = manifest.join(folder, f"{split}-{number:05d}")
  name = f"{split}-{number:05d}-of-{of:05d}.tfrecord"
  done = epath.Path(f"{stem}.done")
  if done.exists():
    try:
      shard = manifest.Shard(**json.loads(done.read_text()))
      if epath.Path(manifest.join(folder, name)).exists():
        return shard
    except (ValueError, TypeError):  # cut short
      pass
  writer = records.ShardWriter(stem)
  try:
    for at, rows in _by_part(numbers, starts):
      for fields in parts[at].read(rows):
        writer.write(records.encode(records.Record(**fields)))
  finally:
    writer.close()
  shard = writer.finish(folder, name)
  done.write_text(json.dumps(dataclasses.asdict(shard)))
  return shard


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
  for path in epath.Path(folder).glob("*.done"):
    path.unlink()
