"""Reads pictures of any format that Pillow knows.

This module needs only NumPy and Pillow. Every picture that is trained on,
scored or segmented is read by `decode`: `read_image` for a file,
`data.reencode` for the records of training. The names of `label_maps` and
`resizing` can be imported from here as well.
"""

import dataclasses
import io
import logging
import os
import warnings

import numpy as np
from jaxtyping import UInt8
from PIL import Image, JpegImagePlugin

from sseg_jax.errors import InputError
from sseg_jax.images import picture_bytes
from sseg_jax.images.colour_conversion import srgb_transform, to_rgb
from sseg_jax.images.label_maps import (
  IGNORED,
  check_labels,
  ignored_label,
  label_size,
  read_labels,
)
from sseg_jax.images.resizing import interpolation_table, resize

__all__ = [
  "IGNORED",
  "LARGEST",
  "MAX_PIXELS",
  "MAX_SIDE",
  "SUFFIXES",
  "BadPicture",
  "Picture",
  "check_labels",
  "decode",
  "has_suffix",
  "ignored_label",
  "interpolation_table",
  "label_size",
  "orientation",
  "read_image",
  "read_labels",
  "resize",
  "scale_factor",
]

# Suffixes of pictures, in small or capital letters: those of every format that
# `read` takes, if this Pillow was built with its decoder.
# .heic and .heif count where a plug-in registered them with Pillow.
# fmt: off
SUFFIXES = tuple(
  suffix
  for suffix in (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".dib",
    ".gif", ".tif", ".tiff", ".avif", ".avifs", ".jp2", ".j2k", ".jpf", ".jpx",
    ".j2c", ".jpc", ".mpo", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga",
    ".qoi", ".heic", ".heif",
  )
  if suffix in Image.registered_extensions()
)
# fmt: on
# Larger pictures are scaled down by 2, 4, …: class scores take some hundred
# bytes a pixel, and the network sees a few hundred pixels a side.
MAX_PIXELS = 2**25
MAX_SIDE = 65_500  # likewise: a JPEG's sides end at 65,535
# Pictures above this size are refused before they are decoded (they take 1 GiB
# in Pillow). For formats other than JPEG, Pillow's own limit holds as well
# (`MAX_IMAGE_PIXELS`).
LARGEST = 2**28
# Each scan of a progressive JPEG, of a few bytes, takes as long as the whole
# picture. Encoders write some ten.
_MOST_SCANS = 500
# Formats whose plug-ins start other programs or read no pixels.
_NOT_PICTURES = ("BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF")

_ORIENTATION = 0x0112  # EXIF
# What makes a picture of each EXIF orientation upright.
UPRIGHT = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
_QUARTER_TURNS = tuple(UPRIGHT[i] for i in (5, 6, 7, 8))
_log = logging.getLogger(__name__)


class BadPicture(InputError):
  """A picture that cannot be used.

  Attributes:
    reason: `empty_file`, `unreadable` or `too_large`.
  """

  def __init__(self, message: str, reason: str):
    """Takes the message for the user and the reason for counting."""
    super().__init__(message)
    self.reason = reason


@dataclasses.dataclass(frozen=True)
class Picture:
  """A decoded picture.

  Attributes:
    image: mode RGB, 8 bits, sRGB, upright.
    full_size: width and height of the upright picture in the file; `image` is
      smaller where that is above `MAX_PIXELS` or `short_side`.
    is_plain: whether the bytes are a JPEG of the very pixels of `image`, of
      which every decoder makes the same.
  """

  image: Image.Image
  full_size: tuple[int, int]
  is_plain: bool


def has_suffix(path: str | os.PathLike) -> bool:
  """Whether a name ends like a picture's, in small or capital letters."""
  return os.path.splitext(path)[1].lower() in SUFFIXES


def read_image(path: str | os.PathLike) -> UInt8[np.ndarray, "h w 3"]:
  """Reads a picture as `decode` does; `~` stands for the home folder.

  A warning is logged where the picture is scaled down. InputError names the
  file when it is missing or `decode` refuses it.
  """
  picture = decode(picture_bytes.read_file(path), path)
  if picture.full_size[0] > picture.image.width:
    _log.warning(
      "%s: %dx%d pixels are too many; it is scaled down to %dx%d",
      path,
      *picture.full_size,
      *picture.image.size,
    )
  return np.asarray(picture.image)


def decode(data: bytes, name: object, *, short_side: int = 0) -> Picture:
  """Decodes a picture of any format that Pillow reads: RGB, 8 bits, upright.

  *   Rotation and colour profile of the file are applied. Metadata that cannot
      be read are left aside.
  *   Transparency is laid over white; a picture that is transparent everywhere
      keeps its colours.
  *   16-bit greys are scaled to 8 bits. Greys of 32 bits, integer or float, are
      taken to end at 1 (floats only), 255 or 65,535, whichever their largest
      value allows; those with negative or larger values are stretched from
      their lowest to their highest value.
  *   Of an animation or several pages the first is taken.
  *   Sides are halved until there are at most `MAX_PIXELS` pixels and at most
      `MAX_SIDE` pixels a side.
  *   A JPEG that lacks nothing but its end marker is taken; one with fewer
      pixels than it states is not.

  Args:
    data: the file's content.
    name: of the picture, for messages.
    short_side: larger pictures are shrunk to it, keeping their shape; smaller
      ones stay; 0 keeps every size.

  Raises:
    BadPicture: the data are empty, no picture, truncated, or one of more than
      `LARGEST` pixels.
  """
  if not data:
    raise BadPicture(f"{name}: the file is empty", "empty_file")
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Pillow's, on metadata and size
    try:
      return _decode(data, name, short_side)
    except BadPicture:
      raise
    except Image.DecompressionBombError as error:
      limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
      what = f"over {limit} pixels, too many for a format other than JPEG"
      raise _too_large(name, what) from error
    # Pillow's decoders raise many kinds for broken files (OSError, SyntaxError,
    # ValueError, struct.error among them).
    except Exception as error:
      reason = " ".join(str(error).split()) or type(error).__name__
      if isinstance(error, Image.UnidentifiedImageError):
        reason = "unknown format"
      remedy = "give a PNG, JPEG or WebP"
      if data[4:8] == b"ftyp" and data[8:12] in _HEIF:
        reason, remedy = "HEIC", "save it as JPEG or PNG"
      raise BadPicture(
        f"{name}: cannot be read as a picture ({reason}); {remedy}",
        "unreadable",
      ) from error


