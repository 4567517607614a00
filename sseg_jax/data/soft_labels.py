"""Soft labels of records: the likeliest classes of each pixel, in 8 bits.

A record with `soft_labels` has `labels` as well, of the same size. A pixel's
label is the first of its `KEPT` classes. `soft_labels` holds the others: planes
uint8 [p, h, w], of which the first half are the numbers of these labels and the
second half their probabilities in 1/255. What is left to 255 is the probability
of the label itself. So an ignored pixel, and one that is sure, has planes of
zeros, which a PNG stores in next to nothing.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from sseg_jax.data import decode as decoding
from sseg_jax.data import import_tensorflow, manifest, records
from sseg_jax.errors import InputError

KEPT = 4  # classes of a pixel; the others' probabilities are shared among them
PLANES = 2 * (KEPT - 1)
# Key of `KEPT` in `Manifest.info`.
KEY = "soft_labels"
FULL = 255  # probability 1


def planes(
  probabilities: Float[np.ndarray, "h w c"], labels: Int[np.ndarray, "h w"]
) -> UInt8[np.ndarray, "p h w"]:
  """Returns the planes of a picture.

  Args:
    probabilities: of the labels 0, 1, …; any scale, not below 0.
    labels: the label of each pixel. One outside 0..c-1 is ignored: its planes
      are 0.
  """
  count = probabilities.shape[-1]
  known = (labels >= 0) & (labels < count)
  own = np.where(known, labels, 0)[..., None]
  of_label = np.take_along_axis(probabilities, own, -1)
  rest = np.array(probabilities, np.float32)
  np.put_along_axis(rest, own, -1, -1)
  # The label itself and classes that do not exist are told by -1.
  more = max(0, KEPT - count)
  rest = np.pad(rest, ((0, 0), (0, 0), (0, more)), constant_values=-1)
  some = np.argpartition(-rest, KEPT - 2, -1)[..., : KEPT - 1]
  order = np.argsort(-np.take_along_axis(rest, some, -1), -1, kind="stable")
  classes = np.take_along_axis(some, order, -1)
  found = np.maximum(np.take_along_axis(rest, classes, -1), 0)
  total = of_label + found.sum(-1, keepdims=True)
  shares = np.rint(FULL * found / np.maximum(total, 1e-12)).astype(int)
  # Rounding up may give one too many.
  shares[..., 0] -= np.maximum(shares.sum(-1) - FULL, 0)
  shares *= known[..., None]
  classes = np.where(shares > 0, classes, 0)
  both = np.concatenate([classes, shares], -1).astype(np.uint8)
  return np.ascontiguousarray(both.transpose(2, 0, 1))


def encode(made: UInt8[np.ndarray, "p h w"]) -> bytes:
  """Returns planes as a greyscale PNG, one below the other."""
  return records.encode_png(made.reshape(-1, made.shape[-1]))


def decode(data: Any) -> Any:
  """Returns the planes of such a PNG, a uint8 tensor [p,h,w], inside tf.data.

  Other PNGs cannot be decoded, as a damaged picture cannot.
  """
  tf = import_tensorflow()
  stacked = decoding.labels(data)
  height, width = tf.unstack(tf.shape(stacked))
  made = tf.reshape(stacked, [PLANES, height // PLANES, width])
  return tf.ensure_shape(made, [PLANES, None, None])


def wanted(config: Any) -> bool:
  """Whether batches of a config have soft labels."""
  return config.task == "supervised" and config.self_training.labels == "soft"


def check(config: Any, source: manifest.Manifest) -> None:
  """Raises InputError unless records hold the soft labels that a config has."""
  if not wanted(config):
    return
  stored = source.info.get(KEY)
  if stored is None:
    raise InputError(
      f"{source.folder} holds no soft labels, which"
      ' self_training.labels="soft" needs; use "hard", or let a run with'
      " self_training.teacher write them"
    )
  if stored != KEPT:
    raise InputError(
      f"{source.folder} holds soft labels of {stored} classes a pixel, this"
      f" package reads {KEPT}; write the labels again"
    )
