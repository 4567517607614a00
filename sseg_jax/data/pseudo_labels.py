"""Records with pseudo-masks beside their pictures: one shard at a time.

A shard is written under a temporary name and renamed; a small `.done` file
in the same folder stores what it was made from. So a job that was killed
continues after its last complete shard, and several processes can share the
work.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from sseg_jax.data import import_tensorflow, manifest, records
from sseg_jax.errors import InputError


def read_shard(
  source: manifest.Manifest, shard: manifest.Shard
) -> Iterator[records.Record]:
  """Yields the records of one shard in order; InputError if it is damaged."""
  tf = import_tensorflow()
  path = manifest.join(source.folder, shard.file)
  try:
    for serialized in tf.data.TFRecordDataset(path).as_numpy_iterator():
      yield records.parse(serialized)
  except (tf.errors.OpError, ValueError) as error:
    raise InputError(
      f"{path} is damaged ({str(error).splitlines()[0]}); copy it again"
    ) from error


def write_shard(
  folder: str,
  number: int,
  split: str,
  name: str,
  labelled: Iterable[tuple[records.Record, np.ndarray, np.ndarray | None]],
  fingerprint: str,
) -> None:
  """Writes one shard: records, each with what it gets.

  That is a label map uint8 [h, w], and features float16 [views, n, d] of
  regions or None. The other arguments are as for `write_records`.
  """

  def whole() -> Iterator[records.Record]:
    for record, labels, features in labelled:
      found: dict[str, Any] = {"pseudo_labels": records.encode_png(labels)}
      if features is not None:
        found["region_features"] = np.asarray(features, "<f2").tobytes()
      yield dataclasses.replace(record, **found)

  write_records(folder, number, split, name, whole(), fingerprint)


def write_records(
  folder: str,
  number: int,
  split: str,
  name: str,
  found: Iterable[records.Record],
  fingerprint: str,
) -> None:
  """Writes one shard under a temporary name, then renames it.

  Args:
    folder: of the new data set; must exist.
    number: of the shard in its data set.
    split: the first part of the shards' names.
    name: final name of the shard.
    found: the records in their order.
    fingerprint: of all that the records depend on.
  """
  writer = records.ShardWriter(manifest.join(folder, f"{split}-{number:05d}"))
  try:
    for record in found:
      writer.write(records.encode(record))
  finally:
    writer.close()
  gfile = import_tensorflow().io.gfile
  path = _done(folder, name)
  # Remove the `.done` file of an earlier shard, made with other settings.
  if gfile.exists(path):
    gfile.remove(path)
  shard = writer.finish(folder, name)
  with gfile.GFile(path + ".tmp", "w") as file:
    fields = {"fingerprint": fingerprint, **dataclasses.asdict(shard)}
    file.write(json.dumps(fields) + "\n")
  gfile.rename(path + ".tmp", path, overwrite=True)


def finished_shard(
  folder: str, name: str, fingerprint: str
) -> manifest.Shard | None:
  """Returns a shard that `write_shard` finished with this very fingerprint.

  None if there is no such shard, or if the file has another length now.
  """
  gfile = import_tensorflow().io.gfile
  path, written = _done(folder, name), manifest.join(folder, name)
  if not gfile.exists(path) or not gfile.exists(written):
    return None
  try:
    with gfile.GFile(path) as file:
      fields = json.loads(file.read())
    if fields.pop("fingerprint") != fingerprint:
      return None
    shard = manifest.Shard(**fields)
    # Cut short since: write it again.
    return shard if gfile.stat(written).length == shard.bytes else None
  except (ValueError, KeyError, TypeError, AttributeError):
    return None  # cut short: write it again


def finish(
  folder: str,
  source: manifest.Manifest,
  shards: Iterable[manifest.Shard],
  info: Mapping[str, Any],
) -> None:
  """Writes the manifest: the source's, but for the shards and `info`."""
  manifest.write_manifest(
    folder,
    {
      "split": source.split,
      "total": source.total,
      "labels": source.labels,
      "pseudo_labels": source.total > 0,
      "shards": [dataclasses.asdict(shard) for shard in shards],
      "rejected": dict(source.rejected),
      "info": {**source.info, "pseudo_masks": dict(info)},
    },
  )


def _done(folder: str, name: str) -> str:
  return manifest.join(folder, name.removesuffix(".tfrecord") + ".done")
