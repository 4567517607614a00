"""Random access to the records of one or more folders."""

import bisect
import functools
import itertools
import os
import struct
import threading
import weakref
from collections.abc import Sequence

import numpy as np

from sseg_jax.data import import_tensorflow, manifest, records
from sseg_jax.errors import InputError

_OPEN_SHARDS = 256  # well below the usual limit of 1024 open files


class _OpenShard:
  """One shard, open for reads at any offset from any thread."""

  def __init__(self, folder: str, shard: manifest.Shard):
    self.path = manifest.join(folder, shard.file)
    self._shard = shard
    self._lock = threading.Lock()
    try:
      if "://" in self.path:
        self._file = import_tensorflow().io.gfile.GFile(self.path, "rb")
        self._fd = None
      else:
        self._fd = os.open(self.path, os.O_RDONLY)
        # Evicted shards may still be read by another thread: the last user's
        # reference closes the file.
        weakref.finalize(self, os.close, self._fd)
    except OSError as error:
      raise InputError(f"cannot open {self.path}: {error}") from error
    self._offsets = self._read_offsets()

  def read(self, row: int) -> bytes:
    """Returns the serialised record `row`; ValueError where it is damaged."""
    start, end = int(self._offsets[row]), int(self._offsets[row + 1])
    data = self._at(start, end - start)
    if len(data) < 16 or struct.unpack_from("<Q", data)[0] != len(data) - 16:
      raise ValueError(f"record {row} of {self.path} is truncated or damaged")
    return data[12:-4]

  def _at(self, offset: int, size: int) -> bytes:
    if self._fd is not None:
      return os.pread(self._fd, size, offset)
    with self._lock:
      self._file.seek(offset)
      return self._file.read(size)

  def _read_offsets(self) -> np.ndarray:
    """Reads the index; where it is missing or wrong, walks the shard."""
    gfile = import_tensorflow().io.gfile
    path = self.path.removesuffix(".tfrecord") + ".index"
    if gfile.exists(path):
      with gfile.GFile(path, "rb") as file:
        data = file.read()
      if len(data) == 8 * (self._shard.count + 1):
        offsets = np.frombuffer(data, "<u8")
        if offsets[-1] == self._shard.bytes and np.all(np.diff(offsets) > 16):
          return offsets
    walked = [0]
    while walked[-1] < self._shard.bytes:
      header = self._at(walked[-1], 8)
      if len(header) < 8:
        break
      walked.append(walked[-1] + struct.unpack("<Q", header)[0] + 16)
    if walked[-1] != self._shard.bytes or len(walked) != self._shard.count + 1:
      raise InputError(
        f"{self.path} is damaged: its records do not add up to"
        f" {self._shard.count} records and {self._shard.bytes} bytes; copy it"
        " again"
      )
    return np.asarray(walked, "<u8")


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
    # Of a function that does not know this table: the last reference to it
    # closes its files, at once.
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