_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def _too_large(name: object, what: str) -> BadPicture:
  return BadPicture(f"{name}: has {what}; scale it down", "too_large")


@dataclasses.dataclass(frozen=True)
class _Loaded:
  """A file as Pillow loads it: not yet upright, in any mode and colours."""

  image: Image.Image
  full_size: tuple[int, int]  # before the decoder scaled it down
  factor: int  # by which the sides are still to be divided
  is_intact: bool  # the bytes decode as they are


def _decode(data: bytes, name: object, short_side: int) -> Picture:
  loaded = _completed(data, name, short_side)
  image, full_size = loaded.image, loaded.full_size
  turn = UPRIGHT.get(orientation(image))
  rgb = to_rgb(image, loaded.factor)
  if short_side and min(rgb.size) > short_side:
    short = min(full_size)
    w, h = (max(1, round(side * short_side / short)) for side in full_size)
    # Half the time of LANCZOS. On COCO photos, JPEGs that were decoded smaller
    # first, the result is 39 dB from it at 448 pixels and 37 dB at 224.
    rgb = rgb.resize((w, h), Image.Resampling.HAMMING)
  is_plain = (
    loaded.is_intact
    and rgb.size == full_size
    and turn is None
    and image.mode == "RGB"
    and srgb_transform(image.info.get("icc_profile"), "RGB") is None
    and picture_bytes.is_common_jpeg(data)
  )
  if turn is not None:
    rgb = rgb.transpose(turn)
    if turn in _QUARTER_TURNS:
      full_size = full_size[::-1]
  return Picture(rgb, full_size, is_plain)


def _completed(data: bytes, name: object, short_side: int) -> _Loaded:
  """Loads a file; a JPEG without its end marker as if it had one."""
  if not picture_bytes.is_jpeg(data):
    return _load(data, name, short_side)
  if picture_bytes.jpeg_scans(data) > _MOST_SCANS:
    raise _too_large(name, f"more than {_MOST_SCANS} scans")
  if picture_bytes.is_whole_jpeg(data):
    return _load(data, name, short_side)
  one, other = (
    _load(whole, name, short_side)
    for whole in picture_bytes.completed_jpegs(data)
  )
  if one.image.tobytes() != other.image.tobytes():
    raise OSError("the file is truncated")
  return dataclasses.replace(one, is_intact=False)


def _load(data: bytes, name: object, short_side: int) -> _Loaded:
  """Loads a file, if need be without its metadata."""
  try:
    return _open(data, name, short_side)
  except (BadPicture, Image.DecompressionBombError):
    raise
  except Exception:
    for copy in picture_bytes.reduced_metadata(data):
      try:
        loaded = _open(copy, name, short_side)
        return dataclasses.replace(loaded, is_intact=False)
      except Exception:
        continue
    raise


def _open(data: bytes, name: object, short_side: int) -> _Loaded:
  scale = 1
  if picture_bytes.is_jpeg(data):
    # Not `Image.open`, whose limit is below what phones take. The first
    # picture of several (MPO) is a JPEG as well.
    image: Image.Image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
  else:
    image = Image.open(io.BytesIO(data), formats=_formats())
  w, h = full_size = image.size
  if w * h > LARGEST:
    raise _too_large(name, f"{w}x{h} pixels, more than {LARGEST}")
  factor = scale_factor(w, h)
  if image.format == "JPEG":
    # The decoder divides by 2, 4 or 8 for less than the price of all pixels. It
    # leaves out the highest frequencies, which the final size has no room for.
    wanted = next(
      s
      for s in (8, 4, 2, 1)
      if s <= factor or (short_side and min(w, h) >= s * short_side)
    )
    if wanted > 1:
      size = max(1, w // wanted), max(1, h // wanted)
      if drafted := image.draft(None, size):
        scale = round(w / drafted[1][2])
  image.load()
  if image.format == "TIFF":
    full_size = image.size  # Pillow turns them itself
  return _Loaded(image, full_size, max(1, factor // scale), True)


def scale_factor(w: int, h: int) -> int:
  """Power of two by which the sides of a picture are divided, rounded up."""
  factor = 1
  while (
    -(-w // factor) * -(-h // factor) > MAX_PIXELS
    or -(-max(w, h) // factor) > MAX_SIDE
  ):
    factor *= 2
  return factor


def _formats() -> list[str]:
  # Read at each call: a plug-in (HEIC has one) may be registered later.
  return [name for name in Image.ID if name not in _NOT_PICTURES]


def orientation(image: Image.Image) -> int:
  """EXIF orientation of an opened file, 1 where there is none to be read."""
  try:
    value = image.getexif().get(_ORIENTATION)
  except Exception:  # anything may stand there
    return 1
  return value if isinstance(value, int) else 1
