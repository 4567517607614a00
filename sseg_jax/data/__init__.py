"""The data path: records on disk, and batches made from them.

TensorFlow is imported inside functions of this package alone, through
`import_tensorflow`, so that everything else starts without it.
"""

import functools
import os


@functools.cache
def import_tensorflow():
  """Returns the tensorflow module, hidden from every accelerator.

  TensorFlow would otherwise reserve the memory of a GPU, or fight over a TPU,
  that belongs to JAX.
  """
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  import tensorflow as tf

  for kind in ("GPU", "TPU"):
    try:
      tf.config.set_visible_devices([], kind)
    except RuntimeError:  # the caller used TensorFlow before: too late to hide
      pass
  return tf
