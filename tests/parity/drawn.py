"""Weights and inputs that need not be stored: drawn alike on every machine.

NumPy keeps the streams of `RandomState` as they are for ever.
"""

import zlib

import numpy as np


def normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Returns float32 normal values that depend on the name alone."""
  state = np.random.RandomState(zlib.crc32(name.encode()))
  return state.standard_normal(shape).astype(np.float32)


def weights(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
  """Draws a torch module's tensors so that signals keep their size.

  Args:
    shapes: by the names of `state_dict`; counters and indices are left out.
  """
  drawn = {}
  for name, shape in shapes.items():
    if name.endswith(("num_batches_tracked", "index", "position_ids")):
      continue
    x = normal(name, tuple(shape))
    if name.endswith("running_var"):
      x = np.exp(x / 2)
    elif len(shape) == 1:
      scale = "norm" in name and name.endswith("weight")
      x = float(scale) + x / 10
    elif "bias_table" not in name and "embed" not in name.split(".")[-2]:
      x *= np.prod(shape[1:]) ** -0.5
    drawn[name] = x
  return drawn
