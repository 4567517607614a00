"""Pictures and label maps: reading, checking, resizing.

A leaf: NumPy and Pillow only.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageOps

from sseg_jax.errors import InputError

# Names that end so, in capitals as well, are pictures: the ending of every
# format that `read` takes, as far as this Pillow was built with its decoder.
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
# Above this the class scores of one picture no longer fit a common host.
MAX_PIXELS = 2**25


def has_suffix(path: str | os.PathLike) -> bool:
  """Whether a name ends like a picture's, in small or capital letters."""
  return os.path.splitext(path)[1].lower() in SUFFIXES


def read_image(path: str | os.PathLike) -> UInt8[np.ndarray, "h w 3"]:
  """Reads any picture Pillow knows as RGB, upright.

  EXIF rotation is applied, transparency is laid on white, 16-bit and
  floating-point greys are scaled to 8 bit. InputError names the file when it is
  missing, empty, not a picture, truncated or above `MAX_PIXELS`.
  """
  path = Path(path)
  try:
    with Image.open(path) as image:
      w, h = image.size
      if w * h > MAX_PIXELS:
        raise InputError(
          f"{path}: {w}x{h} pixels are more than {MAX_PIXELS}; scale it down"
        )
      return np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
  except InputError:
    raise
  except FileNotFoundError as error:
    raise InputError(f"{path}: no such picture") from error
  except Image.DecompressionBombError as error:
    raise InputError(
      f"{path}: more than {MAX_PIXELS} pixels; scale it down"
    ) from error
  # Pillow's decoders raise many kinds for broken files (OSError, SyntaxError,
  # ValueError, struct.error among them).
  except Exception as error:
    reason = str(error).split("\n")[0] or type(error).__name__
    raise InputError(
      f"{path}: cannot be read as a picture ({reason}); give a PNG, JPEG or"
      " WebP"
    ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
  if image.mode.startswith(("I", "F")):
    # convert("RGB") would clip these to 0..255 instead of scaling.
    values = np.asarray(image, np.float32)
    top = 65535.0 if image.mode.startswith("I") else max(values.max(), 1e-12)
    grey = np.clip(values * (255.0 / top) + 0.5, 0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")
  if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or (
    "transparency" in image.info
  ):
    layer = image.convert("RGBA")
    ground = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(ground, layer).convert("RGB")
  return image.convert("RGB")


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
