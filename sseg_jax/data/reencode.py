"""Any picture a camera or the web produces -> an upright sRGB JPEG.

Uses Pillow alone; runs in the worker processes of `prepare`.
"""

import functools
import io
import warnings

import numpy as np
from PIL import Image, ImageCms, ImageOps

_ORIENTATION = 0x0112  # EXIF
_MAX_SIDE = 65_500  # JPEG's own limit is 65,535


class Rejected(Exception):
  """A picture that cannot be used; the argument is the reason, one word."""


def to_jpeg(data: bytes, *, short_side: int = 0, quality: int = 95) -> bytes:
  """Returns the picture as an RGB JPEG, upright, 8 bits, in sRGB.

  Args:
    data: an encoded picture in any format Pillow reads.
    short_side: larger pictures are shrunk to it, keeping their shape; smaller
      ones stay; 0 keeps every size.
    quality: of the JPEG.

  Returns:
    The bytes as given where they are such a JPEG of fitting size already.
    Transparency is laid over white; 16 bits are scaled to 8.

  Raises:
    Rejected: `empty_file`, `unreadable`, `too_large` (Pillow's limit against
      decompression bombs, 89 million pixels) or `unsupported_mode`.
  """
  if not data:
    raise Rejected("empty_file")
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      warnings.simplefilter("error", Image.DecompressionBombWarning)
      image = Image.open(io.BytesIO(data))
      return _convert(image, data, short_side, quality)
  except (Image.DecompressionBombWarning, Image.DecompressionBombError):
    raise Rejected("too_large") from None
  except Rejected:
    raise
  except Exception:  # Pillow's plugins raise nearly anything on damaged files
    raise Rejected("unreadable") from None


def _convert(image, data: bytes, short_side: int, quality: int) -> bytes:
  if max(image.size) > _MAX_SIDE:
    raise Rejected("too_large")
  short = min(image.size)
  shrink = bool(short_side) and short > short_side
  size = tuple(
    max(1, round(side * short_side / short)) if shrink else side
    for side in image.size
  )
  upright = image.getexif().get(_ORIENTATION, 1) in (0, 1)
  if (
    image.format == "JPEG"
    and image.mode == "RGB"
    and upright
    and not shrink
    and _is_srgb(image)
  ):
    image.load()  # raises where the file is truncated
    return data
  if shrink and image.format == "JPEG":
    # Lets the decoder shrink by 2, 4 or 8; twice the final size keeps detail.
    image.draft(None, (2 * size[0], 2 * size[1]))
  image = to_rgb(image)
  if shrink:
    image = image.resize(size, Image.Resampling.LANCZOS)
  image = ImageOps.exif_transpose(image)
  out = io.BytesIO()
  # Full chroma: pseudo-masks follow colour edges.
  image.save(
    out, "JPEG", quality=quality, subsampling=0, icc_profile=None, exif=b""
  )
  return out.getvalue()


def to_rgb(image: Image.Image) -> Image.Image:
  """Returns an 8-bit RGB picture of the same appearance, with its EXIF."""
  exif = image.getexif()
  if image.mode.startswith("I;16") or image.mode == "I":
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65_535:
      raise Rejected("unsupported_mode")
    result = Image.fromarray(
      ((values * 255 + 32_767) // 65_535).astype(np.uint8)
    )
  elif image.mode == "F":
    raise Rejected("unsupported_mode")  # nothing says which value is white
  elif image.has_transparency_data:
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    result = Image.alpha_composite(white, rgba)
  else:
    result = image
  if result is image and not _is_srgb(image):
    result = _from_profile(image)
  result = result.convert("RGB")
  # Carried over for exif_transpose: conversions by hand lose it.
  result.info["exif"] = exif.tobytes()
  return result


def _is_srgb(image: Image.Image) -> bool:
  profile = image.info.get("icc_profile")
  return not profile or "sRGB" in _profile_name(profile)


@functools.lru_cache(64)
def _profile_name(profile: bytes) -> str:
  try:
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.getProfileDescription(opened)
  except ImageCms.PyCMSError:
    return "sRGB"  # unreadable: the only sensible guess


def _from_profile(image: Image.Image) -> Image.Image:
  """Applies the embedded colour profile where it fits the picture's mode."""
  profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
  if image.mode == "P":
    image = image.convert("RGB")
  try:
    converted = ImageCms.profileToProfile(
      image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    return converted or image  # None only when asked to work in place
  except ImageCms.PyCMSError:
    return image  # a profile of another colour space than the pixels
