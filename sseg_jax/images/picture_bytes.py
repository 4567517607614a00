"""The bytes of picture files: reading them, and the parts of JPEG and PNG.

This module needs only the standard library. Pillow refuses some pictures
because of broken metadata; this module removes the metadata.
"""

import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence

from sseg_jax.errors import InputError

_LARGEST_FILE = 2**31  # bytes
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_APP0, _APP15, _COM = 0xE0, 0xEF, 0xFE
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
# Baseline, extended sequential and progressive, all with Huffman codes.
_PROGRESSIVE = 0xC2
_COMMON_FRAMES = (0xC0, 0xC1, _PROGRESSIVE)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
# The sampling of luminance, then of both chromas, that cameras and encoders
# write; decoders round others in their own ways.
_COMMON_SAMPLINGS = (
  (0x11, 0x11, 0x11),
  (0x21, 0x11, 0x11),
  (0x22, 0x11, 0x11),
)
# In a scan, FF 00 is a byte of data and FF D0 … FF D7 restarts it.
# A literal first byte, as here, is searched fifteen times as fast as `\xff+`.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_PNG = b"\x89PNG\r\n\x1a\n"


def read_file(path: str | os.PathLike) -> bytes:
  """Returns the content of a picture's file; InputError if it has none."""
  try:
    with open(os.path.expanduser(path), "rb") as file:
      status = os.fstat(file.fileno())
      if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        # It may never end.
        raise InputError(f"{path}: is a device; give a picture")
      data = b""
      if status.st_size <= _LARGEST_FILE:
        # A pipe has no size that could be known before it is read.
        data = file.read(_LARGEST_FILE + 1)
      if max(status.st_size, len(data)) > _LARGEST_FILE:
        raise InputError(
          f"{path}: has more than {_LARGEST_FILE} bytes; give a picture"
        )
      return data
  except InputError:  # is a ValueError
    raise
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


def is_jpeg(data: bytes) -> bool:
  """Whether the bytes start as a JPEG does."""
  return data[:3] == b"\xff\xd8\xff"


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
  """Yields marker, start and end of each segment after the first marker.

  A start of scan ends where its pixels end. Stops after the end marker (EOI),
  or where the file ends without one.
  """
  position = 2
  while match := _MARKER.search(data, position):
    start, marker = match.start(), data[match.end() - 1]
    position = match.end()
    if marker == _EOI:
      yield marker, start, position
      return
    if marker in _ALONE:
      continue
    position += int.from_bytes(data[position : position + 2], "big")
    if marker == _SOS:
      after = _MARKER.search(data, position)
      position = after.start() if after else len(data)
    if position > len(data):
      return
    yield marker, start, position


def is_whole_jpeg(data: bytes) -> bool:
  """Whether a JPEG has its end marker; what follows it does not matter."""
  return any(marker == _EOI for marker, _, _ in jpeg_segments(data))


def jpeg_scans(data: bytes) -> int:
  """Returns the number of scans in a JPEG."""
  return sum(marker == _SOS for marker, _, _ in jpeg_segments(data))


def is_common_jpeg(data: bytes) -> bool:
  """Whether every decoder makes the same pixels of this JPEG.

  It has one frame of three components of 8 bits, in a sampling and a coding
  that is common, all scans of a progressive one, and its end marker.
  """
  frames, scans, ended = [], [], False
  for marker, start, end in jpeg_segments(data):
    content = data[start:end].lstrip(b"\xff")[1:]  # from the length on
    if marker in _FRAMES:
      frames.append((marker, content))
    elif marker == _SOS:
      scans.append(content)
    ended = marker == _EOI
  if len(frames) != 1 or not ended:
    return False
  marker, frame = frames[0]  # length, bits, height, width, components
  return (
    marker in _COMMON_FRAMES
    and len(frame) == 17
    and frame[2] == 8
    and tuple(frame[9:17:3]) in _COMMON_SAMPLINGS
    and (marker != _PROGRESSIVE or _is_complete(frame[8:17:3], scans))
  )


def _is_complete(components: bytes, scans: Sequence[bytes]) -> bool:
  """Whether the scans of a progressive JPEG give every coefficient's last bit.

  Where some are missing, decoders smooth the picture, each in its own way.
  """
  bits_left = {component: [1] * 64 for component in components}
  for scan in scans:  # length, number of components, components, band, bits
    count = scan[2] if len(scan) > 2 else 0
    if len(scan) < 6 + 2 * count:
      return False
    first, last, bits = scan[3 + 2 * count : 6 + 2 * count]
    for component in scan[3 : 3 + 2 * count : 2]:
      if component in bits_left:
        for i in range(first, min(last, 63) + 1):
          bits_left[component][i] = bits & 15
  return not any(any(left) for left in bits_left.values())


def completed_jpegs(data: bytes) -> tuple[bytes, bytes]:
  """Returns two copies of a JPEG without end marker, completed in two ways.

  The copies have the same pixels if and only if the file holds all pixels:
  missing pixels are read from the added bytes, which differ.
  """
  # A download that stopped may have its full length, in zeros.
  zeros = len(data) - len(data.rstrip(b"\0"))
  if zeros > 1:  # a scan may end in one
    data = data[:-zeros]
    if data.endswith(b"\xff"):
      data += b"\0"  # one byte of the scan is written as FF 00
  else:
    data = data.rstrip(b"\xff")  # half of the end marker
  end = b"\xff\xd9"
  return data + b"\x00" * 256 + end, data + b"\xaa" * 256 + end


def reduced_metadata(data: bytes) -> Iterator[bytes]:
  """Yields copies of a JPEG or PNG with less and less metadata.

  First without comments, then without EXIF and colour profile as well. Other
  formats have no copies.
  """
  if is_jpeg(data):
    yield _jpeg_with(data, (b"Exif\0\0", b"ICC_PROFILE\0"))
    yield _jpeg_with(data, ())
  elif data.startswith(_PNG):
    yield _png_with(data, (b"tRNS", b"iCCP", b"eXIf"))
    yield _png_with(data, (b"tRNS",))
    yield _png_with(data, ())


def _jpeg_with(data: bytes, kept: tuple[bytes, ...]) -> bytes:
  # JFIF and Adobe say which colour space the pixels are in.
  kept += (b"JFIF\0", b"Adobe")
  parts, last = [data[:2]], 2
  for marker, start, end in jpeg_segments(data):
    last = end
    if marker == _COM or _APP0 <= marker <= _APP15:
      content = data[start:end].lstrip(b"\xff")[3:]
      if not content.startswith(kept):
        continue
    parts.append(data[start:end])
  return b"".join(parts) + data[last:]


def _png_with(data: bytes, kept: tuple[bytes, ...]) -> bytes:
  parts, position = [_PNG], len(_PNG)
  while position + 12 <= len(data):
    length, kind = struct.unpack(">I4s", data[position : position + 8])
    end = position + 12 + length
    if end > len(data):
      break
    body, check = data[position + 4 : end - 4], data[end - 4 : end]
    critical = not kind[0] & 0x20
    sound = zlib.crc32(body) == int.from_bytes(check, "big")
    if critical or (kind in kept and sound):
      parts.append(data[position:end])
    position = end
  return b"".join(parts) + data[position:]
