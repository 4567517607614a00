"""Records on disk: TFRecord shards, an index beside each, and a manifest.

A data set is one folder:

    train-00000-of-00002.tfrecord   tf.train.Example, one a record
    train-00000-of-00002.index      uint64 little-endian: the byte offset of
                                    each record, then the size of the shard
    manifest.json                   see manifest.py; written last

Fields of an example: `key`, `image` (encoded), `captions` (repeated), and where
present `pseudo_labels` (PNG), `region_features` (float16), `labels` (PNG),
`soft_labels` (PNG), `source`, `license`.
"""

import contextlib
import dataclasses
import hashlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from sseg_jax import files
from sseg_jax.data import example_proto, import_tensorflow, tfrecord_frames
from sseg_jax.data.manifest import (
  Manifest,
  Shard,
  clear,
  is_finished,
  join,
  place,
  read_manifest,
  write_manifest,
)
from sseg_jax.errors import InputError
from sseg_jax.runtime import lease

__all__ = [
  "Manifest",
  "Record",
  "RecordWriter",
  "ShardWriter",
  "encode",
  "encode_png",
  "parse",
  "read",
  "read_manifest",
]

MAX_EXAMPLES = 20  # names kept for each reason of rejection


@dataclasses.dataclass(frozen=True)
class Record:
  """One picture with its captions.

  Attributes:
    key: unique name within the data set.
    image: encoded picture (JPEG or PNG).
    captions: UTF-8, at least one for training on text.
    pseudo_labels: 8-bit greyscale PNG of cached pseudo-masks, at any size.
    region_features: float16, little-endian, of each region that a frozen eye
      sees; their number and width are in the manifest.
    labels: 8-bit greyscale PNG of a label map, 255 ignored, at any size.
    soft_labels: what else each pixel of `labels` may be; see `soft_labels.py`.
    source: where the picture came from, such as its URL.
    license: licence as the source states it.
  """

  key: bytes
  image: bytes
  captions: tuple[bytes, ...] = ()
  pseudo_labels: bytes | None = None
  labels: bytes | None = None
  source: bytes | None = None
  license: bytes | None = None
  region_features: bytes | None = None
  soft_labels: bytes | None = None


def encode_png(array: np.ndarray) -> bytes:
  """Encodes uint8 [h,w] (a label map) or [h,w,3] (a picture) as PNG.

  Label maps must be greyscale: the reader would decode a palette to colours.
  """
  from PIL import Image

  if array.dtype != np.uint8:
    raise ValueError(f"encode_png takes uint8, got {array.dtype}")
  out = io.BytesIO()
  Image.fromarray(array).save(out, format="PNG")
  return out.getvalue()


def encode(record: Record) -> bytes:
  """Serialises a record as a tf.train.Example."""
  values = {
    "key": (record.key,),
    "image": (record.image,),
    "captions": record.captions,
  }
  for name in (
    "pseudo_labels",
    "labels",
    "source",
    "license",
    "region_features",
    "soft_labels",
  ):
    value = getattr(record, name)
    if value is not None:
      values[name] = (value,)
  made = example_proto.example()()
  for name, value in values.items():
    made.features.feature[name].bytes_list.value.extend(value)
  # Sorted maps: the same records give the same shards, byte for byte.
  return made.SerializeToString(deterministic=True)


def parse(serialized: bytes) -> Record:
  """Reads what `encode` wrote; raises ValueError where it is damaged."""
  try:
    feature = example_proto.example().FromString(serialized).features.feature
  except Exception as error:  # protobuf's DecodeError has no stable home
    raise ValueError(f"not a tf.train.Example: {error}") from error

  def one(name: str) -> bytes | None:
    values = feature[name].bytes_list.value if name in feature else ()
    return values[0] if values else None

  key, image = one("key"), one("image")
  if key is None or image is None:
    raise ValueError("a record without `key` or `image`")
  captions = feature["captions"].bytes_list.value
  return Record(
    key=key,
    image=image,
    captions=tuple(captions),
    pseudo_labels=one("pseudo_labels"),
    labels=one("labels"),
    source=one("source"),
    license=one("license"),
    region_features=one("region_features"),
    soft_labels=one("soft_labels"),
  )


def read(folder: str) -> Iterator[Record]:
  """Yields the records of a folder in their order, checking each checksum."""
  tf = import_tensorflow()
  manifest = read_manifest(folder)
  for shard in manifest.shards:
    path = join(manifest.folder, shard.file)
    for serialized in tf.data.TFRecordDataset(path).as_numpy_iterator():
      yield parse(serialized)


