"""Pictures and label maps: reading, checking, resizing.

This module needs only NumPy and Pillow. Every picture that is trained on,
scored or segmented is read by `decode`: `read_image` for a file,
`data.reencode` for the records of training.
"""

import contextlib
import dataclasses
import functools
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageCms, JpegImagePlugin

from sseg_jax.errors import InputError
from sseg_jax.images import picture_bytes

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
IGNORED = 255  # label of pixels left out of every score
_IGNORED_16 = 65535  # the same where 255 is a class
# Larger pictures are scaled down by 2, 4, …: class scores take some hundred
# bytes a pixel, and the network sees a few hundred pixels a side.
MAX_PIXELS = 2**25
MAX_SIDE = 65_500  # likewise: a JPEG's sides end at 65,535
# Still larger ones are refused before they are decoded (1 GiB in Pillow). Of
# all formats but JPEG Pillow's own limit holds as well (`MAX_IMAGE_PIXELS`).
LARGEST = 2**28
_LARGEST_FILE = 2**31  # bytes
# Formats whose plug-ins start other programs or read no pixels.
_NOT_PICTURES = ("BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF")
_BAND_PIXELS = 2**22  # converted at once where a picture is scaled down

_ORIENTATION = 0x0112  # EXIF
_UPRIGHT = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
_QUARTER_TURNS = tuple(_UPRIGHT[i] for i in (5, 6, 7, 8))
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
  picture = decode(_bytes(path), path)
  if picture.full_size[0] > picture.image.width:
    _log.warning(
      "%s: %dx%d pixels are too many; it is scaled down to %dx%d",
      path,
      *picture.full_size,
      *picture.image.size,
    )
  return np.asarray(picture.image)


def _bytes(path: str | os.PathLike) -> bytes:
  try:
    with open(os.path.expanduser(path), "rb") as file:
      if os.fstat(file.fileno()).st_size > _LARGEST_FILE:
        raise InputError(
          f"{path}: has more than {_LARGEST_FILE} bytes; give a picture"
        )
      return file.read()
  except FileNotFoundError as error:
    raise InputError(f"{path}: no such picture") from error
  except IsADirectoryError as error:
    raise InputError(
      f"{path}: is a folder; name the pictures in it, e.g. {path}/*.jpg"
    ) from error
  except OSError as error:
    raise InputError(
      f"{path}: cannot be read as a picture ({error.strerror}); check its name"
      " and permissions"
    ) from error
  except ValueError as error:  # a NUL in the name
    raise InputError(f"{str(path)!r}: is not a file's name") from error


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
  turn = _UPRIGHT.get(orientation(image))
  rgb = _to_rgb(image, loaded.factor)
  if short_side and min(rgb.size) > short_side:
    short = min(full_size)
    w, h = (max(1, round(side * short_side / short)) for side in full_size)
    rgb = rgb.resize((w, h), Image.Resampling.LANCZOS)
  is_plain = (
    loaded.is_intact
    and rgb.size == full_size
    and turn is None
    and image.mode == "RGB"
    and _transform(image.info.get("icc_profile"), "RGB") is None
    and picture_bytes.is_common_jpeg(data)
  )
  if turn is not None:
    rgb = rgb.transpose(turn)
    if turn in _QUARTER_TURNS:
      full_size = full_size[::-1]
  return Picture(rgb, full_size, is_plain)


