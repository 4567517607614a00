"""Pictures as a caller gives them: path, address, bytes, Pillow or NumPy."""

import os
import urllib.error
import urllib.request
import warnings
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sseg_jax import __version__
from sseg_jax.errors import InputError
from sseg_jax.images import reader
from sseg_jax.images.colour_conversion import to_rgb

_SECONDS = 30  # to wait for a server
_LARGEST_DOWNLOAD = 2**28  # bytes
_SCHEMES = ("http://", "https://")
# Beyond it, values of a float picture are no rounding of 0..1.
_SLACK = 1e-3


def pixels(image: Any) -> UInt8[np.ndarray, "h w 3"]:
  """Returns the RGB pixels of a picture, upright, 8 bits.

  Args:
    image: one of
      *   the path of a file, or an address that starts with http:// or
          https://;
      *   the content of such a file, as bytes;
      *   a Pillow picture of any mode, whose rotation and colour profile are
          applied;
      *   an array [h, w], [h, w, 1] (grey), [h, w, 3] (RGB) or [h, w, 4] (RGBA,
          laid over white): integers are taken as 0..255, uint16 as 0..65,535,
          booleans as black and white, floats as 0..1.

  Raises:
    InputError: it is none of these, or holds no picture. One line.
  """
  if isinstance(image, str) and image.lower().startswith(_SCHEMES):
    return _decoded(download(image), image)
  if isinstance(image, str | os.PathLike):
    return reader.read_image(image)
  if isinstance(image, bytes | bytearray | memoryview):
    return _decoded(bytes(image), "the picture given as bytes")
  if isinstance(image, Image.Image):
    return _of_pillow(image)
  return _of_array(image)


def download(address: str) -> bytes:
  """Returns what is at an address; InputError if it cannot be had.

  Args:
    address: starts with http:// or https://.
  """
  remedy = "check the address, or save the picture and give its path"
  try:
    request = urllib.request.Request(
      address, headers={"User-Agent": f"sseg_jax/{__version__}"}
    )
    with urllib.request.urlopen(request, timeout=_SECONDS) as response:
      data = response.read(_LARGEST_DOWNLOAD + 1)
  except urllib.error.HTTPError as error:
    error.close()
    raise InputError(
      f"{address}: the server answers {error.code} {error.reason}; {remedy}"
    ) from error
  # Whatever a broken address or answer raises: among others OSError,
  # http.client.HTTPException, UnicodeError and ValueError.
  except Exception as error:
    reason = getattr(error, "reason", None) or error
    text = " ".join(str(reason).split()) or type(error).__name__
    raise InputError(f"{address!r}: no answer ({text}); {remedy}") from error
  if len(data) > _LARGEST_DOWNLOAD:
    raise InputError(
      f"{address}: has more than {_LARGEST_DOWNLOAD} bytes; give a picture"
    )
  return data


def _decoded(data: bytes, name: str) -> np.ndarray:
  return np.asarray(reader.decode(data, name).image)


def _of_pillow(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
  """Returns the pixels of a picture of any mode, which is not changed."""
  w, h = image.size
  if not w * h:
    raise InputError("the picture given has no pixels")
  _check_size(w, h)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Pillow's, on metadata
    try:
      turn = reader.UPRIGHT.get(reader.orientation(image))
      image.load()
      rgb = to_rgb(image, reader.scale_factor(w, h))
    # Pillow's decoders raise many kinds for broken files.
    except Exception as error:
      reason = " ".join(str(error).split()) or type(error).__name__
      raise InputError(
        f"the picture given cannot be read ({reason}); give another"
      ) from error
  return np.asarray(rgb if turn is None else rgb.transpose(turn))


def _check_size(w: int, h: int) -> None:
  if w * h > reader.LARGEST:
    raise InputError(
      f"the picture given has {w}x{h} pixels, more than {reader.LARGEST}; scale"
      " it down"
    )


def _of_array(image: Any) -> np.ndarray:
  try:
    values = np.asarray(image)
  except Exception as error:  # of whatever object was given
    raise _no_picture(f"{type(image).__name__}") from error
  what = f"type {values.dtype} and shape {values.shape}"
  if values.dtype.kind not in "buif":
    if values.ndim == 0:
      raise _no_picture(type(image).__name__)
    raise _no_picture(what)
  if not values.size:
    raise InputError(f"image has {what}: it has no pixels")
  if values.ndim == 3 and values.shape[-1] not in (1, 3, 4):
    if values.shape[0] in (1, 3, 4):
      raise InputError(
        f"image has shape {values.shape}: put the channels last, as"
        " image.transpose(1, 2, 0) does"
      )
    raise _no_picture(what)
  if values.ndim not in (2, 3):
    raise _no_picture(what)
  _check_size(*values.shape[1::-1])  # before each value is read
  bytes_ = _to_bytes(values)
  if bytes_.ndim == 3 and bytes_.shape[-1] == 1:
    bytes_ = bytes_[..., 0]
  h, w = bytes_.shape[:2]
  is_rgb = bytes_.ndim == 3 and bytes_.shape[-1] == 3
  if is_rgb and reader.scale_factor(w, h) == 1:
    return bytes_
  picture = Image.fromarray(np.ascontiguousarray(bytes_))
  return _of_pillow(picture)


def _to_bytes(values: np.ndarray) -> np.ndarray:
  """Scales values to uint8; InputError where their scale is not clear."""
  if values.dtype == np.uint8:
    return values
  if values.dtype.kind == "b":
    return values.astype(np.uint8) * np.uint8(255)
  if values.dtype.kind == "u" and values.dtype.itemsize == 2:  # any byte order
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
  low, high = values.min(), values.max()
  given = f"image has {values.dtype} values from {low} to {high}"
  if values.dtype.kind == "f":
    # Also false for what is not a number.
    if not (low >= -_SLACK and high <= 1 + _SLACK):
      raise InputError(
        f"{given}: floats are taken as 0..1; divide them, or give uint8 0..255"
      )
    scaled = values.astype(np.float32) * 255 + np.float32(0.5)
    return scaled.clip(0, 255).astype(np.uint8)
  if low < 0 or high > 255:
    raise InputError(
      f"{given}: integers are taken as 0..255; scale them, or give uint16"
      " 0..65535"
    )
  return values.astype(np.uint8)


def _no_picture(what: str) -> InputError:
  return InputError(
    f"image is {what}, not a picture; give a path, an address, bytes, a Pillow"
    " picture or an array [h, w], [h, w, 3] or [h, w, 4]"
  )
