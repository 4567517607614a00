"""Reads a visitor's picture, at the size at which the page works."""

import math
import os
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sseg_jax.errors import InputError
from sseg_jax.images import reader
from sseg_jax.page.limits import Limits

# Sides are shrunk to it: networks see a few hundred pixels, and screens show
# little more.
SHORT_SIDE = 768
_MOST = 2**20  # pixels, which matters for long and narrow pictures


def read(
  path: str | os.PathLike, limits: Limits
) -> tuple[UInt8[np.ndarray, "h w 3"], bool]:
  """Reads a picture that was uploaded.

  Args:
    path: of the file.
    limits: its pixels are counted before they are decoded.

  Returns:
    The pixels, and whether they are fewer than the file's.

  Raises:
    InputError: it is no picture, is broken, or is too large. One line, without
      the folder of the file.
  """
  name = Path(path).name
  try:
    data = Path(path).read_bytes()
  except OSError as error:
    raise InputError(
      f"{name}: is no longer here; give the picture again"
    ) from error
  _check_size(path, name, limits)
  picture = reader.decode(data, name, short_side=SHORT_SIDE)
  image = picture.image
  w, h = image.size
  if w * h > _MOST:
    factor = math.sqrt(_MOST / (w * h))
    size = max(1, int(w * factor)), max(1, int(h * factor))
    image = image.resize(size, Image.Resampling.LANCZOS)
  return np.asarray(image), image.size != picture.full_size


def _check_size(path: str | os.PathLike, name: str, limits: Limits) -> None:
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Pillow's, on metadata and size
    try:
      with Image.open(path) as image:
        w, h = image.size
    except Exception:  # the reader says what is wrong with it
      return
  if w * h > limits.megapixels * 10**6:
    raise InputError(
      f"{name}: has {w}x{h} pixels; this page takes {limits.megapixels}"
      " megapixels: give a smaller picture"
    )
