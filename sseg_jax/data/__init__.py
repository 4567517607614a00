"""The data path: records on disk, and batches made from them.

Only functions of this package import TensorFlow, through `import_tensorflow`,
so that everything else starts without it.
"""

import functools
import os
import sys


@functools.cache
def import_tensorflow():
  """Returns the tensorflow module, hidden from every accelerator.

  Otherwise TensorFlow would reserve the memory of a GPU, or try to open a TPU,
  that JAX uses.
  """
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  import tensorflow as tf

  for kind in ("GPU", "TPU"):
    try:
      tf.config.set_visible_devices([], kind)
    except RuntimeError:  # the caller used TensorFlow before: too late to hide
      pass
  return tf


def tensorflow_error(name: str = "OpError") -> tuple[type[Exception], ...]:
  """Returns a class of `tf.errors` for an `except`; () without TensorFlow.

  It does not import TensorFlow: where nothing has, nothing can raise the class.
  """
  errors = getattr(sys.modules.get("tensorflow"), "errors", None)
  return (getattr(errors, name),) if errors else ()
