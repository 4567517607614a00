"""Pictures and label maps: reading, checking, resizing.

A leaf: NumPy and Pillow only.
"""

import os
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


def read_labels(
  path: str | os.PathLike, *, max_label: int, size: tuple[int, int]
) -> Int[np.ndarray, "h w"]:
  """Reads a label map: palette indices or grey values, never palette colours.

  Args:
    path: PNG of mode P, L, 1 or 16-bit grey.
    max_label: largest label that may occur besides 255.
    size: height and width of its picture.

  Returns:
    int32 labels. InputError names the file when it is missing or unreadable,
    has colours, another size than its picture, or a label out of range.
  """
  path = Path(path)
  try:
    with Image.open(path) as image:
      if image.mode not in ("P", "L", "1", "I", "I;16"):
        raise InputError(
          f"{path}: labels have colours (mode {image.mode}); save class numbers"
          " as a palette or grey PNG"
        )
      labels = np.asarray(image).astype(np.int32)
  except InputError:
    raise
  except FileNotFoundError as error:
    raise InputError(f"{path}: the label map of an image is missing") from error
  except Exception as error:
    raise InputError(
      f"{path}: cannot be read as a label map ({error}); give a PNG"
    ) from error
  if labels.shape != tuple(size):
    raise InputError(
      f"{path}: labels are {labels.shape[1]}x{labels.shape[0]} but the picture"
      f" is {size[1]}x{size[0]}; both need the same size"
    )
  check_labels(labels, max_label, path)
  return labels


def check_labels(labels: np.ndarray, max_label: int, place: object) -> None:
  """InputError if a label is neither 255 nor in 0..max_label."""
  wrong = (labels != IGNORED) & ((labels > max_label) | (labels < 0))
  if wrong.any():
    raise InputError(
      f"{place}: label {labels[wrong].flat[0]} is out of range; the class list"
      f" allows 0..{max_label} and 255 for ignored"
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
