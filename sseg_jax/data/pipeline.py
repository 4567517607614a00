"""Batches from folders of records.

On a first read, go straight to `Examples.dataset`. Python decides which record
goes where (order.py), reads it and its caption; tf.data decodes and augments in
parallel. All randomness is a hash of (seed, record, epoch), so that a batch
depends on (seed, step) alone: not on the number of hosts or threads, nor on
where a run was resumed.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from absl import logging

from sseg_jax.data import (
  augment,
  decode,
  fields,
  import_tensorflow,
  soft_labels,
  stored_masks,
)
from sseg_jax.data.examples import Batch, Examples, caption_of
from sseg_jax.data.shards import RecordTable
from sseg_jax.errors import InputError
from sseg_jax.tokenizer import Tokenizer

_MIN_SEEN = 1000  # records read before the share of bad ones is checked


def train_batches(
  config: Any,
  *,
  folders: Sequence[str] | None = None,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> "TrainBatches":
  """Returns an endless iterator over this process's part of the batches.

  Args:
    config: the whole configuration; see default_config.py.
    folders: folders of records; None means `config.data.train`, split at
      commas.
    start_step: step of the first batch. The batches have the same bits as in a
      run that was not interrupted.
    process_index: number of this process. Its part of the global batch follows
      the parts of the processes before it.
    process_count: must divide `config.data.lanes`.

  Returns:
    Dictionaries of `id` uint32 [b], `valid` bool [b], `image` uint8 [b,h,w,3],
    `text` int32 [b,l]; `labels` int32 [b,h,w] in the supervised task, 255
    ignored, with soft labels `soft_labels` uint8 [b,p,h,w] beside it;
    `pseudo_labels` int32 [b,h/s,w/s] with cached pseudo-masks;
    `teacher_image` if the student's picture is changed. Features of regions,
    `region_features` float16 [b,n,d], take the place of `image` where a frozen
    eye has seen the pictures (`fields.stored_regions`), or stand beside it
    where masks are learned too (`fields.learns_masks`). An unreadable record
    becomes a black picture with empty text and `valid` False.

  Raises:
    InputError: if settings do not fit together or data is missing. The iterator
      raises it if too many records are unreadable.
  """
  return TrainBatches(config, folders, start_step, process_index, process_count)


class TrainBatches:
  """The iterator of `train_batches`.

  Attributes:
    num_records: number of records in the data set, over all processes.
    seen: number of records that this process has read so far.
    bad_records: how many of those were unreadable.
  """

  def __init__(self, config, folders, start_step, process_index, process_count):
    if folders is None:
      folders = [f.strip() for f in config.data.train.split(",") if f.strip()]
    if not folders:
      raise InputError(
        "config.data.train is empty; name one or more folders of records"
      )
    self._config = config
    table = RecordTable(folders)
    self.num_records = len(table)
    self.seen = 0
    self.bad_records = 0
    _check(config, table, process_index, process_count)

    lanes = config.data.lanes // process_count
    self._examples = Examples(
      config, table, (process_index * lanes, (process_index + 1) * lanes)
    )
    self._first_bad = -1
    # tf.data's threads call Python. They must end before the interpreter does,
    # or the process may abort at its exit. `finalize` ends them; it refers to
    # the list, not to this object.
    self._batches = [iter(self._examples.dataset(start_step))]
    self._stop = weakref.finalize(
      self, _end, self._batches, self._examples.forget
    )

  def __iter__(self) -> Iterator[Batch]:
    """Returns itself."""
    return self

  def __next__(self) -> Batch:
    """Returns the next step's batch."""
    if not self._batches:
      raise StopIteration
    tf = import_tensorflow()
    try:
      batch = {k: x.numpy() for k, x in next(self._batches[0]).items()}
    except tf.errors.OpError:
      if self._examples.error is not None:
        raise self._examples.error from None
      raise
    self._count(batch)
    return batch

  def close(self) -> None:
    """Ends the threads; the iterator yields nothing more."""
    self._stop()

  def _count(self, batch: Batch) -> None:
    bad = batch["id"][~batch["valid"]]
    if len(bad) and not self.bad_records:
      self._first_bad = int(bad[0])
      logging.warning(
        "%s cannot be used (%s); such records are masked out and counted",
        self._examples.table.where(self._first_bad),
        self._examples.reason(self._first_bad),
      )
    self.seen += len(batch["id"])
    self.bad_records += len(bad)
    limit = self._config.data.max_bad_share
    if self.seen >= _MIN_SEEN and self.bad_records > limit * self.seen:
      raise InputError(
        f"{self.bad_records} of {self.seen} records cannot be used, more than"
        f" config.data.max_bad_share={limit}, for example"
        f" {self._examples.table.where(self._first_bad)}; write the records"
        " again or raise the limit"
      )


