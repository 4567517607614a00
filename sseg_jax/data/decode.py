"""Decoding inside tf.data: pictures, and batches that survive bad ones."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sseg_jax.data import import_tensorflow


def image(data):
  """Decodes JPEG, PNG, GIF or BMP bytes to uint8 [h,w,3]."""
  tf = import_tensorflow()
  picture = tf.cond(
    tf.io.is_jpeg(data),
    # Pillow's method, so that training sees the very pixels that evaluation and
    # prediction see. The default is up to 16 levels off.
    lambda: tf.io.decode_jpeg(data, 3, dct_method="INTEGER_ACCURATE"),
    lambda: tf.io.decode_image(data, 3, expand_animations=False),
  )
  return tf.ensure_shape(picture, [None, None, 3])


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
  """Decodes a dataset of raw batches and puts `blank` where that fails.

  Within a graph an error cannot be caught, only dropped from a dataset. So each
  example carries its slot through a dataset that drops errors, `blank` follows
  at the end, and every slot left over is pointed at it.

  Args:
    ds: tf.data.Dataset of dictionaries of tensors [b, …].
    decode: from `fields` of one example to its part of the batch.
    blank: that part for an example that does not decode.
    fields: names that `decode` takes; the others are passed on.
    batch_size: examples in a batch.
    threads: examples decoded at a time.

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

  # Not a map with `get_single_element`, whose calls would hold threads of the
  # pool that the inner map needs.
  ds = ds.flat_map(one_batch)
  return ds.map(place, num_parallel_calls=2, deterministic=True)


def options(threads: int):
  """Returns the options of a pipeline: deterministic, so many threads."""
  tf = import_tensorflow()
  result = tf.data.Options()
  result.deterministic = True
  result.threading.private_threadpool_size = threads
  result.threading.max_intra_op_parallelism = 1
  return result
