"""Decoding inside tf.data: pictures, and batches with undecodable pictures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sseg_jax.data import import_tensorflow

# Pillow's method, so that training sees the very pixels that evaluation and
# prediction see. The default is up to 16 levels off.
METHOD = "INTEGER_ACCURATE"
# Pixels around a box that are decoded as well: where a JPEG holds colours in
# half the resolution, those at the border depend on their neighbours.
_MARGIN = 16


def image(data):
  """Decodes JPEG, PNG, GIF or BMP bytes to uint8 [h,w,3]."""
  tf = import_tensorflow()
  picture = tf.cond(
    tf.io.is_jpeg(data),
    lambda: tf.io.decode_jpeg(data, 3, dct_method=METHOD),
    lambda: tf.io.decode_image(data, 3, expand_animations=False),
  )
  return tf.ensure_shape(picture, [None, None, 3])


def box(data, draw: Callable[[Any], Any]):
  """Decodes a box of a picture; of a JPEG little more than the box.

  Args:
    data: JPEG, PNG, GIF or BMP bytes.
    draw: maps the picture's height and width, int32 [2], to an `augment.Crop`.

  Returns:
    uint8 [h,w,3], the same pixels as of `image`, and the crop.
  """
  tf = import_tensorflow()

  def look():
    whole = tf.io.decode_image(data, 3, expand_animations=False)
    whole = tf.ensure_shape(whole, [None, None, 3])
    return tf.shape(whole)[:2], whole

  is_jpeg = tf.io.is_jpeg(data)
  size, whole = tf.cond(
    is_jpeg,
    lambda: (tf.io.extract_jpeg_shape(data)[:2], tf.zeros([0, 0, 3], tf.uint8)),
    look,
  )
  crop = draw(size)
  where = tf.cast(crop.box, tf.int32)
  first, sides = where[:2], where[2:]

  def of_jpeg():
    start = tf.maximum(first - _MARGIN, 0)
    end = tf.minimum(first + sides + _MARGIN, size)
    window = tf.concat([start, end - start], 0)
    part = tf.io.decode_and_crop_jpeg(data, window, 3, dct_method=METHOD)
    return part, first - start

  part, at = tf.cond(is_jpeg, of_jpeg, lambda: (whole, first))
  part = tf.slice(part, tf.concat([at, [0]], 0), tf.concat([sides, [3]], 0))
  return tf.ensure_shape(part, [None, None, 3]), crop


def labels(data):
  """Decodes a greyscale PNG to uint8 [h,w]."""
  return import_tensorflow().io.decode_png(data, channels=1)[..., 0]


def batches(
  ds: Any,
  decode: Callable,
  blank: Mapping[str, np.ndarray],
  fields: Sequence[str],
  batch_size: int,
  threads: int,
) -> Any:
  """Decodes a dataset of raw batches; `blank` replaces undecodable examples.

  A graph cannot catch an error; a dataset can only drop the example. So each
  example keeps its place in the batch as a number, `blank` is added at the end,
  and every place whose example was dropped takes `blank`.

  Args:
    ds: tf.data.Dataset of dictionaries of tensors [b, …].
    decode: maps `fields` of one example to its part of the batch.
    blank: the part of the batch for an example that cannot be decoded.
    fields: names that `decode` takes; other fields are not changed.
    batch_size: examples in a batch.
    threads: number of examples decoded at the same time.

  Returns:
    tf.data.Dataset of dictionaries: what was passed on, what `decode` made, and
    `valid` bool [b].
  """
  tf = import_tensorflow()

  def one_batch(raw):
    examples = {k: raw[k] for k in fields} | {"slot": tf.range(batch_size)}
    inner = tf.data.Dataset.from_tensor_slices(examples)
    inner = inner.map(
      lambda x: dict(decode(x), slot=x["slot"]),
      num_parallel_calls=threads,
      deterministic=True,
    )
    inner = inner.ignore_errors()
    last = {k: tf.constant(v) for k, v in blank.items()}
    last["slot"] = tf.constant(batch_size)
    inner = inner.concatenate(tf.data.Dataset.from_tensors(last))
    passed = {k: v for k, v in raw.items() if k not in fields}
    return inner.batch(batch_size + 1).map(lambda out: (out, passed))

  def place(out, passed):
    out = dict(out)
    slot = out.pop("slot")
    count = tf.shape(slot)[0]
    source = tf.tensor_scatter_nd_update(
      tf.fill([batch_size + 1], count - 1), slot[:, None], tf.range(count)
    )[:-1]
    placed = {k: tf.gather(v, source) for k, v in out.items()}
    return dict(passed, valid=source < count - 1, **placed)

  # A map with `get_single_element` would block threads of the pool that the
  # inner map needs.
  ds = ds.flat_map(one_batch)
  return ds.map(place, num_parallel_calls=2, deterministic=True)


def options(threads: int):
  """Returns the options of a deterministic pipeline with `threads` threads."""
  tf = import_tensorflow()
  result = tf.data.Options()
  # Every number of threads is given. The thread that would tune them sleeps, at
  # each look twice as long, and who closes an iterator waits for it: 10 s in a
  # short run, up to a minute in a long one.
  result.autotune.enabled = False
  result.deterministic = True
  result.threading.private_threadpool_size = threads
  result.threading.max_intra_op_parallelism = 1
  return result
