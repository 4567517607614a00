"""Decoding inside tf.data: pictures, and batches with undecodable pictures."""

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