class ShardWriter:
  """One shard under a temporary name, with the offsets of its records."""

  def __init__(self, stem: str):
    self.stem = stem
    self.offsets = [0]
    self._digest = hashlib.sha256()
    # Of a bucket, `epath` opens no file but something to enter.
    self._opened = contextlib.ExitStack()
    self._file = self._opened.enter_context(
      place(f"{stem}.tfrecord.tmp").open("wb")
    )

  def write(self, serialized: bytes) -> None:
    """Appends a serialised record."""
    frame = tfrecord_frames.frame(serialized)
    self._file.write(frame)
    self._digest.update(frame)
    self.offsets.append(self.offsets[-1] + len(frame))

  def close(self) -> None:
    """Ends the writing; the name stays temporary."""
    self._opened.close()

  def finish(self, folder: str, name: str) -> Shard:
    """Gives the closed shard its final name and writes the index."""
    path = place(join(folder, name))
    place(f"{self.stem}.tfrecord.tmp").replace(path)
    path.with_suffix(".index").write_bytes(
      np.asarray(self.offsets, "<u8").tobytes()
    )
    return Shard(
      file=name,
      count=len(self.offsets) - 1,
      bytes=self.offsets[-1],
      sha256=self._digest.hexdigest(),
    )


def count_rejection(
  counted: dict[str, dict[str, Any]], reason: str, name: str
) -> None:
  """Counts a rejection in `counted`: reason -> {"count", "examples"}.

  Examples are the first `MAX_EXAMPLES` names of a reason.
  """
  entry = counted.setdefault(reason, {"count": 0, "examples": []})
  entry["count"] += 1
  if len(entry["examples"]) < MAX_EXAMPLES:
    entry["examples"].append(name)


class RecordWriter:
  """Writes a folder of records; a context manager.

  The manifest is written when the block ends without an exception, last and in
  one rename: a write that fails or is killed leaves a folder that no reader
  accepts, and that the next writer cleans.

      with RecordWriter(folder, shard_size=1000) as writer:
        writer.write(Record(key=b"0", image=png, captions=(b"a red square",)))
        writer.info["generator"] = "shapes"

  Args:
    folder: created where missing; local or remote.
    num_shards: number of shards; records go to them in turn.
    shard_size: records of a shard. Give either this or `num_shards`.
    split: the first part of the shards' names.
    overwrite: replaces a finished data set; otherwise it is an InputError.
  """

  def __init__(
    self,
    folder: str,
    *,
    num_shards: int | None = None,
    shard_size: int | None = None,
    split: str = "train",
    overwrite: bool = False,
  ):
    if (num_shards is None) == (shard_size is None):
      raise ValueError("give either num_shards or shard_size")
    if (num_shards or shard_size or 0) < 1:
      raise InputError("num_shards and shard_size must be at least 1")
    self.info: dict[str, Any] = {}
    self.rejected: dict[str, dict[str, Any]] = {}
    self.total = 0
    self._folder = files.expand(folder)
    self._num_shards = num_shards
    self._shard_size = shard_size
    self._split = split
    self._overwrite = overwrite
    self._shards: list[ShardWriter] = []
    self._lease: lease.Lease | None = None
    self._with_labels = 0
    self._with_pseudo_labels = 0

  def __enter__(self) -> "RecordWriter":
    """Creates the folder, or cleans it of an unfinished write.

    Raises:
      InputError: for a folder that is finished, or cannot be written.
      Unavailable: if another process is writing there.
    """
    if is_finished(self._folder) and not self._overwrite:
      raise InputError(
        f"{self._folder} holds finished records; delete them or choose another"
        " folder"
      )
    # Without the lease, another writer would delete the files of this one.
    self._lease = lease.Lease(self._folder, field="out")
    clear(self._folder)
    for _ in range(self._num_shards or 0):
      self._open()
    return self

  def _open(self) -> None:
    stem = join(self._folder, f"{self._split}-{len(self._shards):05d}")
    self._shards.append(ShardWriter(stem))

  def write(self, record: Record) -> None:
    """Appends one record."""
    if self._shard_size is None:
      shard = self._shards[self.total % len(self._shards)]
    else:
      if self.total % self._shard_size == 0:
        if self._shards:
          self._shards[-1].close()
        self._open()
      shard = self._shards[-1]
    shard.write(encode(record))
    self.total += 1
    self._with_labels += record.labels is not None
    self._with_pseudo_labels += record.pseudo_labels is not None

  def reject(self, reason: str, name: str) -> None:
    """Counts a record left out, and keeps the first names of each reason."""
    count_rejection(self.rejected, reason, name)

  def __exit__(self, kind, error, traceback) -> None:
    """Finishes the data set, or after an exception deletes it."""
    assert self._lease is not None
    with self._lease:
      self._end(failed=kind is not None)

  def _end(self, failed: bool) -> None:
    for shard in self._shards:
      shard.close()
    if failed:
      clear(self._folder)
      return
    of = len(self._shards)
    shards = [
      shard.finish(self._folder, f"{self._split}-{i:05d}-of-{of:05d}.tfrecord")
      for i, shard in enumerate(self._shards)
    ]
    write_manifest(
      self._folder,
      {
        "split": self._split,
        "total": self.total,
        "labels": 0 < self.total == self._with_labels,
        "pseudo_labels": 0 < self.total == self._with_pseudo_labels,
        "shards": [dataclasses.asdict(shard) for shard in shards],
        "rejected": self.rejected,
        "info": self.info,
      },
    )
