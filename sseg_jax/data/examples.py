"""The examples of one process: read by Python, decoded and cut by tf.data."""

import functools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from sseg_jax.data import (
  augment,
  decode,
  fields,
  import_tensorflow,
  order,
  records,
  region_views,
  soft_labels,
)
from sseg_jax.data.shards import RecordTable
from sseg_jax.errors import InputError
from sseg_jax.tokenizer import Tokenizer

Batch = dict[str, np.ndarray]

_AHEAD = 2  # batches made while the step runs
_IGNORED = 255
# Fields of a record that are decoded.
_BYTES = (
  "image",
  "labels",
  "soft_labels",
  "pseudo_labels",
  "region_features",  # of all views; the last here
)


class Examples:
  """Makes the dataset of one process's batches.

  The graph of the dataset refers to this object, so this object must not own an
  iterator. Otherwise the two form a cycle, which any thread may free when it
  collects garbage: a thread of tf.data would then wait for itself.

  Args:
    config: the whole configuration.
    table: the records.
    lanes: first and last (exclusive) lane of this process.

  Attributes:
    table: the argument.
    error: the InputError that stopped the dataset; tf.data itself raises an
      error of its own type instead.
  """

  def __init__(self, config: Any, table: RecordTable, lanes: Sequence[int]):
    self.table = table
    self.error: InputError | None = None
    self._config = config
    self._lanes = tuple(lanes)
    lane_count = config.data.lanes
    self._batch_size = (lanes[1] - lanes[0]) * config.batch_size // lane_count
    self._order = order.LaneOrder(
      len(table),
      lanes=lane_count,
      batch_size=config.batch_size,
      window=config.data.shuffle_window,
      seed=config.seed,
      mask_every=config.loss.mask_every,
      bounds=fields.lane_bounds(config, [m.total for m in table.manifests]),
    )
    supervised = config.task == "supervised"
    self._needs_text = not supervised
    self._labels = supervised and all(m.labels for m in table.manifests)
    self._soft = self._labels and soft_labels.wanted(config)
    self._cached = config.pseudo_masks.mode == "cached"
    # Shape of a picture's features, where these take the picture's place.
    self._regions: tuple[int, int] | None = None
    self._views = 1
    if fields.stored_regions(config):
      made = table.manifests[0].info["pseudo_masks"]["region_features"]
      self._views, *shape = region_views.stored(made)
      self._regions = shape[0], shape[1]
    self._pictures = self._regions is None or fields.learns_masks(config)
    self._tokenizer = Tokenizer(config.text.context_length)
    self._tokenize_lock = threading.Lock()

  def forget(self) -> None:
    """Frees the orders of epochs: TensorFlow keeps this object for ever."""
    self._order.forget()

  def dataset(self, start_step: int):
    """Returns the endless tf.data.Dataset of batches."""
    tf = import_tensorflow()
    threads = self._config.data.threads
    ds = tf.data.Dataset.range(start_step, np.iinfo(np.int64).max)
    ds = ds.map(self._read_op, num_parallel_calls=2, deterministic=True)
    ds = decode.batches(
      ds,
      self._decode,
      self._blank(),
      fields=(*_BYTES, "seed", "learns"),
      batch_size=self._batch_size,
      threads=threads,
    )
    empty = self._tokenizer([""])

    def finish(batch):
      text = tf.where(batch["valid"][:, None], batch["text"], empty)
      return dict(batch, id=tf.bitcast(batch["id"], tf.uint32), text=text)

    return ds.map(finish).prefetch(_AHEAD).with_options(decode.options(threads))

  def _read_op(self, step):
    tf = import_tensorflow()
    b = self._batch_size
    names = ("id", *_BYTES, "text", "seed")
    types = (tf.int32, *len(_BYTES) * (tf.string,), tf.int32, tf.int32)
    shapes = ([b], *len(_BYTES) * ([b],), [b, None], [b, 4])
    values = tf.numpy_function(self._read, [step], types, stateful=False)
    for value, shape in zip(values, shapes, strict=True):
      value.set_shape(shape)
    learns = tf.range(b) % self._config.loss.mask_every == 0
    return dict(zip(names, values, strict=True), learns=learns)

  def _read(self, step: np.int64):
    """Reads the records of one step; unreadable ones get an empty image."""
    try:
      ids, epochs = self._order.batch(int(step), *self._lanes)
      keys = functools.partial(order.mix, self._config.seed, ids, epochs)
      choice, word_seed = keys(order.CAPTION), keys(order.CAPTION, 1)
      dropout = self._config.data.word_dropout
      views = region_views.drawn(self._config.seed, ids, epochs, self._views)
      columns: list[list[bytes]] = [[] for _ in _BYTES]
      texts = []
      for i, index in enumerate(ids.tolist()):
        try:
          record = self.table[index]
          caption = caption_of(record, int(choice[i]), self._needs_text)
          if dropout:
            caption = drop_words(caption, dropout, int(word_seed[i]))
          found = [getattr(record, name) or b"" for name in _BYTES]
          part = len(found[-1]) // self._views  # the features of a view
          found[-1] = found[-1][part * views[i] : part * (views[i] + 1)]
        except ValueError as error:
          if isinstance(error, InputError):
            raise
          found, caption = [b""] * len(_BYTES), ""
        for column, value in zip(columns, found, strict=True):
          column.append(value)
        texts.append(caption)
      with self._tokenize_lock:  # it may keep a cache
        text = self._tokenizer(texts)
      # Two seeds of two words for each picture: crop and flip, colours.
      seed = np.stack(
        [keys(order.AUGMENT, 0), keys(order.AUGMENT, 1)], axis=1
      ).view(np.int32)
      return (
        ids.astype(np.uint32).view(np.int32),
        *(np.array(column, object) for column in columns),
        np.asarray(text, np.int32),
        seed,
      )
    except InputError as error:  # tf.data would change it to its own error
      self.error = error
      raise

  def _decode(self, raw):
    """Turns one record's bytes into its part of the batch."""
    tf = import_tensorflow()
    if not self._regions:
      return self._picture(raw)
    features = tf.io.decode_raw(raw["region_features"], tf.float16)
    out = {"region_features": tf.reshape(features, self._regions)}
    if self._pictures:
      nothing = {k: tf.constant(v) for k, v in self._blank_picture().items()}
      out |= tf.cond(raw["learns"], lambda: self._picture(raw), lambda: nothing)
    return out

  def _picture(self, raw):
    """Returns the picture, and the maps that are cut as it is."""
    c = self._config
    tf = import_tensorflow()
    image, crop = decode.box(
      raw["image"],
      lambda size: augment.random_crop(
        size,
        raw["seed"][:2],
        scale=c.data.crop_scale,
        ratio=c.data.crop_ratio,
        flip=c.data.flip,
      ),
    )
    image = augment.resize_box(image, crop, c.image_size)
    out = {"image": augment.to_uint8(image)}
    if c.data.photometric > 0:
      out["teacher_image"] = out["image"]
      out["image"] = augment.to_uint8(
        augment.photometric(image, raw["seed"][2:], c.data.photometric)
      )
    if self._labels:
      labels = decode.labels(raw["labels"])
      out["labels"] = augment.crop_labels(labels, crop, c.image_size)
    if self._soft:
      planes = soft_labels.decode(raw["soft_labels"])
      planes = augment.crop_labels(planes, crop, c.image_size)
      out["soft_labels"] = tf.cast(planes, tf.uint8)
    if self._cached:
      labels = decode.labels(raw["pseudo_labels"])
      size = c.image_size // c.pseudo_masks.stride
      out["pseudo_labels"] = augment.crop_labels(labels, crop, size)
    return out

  def _blank(self) -> Batch:
    """Returns what replaces a record that cannot be read."""
    out: Batch = {}
    if self._regions:
      out["region_features"] = np.zeros(self._regions, np.float16)
    return out | (self._blank_picture() if self._pictures else {})

  def _blank_picture(self) -> Batch:
    c = self._config
    black = np.zeros((c.image_size, c.image_size, 3), np.uint8)
    out = {"image": black}
    if c.data.photometric > 0:
      out["teacher_image"] = black
    if self._labels:
      out["labels"] = np.full(black.shape[:2], _IGNORED, np.int32)
    if self._soft:
      shape = (soft_labels.PLANES, *black.shape[:2])
      out["soft_labels"] = np.zeros(shape, np.uint8)
    if self._cached:
      size = c.image_size // c.pseudo_masks.stride
      out["pseudo_labels"] = np.zeros((size, size), np.int32)
    return out

  def reason(self, index: int) -> str:
    """Decodes a record once more and returns why it is unusable."""
    tf = import_tensorflow()
    try:
      record = self.table[index]
      caption_of(record, 0, self._needs_text)
      decode.image(tf.constant(record.image))
      return "its label map does not decode"
    except (ValueError, tf.errors.OpError) as error:
      return str(getattr(error, "message", error)).splitlines()[0]


def caption_of(record: records.Record, choice: int, needed: bool) -> str:
  """Returns caption `choice` modulo their number; ValueError if it is empty."""
  if not record.captions:
    if needed:
      raise ValueError("a record without captions")
    return ""
  caption = record.captions[choice % len(record.captions)]
  text = caption.decode("utf-8", errors="replace").strip()
  if needed and not text:
    raise ValueError("an empty caption")
  return text


def drop_words(caption: str, share: float, seed: int) -> str:
  """Leaves out words at random, each with probability `share`, but never all.

  Prompts name a single class ("a photo of a cat."), and captions name several
  things. With fewer words, captions are more similar to prompts.
  """
  words = caption.split()
  rng = np.random.Generator(np.random.PCG64(seed))
  kept = rng.random(len(words)) >= share
  if len(words) and not kept.any():
    kept[rng.integers(len(words))] = True
  return " ".join(w for w, keep in zip(words, kept, strict=True) if keep)
