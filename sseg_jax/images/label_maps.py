"""Label maps: the number of the ignored label, reading and checking."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int
from PIL import Image

from sseg_jax.errors import InputError

IGNORED = 255  # label of pixels left out of every score
_IGNORED_16 = 65535  # the same where 255 is a class


def ignored_label(count: int) -> int:
  """Label of ignored pixels where the labels are 0..count-1.

  It is 255, unless 255 is one of the labels: with more than 255 of them it is
  65535, which a label map of 16 bits holds.
  """
  return IGNORED if count <= IGNORED else _IGNORED_16


def read_labels(
  path: str | os.PathLike,
  *,
  max_label: int,
  size: tuple[int, int] | None = None,
) -> Int[np.ndarray, "h w"]:
  """Reads a label map: palette indices or grey values, never palette colours.

  Args:
    path: PNG of mode P, L, 1 or 16-bit grey; TIFF and BMP are read as well.
    max_label: largest label that may occur besides the ignored one.
    size: height and width that it must have; None for any.

  Returns:
    int32 labels, ignored pixels as `ignored_label(max_label + 1)`. InputError
    names the file when it is missing or unreadable, has colours, was compressed
    with loss, has another size, or a label out of range.
  """
  path = Path(path)
  with _opened_labels(path) as image:
    depth = _grey_bits(image)
    try:
      labels = np.asarray(image).astype(np.int32)
    except Exception as error:
      raise _unreadable_labels(path, error) from error
  if depth in (2, 4):
    # Pillow spreads the values of such pixels over 0..255.
    labels //= 255 // (2**depth - 1)
  if size is not None and labels.shape != tuple(size):
    raise InputError(
      f"{path}: labels are {labels.shape[1]}x{labels.shape[0]} but the picture"
      f" is {size[1]}x{size[0]}; both need the same size"
    )
  check_labels(labels, max_label, path)
  return labels


def label_size(path: str | os.PathLike) -> tuple[int, int]:
  """Returns height and width of a label map; only its header is read.

  Raises InputError as `read_labels` does, for faults that the header shows.
  """
  with _opened_labels(Path(path)) as image:
    return image.height, image.width


@contextlib.contextmanager
def _opened_labels(path: Path) -> Iterator[Image.Image]:
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # Pillow's, on metadata and size
      image = Image.open(path)
  except FileNotFoundError as error:
    raise InputError(f"{path}: the label map of an image is missing") from error
  except Exception as error:
    raise _unreadable_labels(path, error) from error
  with image:
    if image.format in ("JPEG", "MPO", "WEBP", "AVIF", "JPEG2000"):
      raise InputError(
        f"{path}: is a {image.format}, which does not keep class numbers;"
        " save them as a palette or grey PNG"
      )
    if image.mode not in ("P", "L", "1", "I", "I;16", "I;16B"):
      raise InputError(
        f"{path}: labels have colours (mode {image.mode}); save class numbers"
        " as a palette or grey PNG"
      )
    yield image


def _unreadable_labels(path: Path, error: Exception) -> InputError:
  reason = str(error).split("\n")[0] or type(error).__name__
  return InputError(
    f"{path}: cannot be read as a label map ({reason}); give a PNG"
  )


def _grey_bits(image: Image.Image) -> int:
  """Bits of a grey value in the file, where they are 2 or 4; else 0."""
  for tile in getattr(image, "tile", ()):
    # The decoder's arguments: the layout of a pixel, alone or first of several.
    raw = tile[3] if isinstance(tile[3], str) else (tile[3] or ("",))[0]
    if str(raw).startswith(("L;2", "L;4")):
      return int(str(raw)[2])
  return 0


def check_labels(labels: np.ndarray, max_label: int, place: object) -> None:
  """InputError if a label is neither in 0..max_label nor the ignored one."""
  ignored = ignored_label(max_label + 1)
  wrong = (labels != ignored) & ((labels > max_label) | (labels < 0))
  if wrong.any():
    raise InputError(
      f"{place}: label {labels[wrong].flat[0]} is out of range; the class list"
      f" allows 0..{max_label} and {ignored} for ignored"
    )