def _completed(data: bytes, name: object, short_side: int) -> _Loaded:
  """Loads a file; a JPEG without its end marker as if it had one."""
  if not picture_bytes.is_jpeg(data) or picture_bytes.is_whole_jpeg(data):
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
    # The decoder divides by 2, 4 or 8 for less than the price of all pixels.
    # Twice the final size keeps detail for the resize that follows.
    wanted = next(
      s
      for s in (8, 4, 2, 1)
      if s <= factor or (short_side and min(w, h) >= 2 * s * short_side)
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


def _to_rgb(image: Image.Image, factor: int) -> Image.Image:
  convert = _converter(image)
  if factor == 1:
    return convert(image)
  w, h = (-(-side // factor) for side in image.size)
  out = Image.new("RGB", (w, h))
  top = 0
  # In bands, since the modes on the way take several times the memory.
  for band in _bands(image, factor):
    part = convert(band).reduce(factor)
    out.paste(part, (0, top))
    top += part.height
  return out


def _bands(image: Image.Image, factor: int = 1) -> Iterator[Image.Image]:
  """Cuts a picture into rows of bands, each a multiple of `factor` high."""
  rows = factor * max(1, _BAND_PIXELS // (image.width * factor))
  for top in range(0, image.height, rows):
    bottom = min(top + rows, image.height)
    yield image.crop((0, top, image.width, bottom))


def _converter(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
  """Returns what makes any band of this picture RGB, 8 bits, sRGB, opaque."""
  profile = image.info.get("icc_profile")
  if image.mode.startswith(("I", "F")):
    return _value_converter(image, profile)
  if not image.has_transparency_data:
    return lambda band: _coloured(band, profile)

  def split(band):
    layers = band.convert("RGBA")
    # With this key, RGB would be made by other rules.
    layers.info.pop("transparency", None)
    return layers.convert("RGB"), layers.getchannel("A")

  is_grey = image.mode in ("1", "L", "LA", "La")
  # A picture that is fully transparent is a mistake: some programs leave alpha
  # at 0.
  is_clear = all(split(b)[1].getextrema()[1] == 0 for b in _bands(image))

  def convert(band):
    rgb, alpha = split(band)
    rgb = _coloured(rgb.getchannel(0) if is_grey else rgb, profile)
    if is_clear:
      return rgb
    return Image.composite(rgb, Image.new("RGB", rgb.size, "white"), alpha)

  return convert


def _value_converter(
  image: Image.Image, profile: Any
) -> Callable[[Image.Image], Image.Image]:
  """The same for greys of 16 or 32 bits, whose values are scaled."""
  black, white = _value_range(image)
  factor = np.float32(255 / (white - black))
  clear = image.info.get("transparency")  # a value, in a PNG
  if not isinstance(clear, int) or (np.asarray(image) == clear).all():
    clear = None

  def convert(band):
    values = np.asarray(band)
    grey = (values.astype(np.float32) - np.float32(black)) * factor
    grey = np.nan_to_num(grey, posinf=255, neginf=0).clip(0, 255)
    rgb = _coloured(Image.fromarray((grey + 0.5).astype(np.uint8)), profile)
    if clear is not None:
      rgb.paste((255, 255, 255), mask=Image.fromarray(values == clear))
    return rgb

  return convert


def _value_range(image: Image.Image) -> tuple[float, float]:
  """Values of a wide grey that become black and white."""
  if image.mode.startswith("I;16"):
    return 0, 65_535
  values = np.asarray(image)
  values = values[np.isfinite(values)]
  if not values.size:
    raise ValueError("none of its values is a number")
  low, high = float(values.min()), float(values.max())
  if low >= 0:
    for white in (1, 255, 65_535) if image.mode == "F" else (255, 65_535):
      if high <= white:
        return 0, white
  return low, max(high, low + 1)


def _coloured(image: Image.Image, profile: Any) -> Image.Image:
  """Returns an opaque picture of 8 bits as sRGB."""
  if image.mode == "LAB":
    return _applied(_lab_transform(), image)
  # The modes in which the profile may describe the pixels.
  modes = {"1": ("L", "RGB"), "L": ("L", "RGB"), "CMYK": ("CMYK",)}
  for mode in modes.get(image.mode, ("RGB",)):
    if transform := _transform(profile, mode):
      return _applied(transform, image.convert(mode))
  return image.convert("RGB")


def _applied(
  transform: ImageCms.ImageCmsTransform, image: Image.Image
) -> Image.Image:
  result = ImageCms.applyTransform(image, transform)
  assert result is not None  # it is None in place alone
  return result


@functools.cache
def _lab_transform() -> ImageCms.ImageCmsTransform:
  lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
  return ImageCms.buildTransform(lab, srgb, "LAB", "RGB")


@functools.lru_cache(64)
def _transform(
  profile: bytes | None, mode: str
) -> ImageCms.ImageCmsTransform | None:
  """What turns pixels of a mode and a profile into sRGB.

  None where nothing is to be done: without a profile, for one of another colour
  space, for one that changes nothing (sRGB, under whatever name) and for a
  broken one.
  """
  if not profile:
    return None
  try:
    transform = ImageCms.buildTransform(
      ImageCms.ImageCmsProfile(io.BytesIO(profile)),
      ImageCms.createProfile("sRGB"),
      mode,
      "RGB",
    )
    channels = Image.getmodebands(mode)
    steps = np.linspace(0, 255, 256 if channels == 1 else 6).astype(np.uint8)
    grid = np.stack(np.meshgrid(*[steps] * channels), -1)
    probe = Image.frombytes(
      mode, (grid.size // channels, 1), np.ascontiguousarray(grid).tobytes()
    )
    before = np.asarray(probe.convert("RGB")).astype(int)
    after = np.asarray(_applied(transform, probe)).astype(int)
  except Exception:  # whatever stands there, the pixels are good
    return None
  broken = np.ptp(after) < 64  # the darkest and the brightest look alike
  same = mode != "CMYK" and np.abs(after - before).max() <= 3
  return None if broken or same else transform


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
  """Height and width of a label map, of which the header alone is read.

  InputError as `read_labels`, as far as the header tells.
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


def interpolation_table(
  source: int, target: int
) -> tuple[Int[np.ndarray, "t"], Int[np.ndarray, "t"], Float[np.ndarray, "t"]]:
  """Bilinear interpolation along one side, half-pixel centres, no antialias.

  Returns:
    For each target pixel the lower and the upper source pixel and the upper
    one's weight (OpenCV's INTER_LINEAR, torch's align_corners=False).
  """
  at = (np.arange(target) + 0.5) * (source / target) - 0.5
  at = np.clip(at, 0, source - 1)
  low = np.floor(at).astype(np.int32)
  high = np.minimum(low + 1, source - 1)
  return low, high, (at - low).astype(np.float32)


def resize(
  image: UInt8[np.ndarray, "h w d"], h: int, w: int
) -> Float[np.ndarray, "{h} {w} d"]:
  """Bilinear resize without antialias, values kept in 0..255 as float32."""
  out = np.asarray(image, np.float32)
  if out.shape[0] != h:
    low, high, weight = interpolation_table(out.shape[0], h)
    out = out[low] + (out[high] - out[low]) * weight[:, None, None]
  if out.shape[1] != w:
    low, high, weight = interpolation_table(out.shape[1], w)
    out = out[:, low] + (out[:, high] - out[:, low]) * weight[:, None]
  return out
