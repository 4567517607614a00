"""Writes pictures and label maps to files."""

import os
import stat
import warnings
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, PngImagePlugin

from sseg_jax import files
from sseg_jax.errors import InputError
from sseg_jax.images.label_maps import IGNORED

IGNORED_COLOUR = (224, 224, 224)  # light grey
_SOFTWARE = "sseg_jax"


def save(path: str | os.PathLike, image: UInt8[np.ndarray, "h w 3"]) -> None:
  """Writes a picture in the format that the name ends in.

  InputError names a path that cannot be written. A PNG is marked, see
  `is_ours`.
  """
  _write(path, Image.fromarray(image))


def save_labels(
  path: str | os.PathLike,
  labels: Int[np.ndarray, "h w"],
  colours: UInt8[np.ndarray, "c 3"],
) -> None:
  """Writes a label map as a PNG whose values are the labels.

  With at most 255 colours the values are indices of a palette. More classes
  make a grey PNG of 16 bits, without colours.
  """
  if len(colours) > IGNORED:
    _write(path, Image.fromarray(labels.astype(np.uint16)))
    return
  # A palette given to a grey image makes it one of mode P, values unchanged.
  image = Image.fromarray(labels.astype(np.uint8))
  table = np.full((256, 3), IGNORED_COLOUR, np.uint8)
  table[: len(colours)] = colours
  image.putpalette(table.tobytes())
  _write(path, image)


def is_ours(path: str | os.PathLike) -> bool:
  """Whether a file is a PNG that `save` or `save_labels` wrote.

  A link is not: what it points to may lie anywhere.
  """
  try:
    if not stat.S_ISREG(os.lstat(path).st_mode):  # a pipe would wait
      return False
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      with Image.open(path, formats=["PNG"]) as image:
        return image.info.get("Software") == _SOFTWARE
  except Exception:  # not a picture, or a broken one
    return False


def _write(path: str | os.PathLike, image: Image.Image) -> None:
  options: dict[str, Any] = {}
  suffix = os.path.splitext(path)[1].lower()
  if suffix == ".png":
    options["pnginfo"] = info = PngImagePlugin.PngInfo()
    info.add_text("Software", _SOFTWARE)
  elif suffix in (".jpg", ".jpeg", ".webp"):
    options["quality"] = 95  # the default blurs outlines and letters
  try:
    image.save(path, **options)
  except (OSError, ValueError) as error:
    full = isinstance(error, OSError) and error.errno in files.FULL
    remedy = "make room there" if full else "give another --out"
    raise InputError(
      f"{path}: cannot be written ({error}); {remedy}"
    ) from error