def _end(batches: list, forget: Callable[[], None]) -> None:
  batches.clear()
  forget()


def eval_pairs(
  folder: str,
  *,
  image_size: int,
  context_length: int,
  limit: int = 0,
  captions: int = 1,
  batch_size: int = 64,
  threads: int = 8,
) -> Iterator[Batch]:
  """Yields the pairs of a folder in their order, for retrieval.

  Args:
    folder: folder of records.
    image_size: the short side is resized to it, then the central square is cut.
    context_length: number of tokens of a caption.
    limit: largest number of pairs; 0 means all.
    captions: number of captions of each picture, in their order; a picture with
      fewer repeats them.
    batch_size: pairs in a batch; the last one is filled up with `valid` False.
    threads: number of threads that decode.

  Yields:
    `id`, `valid`, `image` as in `train_batches`, `text` with captions as its
    second axis.
  """
  if captions < 1:
    raise InputError(
      f"evaluate.retrieval_captions={captions}: must be at least 1"
    )
  tokenizer = Tokenizer(context_length)
  pairs = _Pairs(folder, limit, captions, batch_size)
  batches = _decoded(pairs, image_size, threads)
  tf = import_tensorflow()
  try:
    for batch in batches:
      texts = [
        text.decode() if valid else ""
        for row, valid in zip(batch["text"], batch["valid"], strict=True)
        for text in row
      ]
      tokens = np.asarray(tokenizer(texts), np.int32)
      shape = (batch_size, captions, context_length)
      yield dict(batch, text=tokens.reshape(shape))
  except tf.errors.OpError:
    if pairs.error is not None:
      raise pairs.error from None
    raise
  finally:
    pairs.close()


class _Pairs:
  """Batches of encoded pictures and their captions, as Python reads them.

  Attributes:
    captions: number of captions of each picture.
    batch_size: pairs in a batch.
    error: the InputError that ended reading. tf.data changes it to its own.
  """

  def __init__(self, folder: str, limit: int, captions: int, batch_size: int):
    self.captions, self.batch_size = captions, batch_size
    self.error: InputError | None = None
    table = RecordTable([folder])
    self._total = min(limit, len(table)) if limit else len(table)
    if not self._total:
      raise InputError(f"{folder} holds no records; write it again")
    # TensorFlow keeps this object for as long as the process runs; `close`
    # empties the list, so that the files of the table are closed.
    self._tables = [table]

  def close(self) -> None:
    """Closes the files."""
    self._tables.clear()

  def read(self) -> Iterator[dict[str, list]]:
    """Yields the batches; an unreadable record has no image."""
    table = self._tables[0]  # stays open until the last batch is read
    for start in range(0, self._total, self.batch_size):
      ids = range(start, start + self.batch_size)
      images, texts = zip(*(self._pair(table, i) for i in ids), strict=True)
      yield {"id": list(ids), "image": list(images), "text": list(texts)}

  def _pair(self, table: RecordTable, index: int) -> tuple[bytes, list[str]]:
    nothing = b"", [""] * self.captions
    if index >= self._total:
      return nothing
    try:
      record = table[index]
      texts = [caption_of(record, i, True) for i in range(self.captions)]
      return record.image, texts
    except InputError as error:
      self.error = error
      raise
    except ValueError:
      return nothing


