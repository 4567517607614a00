"""Random access to the records of one or more folders.

Every read checks the checksums of the TFRecord file, so that a changed byte
gives a damaged record and not another caption.
"""

import bisect
import functools
import itertools
import os
import threading
import weakref
from collections.abc import Sequence

import numpy as np
from absl import logging

from sseg_jax.data import import_tensorflow, manifest, records, tfrecord_frames
from sseg_jax.errors import InputError

_OPEN_SHARDS = 256  # well below the usual limit of 1024 open files


class _OpenShard:
  """One shard, open for reads at any offset from any thread."""

  def __init__(self, folder: str, shard: manifest.Shard):
    self.path = manifest.join(folder, shard.file)
    self._shard = shard
    self._lock = threading.RLock()
    self._walked = False
    try:
      if "://" in self.path:
        self._file = import_tensorflow().io.gfile.GFile(self.path, "rb")
        self._fd = None
      else:
        self._fd = os.open(self.path, os.O_RDONLY)
        # Another thread may still read a shard that left the cache. So the file
        # closes when the last reference is gone.
        weakref.finalize(self, os.close, self._fd)
    except OSError as error:
      raise InputError(f"cannot open {self.path}: {error}") from error
    self._offsets = self._read_offsets()

  def read(self, row: int) -> bytes:
    """Returns the serialised record `row`; ValueError where it is damaged."""
    offsets = self._offsets
    data = self._frame(offsets, row)
    if not tfrecord_frames.is_frame(data) and self._index_was_wrong(offsets):
      data = self._frame(self._offsets, row)
    if not tfrecord_frames.is_frame(data):
      raise ValueError(
        f"record {row} of {self.path} is damaged: its length or checksum is"
        " wrong"
      )
    return data[tfrecord_frames.HEADER : -tfrecord_frames.FOOTER]

  def _frame(self, offsets: np.ndarray, row: int) -> bytes:
    start, end = int(offsets[row]), int(offsets[row + 1])
    return self._at(start, end - start)

  def _at(self, offset: int, size: int) -> bytes:
    if self._fd is not None:
      return os.pread(self._fd, size, offset)
    with self._lock:
      self._file.seek(offset)
      return self._file.read(size)

  def _read_offsets(self) -> np.ndarray:
    """Reads the index; if it is missing or wrong, reads the shard instead."""
    gfile = import_tensorflow().io.gfile
    path = self.path.removesuffix(".tfrecord") + ".index"
    if gfile.exists(path):
      with gfile.GFile(path, "rb") as file:
        data = file.read()
      if len(data) == 8 * (self._shard.count + 1):
        offsets = np.frombuffer(data, "<u8")
        if (
          offsets[0] == 0
          and offsets[-1] == self._shard.bytes
          and np.all(offsets[:-1] + tfrecord_frames.ROOM < offsets[1:])
        ):
          return offsets
      logging.warning(
        "%s does not fit its shard: the shard is read in its place", path
      )
    walked = self._walk()
    if walked is None:
      raise InputError(
        f"{self.path} is damaged: its records do not add up to"
        f" {self._shard.count} records and {self._shard.bytes} bytes; copy it"
        " again"
      )
    return walked

  def _walk(self) -> np.ndarray | None:
    """Returns the offsets from the records' lengths; None if these are bad."""
    walked = [0]
    while walked[-1] < self._shard.bytes:
      header = self._at(walked[-1], tfrecord_frames.HEADER)
      if not tfrecord_frames.is_header(header):
        return None
      size = tfrecord_frames.length(header)
      walked.append(walked[-1] + tfrecord_frames.ROOM + size)
    if (walked[-1], len(walked)) != (self._shard.bytes, self._shard.count + 1):
      return None
    return np.asarray(walked, "<u8")

  def _index_was_wrong(self, offsets: np.ndarray) -> bool:
    """Compares the index with the shard; if they differ, the shard's are used.

    Called only after a record was found damaged, because reading the length of
    every record is slow. Returns whether the offsets differ.
    """
    with self._lock:
      if not self._walked:
        self._walked = True
        found = self._walk()
        if found is not None and not np.array_equal(found, offsets):
          logging.warning(
            "the index of %s does not fit: the shard is read in its place",
            self.path,
          )
          self._offsets = found
      return self._offsets is not offsets


class RecordTable:
  """The records of several folders as one numbered list.

  The number of a record is its place in the folders' shards, folder by folder:
  the `id` of the batches.
  """

  def __init__(self, folders: Sequence[str]):
    self.manifests = [manifest.read_manifest(folder) for folder in folders]
    self._shards = [(m.folder, s) for m in self.manifests for s in m.shards]
    counts = [shard.count for _, shard in self._shards]
    self._ends = list(itertools.accumulate(counts))
    # The cached function must not refer to this table: then the files close as
    # soon as the last reference to the table is gone.
    shards = self._shards
    self._open = functools.lru_cache(_OPEN_SHARDS)(
      lambda number: _OpenShard(*shards[number])
    )

  def __len__(self) -> int:
    """Number of records."""
    return self._ends[-1] if self._ends else 0

  def _locate(self, index: int) -> tuple[int, int]:
    number = bisect.bisect_right(self._ends, index)
    return number, index - (self._ends[number - 1] if number else 0)

  def where(self, index: int) -> str:
    """Names a record for a message: its shard and place."""
    number, row = self._locate(index)
    folder, shard = self._shards[number]
    return f"record {row} of {manifest.join(folder, shard.file)}"

  def __getitem__(self, index: int) -> records.Record:
    """Returns a record; ValueError if damaged, InputError if its shard is gone.

    Safe to call from many threads.
    """
    number, row = self._locate(index)
    return records.parse(self._open(number).read(row))
