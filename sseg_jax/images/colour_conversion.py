"""From any mode and colour profile to RGB: 8 bits, sRGB, opaque."""

import functools
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageCms

_BAND_PIXELS = 2**22  # converted at once where a picture is scaled down


def to_rgb(image: Image.Image, factor: int) -> Image.Image:
  """Returns a picture as RGB, each side divided by `factor` and rounded up.

  The colour profile is applied. Transparency is laid over white. Greys of more
  than 8 bits are scaled; `reader.decode` says how.
  """
  convert = _converter(image)
  if factor == 1:
    return convert(image)
  w, h = (-(-side // factor) for side in image.size)
  out = Image.new("RGB", (w, h))
  top = 0
  # Band by band, because the modes in between take several times the memory.
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
  """Returns a function from a band of this picture to opaque 8-bit sRGB."""
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
  """Returns the same for greys of 16 or 32 bits, whose values are scaled."""
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
  """Returns the values of a 16 or 32-bit grey that become black and white."""
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
    if transform := srgb_transform(profile, mode):
      return _applied(transform, image.convert(mode))
  return image if image.mode == "RGB" else image.convert("RGB")


def _applied(
  transform: ImageCms.ImageCmsTransform, image: Image.Image
) -> Image.Image:
  result = ImageCms.applyTransform(image, transform)
  assert result is not None  # it is None only for a change in place
  return result


@functools.cache
def _lab_transform() -> ImageCms.ImageCmsTransform:
  lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
  return ImageCms.buildTransform(lab, srgb, "LAB", "RGB")


@functools.lru_cache(64)
def srgb_transform(
  profile: bytes | None, mode: str
) -> ImageCms.ImageCmsTransform | None:
  """Returns the transform from a mode and an ICC profile to sRGB.

  Returns None where nothing is to be done: there is no profile, or it is
  broken, is of another colour space, or changes nothing (sRGB under any name).
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
  except Exception:  # a broken profile; the pixels are good
    return None
  broken = np.ptp(after) < 64  # the darkest and the brightest look alike
  same = mode != "CMYK" and np.abs(after - before).max() <= 3
  return None if broken or same else transform