def _decoded(
  pairs: _Pairs, image_size: int, threads: int
) -> Iterator[dict[str, np.ndarray]]:
  """Decodes the pictures in `threads` threads and cuts their central square."""
  tf = import_tensorflow()

  def one(raw):
    image = augment.central_square(decode.image(raw["image"]), image_size)
    return {"image": augment.to_uint8(image)}

  b, spec = pairs.batch_size, tf.TensorSpec
  ds = tf.data.Dataset.from_generator(
    pairs.read,
    output_signature={
      "id": spec([b], tf.uint32),
      "image": spec([b], tf.string),
      "text": spec([b, pairs.captions], tf.string),
    },
  )
  blank = {"image": np.zeros((image_size, image_size, 3), np.uint8)}
  ds = decode.batches(ds, one, blank, ("image",), b, threads)
  return ds.with_options(decode.options(threads)).as_numpy_iterator()


def check_lanes(config: Any, process_count: int) -> None:
  """Raises InputError if the batch cannot be split over lanes and processes."""
  if message := fields.lanes(config):
    raise InputError(message)
  lanes, batch = config.data.lanes, config.batch_size
  if lanes % process_count:
    raise InputError(
      f"config.data.lanes={lanes} cannot be split over {process_count}"
      " processes; choose a multiple of their number that divides the batch"
    )
  every = config.loss.mask_every
  if batch // process_count % every:
    raise InputError(
      f"config.loss.mask_every={every} does not divide the"
      f" {batch // process_count} pictures of each of {process_count}"
      " processes; choose a divisor, or a larger batch_size"
    )


def _check(config, table: RecordTable, index: int, count: int) -> None:
  """Raises InputError if settings and data do not fit together."""
  check_lanes(config, count)
  batch = config.batch_size
  if not 0 <= index < count:
    raise ValueError(f"process {index} of {count}")
  if config.data.shuffle_window < 1:
    raise InputError("config.data.shuffle_window must be at least 1")
  folders = ", ".join(m.folder for m in table.manifests)
  if len(table) < batch:
    raise InputError(
      f"{folders}: {len(table)} records, fewer than config.batch_size={batch};"
      " use a smaller batch or more data"
    )
  if len(table) > np.iinfo(np.uint32).max:
    raise InputError(f"{folders}: {len(table)} records do not fit uint32 ids")
  stride = config.pseudo_masks.stride
  for manifest in table.manifests:
    if config.pseudo_masks.mode == "cached" and not manifest.pseudo_labels:
      raise InputError(
        f"{manifest.folder} holds no pseudo-masks for every record, but"
        ' config.pseudo_masks.mode="cached"; write them or use "online"'
      )
    made = manifest.info.get("pseudo_masks", {})
    stored = made.get("k")
    if config.pseudo_masks.mode == "cached":
      stored_masks.tell_of_others(config, made, manifest.folder)
    if config.pseudo_masks.mode == "cached" and stored not in (
      None,
      config.pseudo_masks.k,
    ):
      raise InputError(
        f"{manifest.folder} holds {stored} pseudo-masks a picture, but"
        f" config.pseudo_masks.k={config.pseudo_masks.k}; make the two equal"
      )
    if fields.stored_regions(config):
      stored_masks.check_regions(config, made, manifest.folder)
    if config.task == "supervised" and not manifest.labels:
      raise InputError(
        f"{manifest.folder} holds no label maps for every record, which"
        ' config.task="supervised" needs'
      )
    soft_labels.check(config, manifest)
  if fields.stored_regions(config):
    stored_masks.check_views(table.manifests)
  if (
    config.pseudo_masks.mode == "cached"
    and config.image_size % stride
    and (not fields.stored_regions(config) or fields.learns_masks(config))
  ):
    raise InputError(
      f"config.image_size={config.image_size} is not a multiple of"
      f" config.pseudo_masks.stride={stride}"
    )
