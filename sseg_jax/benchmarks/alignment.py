"""How labels are aligned with their picture: one rule for all benchmarks.

A photo may be stored turned, with an EXIF orientation that says how to turn it
upright; pictures are always read upright. Labels were made on either of the
two. Some programs annotate the stored pixels (OpenCV with
IMREAD_IGNORE_ORIENTATION, pycocotools, kwcoco), others the upright picture
(labelme, CVAT, RectLabel, browsers), and neither the COCO format nor a label
map says which. So the size of the labels decides:

*   it is the stored size: the labels are turned as the photo is;
*   it is the upright size: the labels stay as they are;
*   it is both (half a turn, a mirrored or a square photo): this cannot be
    known, and is refused;
*   it is neither: refused, but for masks that can be scaled (COCO), where the
    size has the ratio of one of the two.
"""

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin

from sseg_jax.errors import InputError
from sseg_jax.images import reader

# EXIF orientation -> what brings stored rows and columns upright.
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
  1: lambda x: x,
  2: lambda x: x[:, ::-1],
  3: lambda x: x[::-1, ::-1],
  4: lambda x: x[::-1],
  5: lambda x: x.T,
  6: lambda x: np.rot90(x, -1),
  7: lambda x: x[::-1, ::-1].T,
  8: lambda x: np.rot90(x),
}


@dataclasses.dataclass(frozen=True)
class Photo:
  """Geometry of a picture's file.

  Attributes:
    path: the file.
    size: height and width of the stored pixels.
    orientation: as in EXIF, 1 for upright to 8.
  """

  path: Path
  size: tuple[int, int]
  orientation: int

  @property
  def upright(self) -> tuple[int, int]:
    """Height and width of the picture as it is read."""
    return _turned(self.size, self.orientation)


def photo(path: str | os.PathLike) -> Photo:
  """Reads the header of a picture; InputError if it is no picture."""
  path = Path(path)
  try:
    with warnings.catch_warnings(), _opened(path) as image:
      warnings.simplefilter("ignore")  # Pillow's, on metadata
      size = image.height, image.width
      orientation = reader.orientation(image)
      is_tiff = image.format == "TIFF"
  except Exception:
    # The reader decides whether this is a picture, and raises the error.
    h, w, _ = reader.read_image(path).shape
    return Photo(path, (h, w), 1)
  if orientation not in _UPRIGHT:
    orientation = 1
  if is_tiff:  # Pillow states the upright size of these
    size = _turned(size, orientation)
  return Photo(path, size, orientation)


def _opened(path: Path) -> Image.Image:
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # on sizes, which the reader judges
    try:
      return Image.open(path)
    except Image.DecompressionBombError:
      return JpegImagePlugin.JpegImageFile(path)


def turn_of(
  labels: tuple[int, int] | None,
  picture: Photo,
  *,
  place: object,
  scalable: bool = False,
) -> int:
  """Returns how labels must be turned to fit the upright picture.

  Args:
    labels: their height and width; None if it is not known.
    picture: their picture.
    place: names the labels in messages.
    scalable: whether labels of another size, in the same ratio, are accepted.

  Returns:
    An EXIF orientation for `fit`. InputError if the size is not a size of the
    picture, or if it fits two orientations.
  """
  turned = picture.orientation
  if turned == 1 and labels is None:
    return 1
  fits = [labels == picture.size, labels == picture.upright]
  if labels is None:
    fits = [True, True]
  elif scalable and not any(fits):
    fits = [_in_ratio(labels, s) for s in (picture.size, picture.upright)]
  if not any(fits):
    raise InputError(_mismatch(labels, picture, place, scalable))
  if turned != 1 and all(fits):
    raise InputError(
      f"{picture.path}: EXIF orientation {turned} turns this picture, and"
      f" nothing tells whether {place} was made before or after turning; save"
      " the picture upright, without an orientation, and its labels likewise"
    )
  return turned if fits[0] else 1


def canvas(image: tuple[int, int], turn: int) -> tuple[int, int]:
  """Height and width at which masks are painted, before `fit` turns them."""
  return _turned(image, turn)


def fit(labels: np.ndarray, turn: int, image: tuple[int, int]) -> np.ndarray:
  """Turns labels [h, w] and brings them to the size of the picture as read.

  The sizes differ where a large photo is scaled down as it is read: then the
  nearest pixel counts.
  """
  labels = _UPRIGHT[turn](labels)
  if labels.shape != tuple(image):
    labels = labels[nearest(labels.shape[0], image[0])]
    labels = labels[:, nearest(labels.shape[1], image[1])]
  return np.ascontiguousarray(labels)


def nearest(source: int, target: int) -> np.ndarray:
  """Index of the pixel of `source` in which the centre of each target lies."""
  # 64 bits hold twice the product of any two sides below a thousand million.
  return (2 * np.arange(target, dtype=np.int64) + 1) * source // (2 * target)


def read_labels(
  path: str | os.PathLike,
  picture: str | os.PathLike,
  *,
  max_label: int,
  size: tuple[int, int],
) -> np.ndarray:
  """Reads a label map as it lies on its picture.

  Args:
    path: see `images.reader.read_labels`.
    picture: the file of the picture.
    max_label: largest label that may occur besides the ignored one.
    size: height and width of the picture as it was read.

  Returns:
    int32 labels of that size.
  """
  labels = reader.read_labels(path, max_label=max_label)
  h, w = labels.shape
  return fit(labels, turn_of((h, w), photo(picture), place=path), size)


def check_pairs(pairs: Iterable[tuple[Path, Path]]) -> None:
  """InputError names the first (picture, label map) that cannot be used.

  It reads only headers, so that errors appear before the long work starts.
  """

  def check(pair: tuple[Path, Path]) -> None:
    turn_of(reader.label_size(pair[1]), photo(pair[0]), place=pair[1])

  check_all(check, pairs)


def check_all(check: Callable[[Any], object], items: Iterable[Any]) -> None:
  """Runs a check of many files; the first InputError says how many failed."""

  def error_of(item: Any) -> InputError | None:
    try:
      check(item)
    except InputError as error:
      return error
    return None

  errors = [error for error in map(error_of, items) if error]
  if errors:
    more = f" ({len(errors) - 1} more like this)" if errors[1:] else ""
    raise InputError(f"{errors[0]}{more}") from errors[0]


def _mismatch(labels, picture: Photo, place: object, scalable: bool) -> str:
  (h, w), (ph, pw), (uh, uw) = labels, picture.size, picture.upright
  size = f"{pw}x{ph}"
  if (ph, pw) != (uh, uw):
    size += f" as stored and {uw}x{uh} upright"
  need = "both need the same ratio" if scalable else "both need the same size"
  return f"{place}: labels are {w}x{h} but the picture is {size}; {need}"


def _turned(size: tuple[int, int], orientation: int) -> tuple[int, int]:
  return (size[1], size[0]) if orientation >= 5 else (size[0], size[1])


def _in_ratio(a: tuple[int, int], b: tuple[int, int]) -> bool:
  """Whether one size is the other one scaled, sides rounded to whole pixels."""
  if a[0] * a[1] > b[0] * b[1]:
    a, b = b, a
  # Whether one factor scales both sides of b to within a pixel of a's.
  low = max((small - 1) / large for small, large in zip(a, b, strict=True))
  high = min((small + 1) / large for small, large in zip(a, b, strict=True))
  return low < high
