"""How a TFRecord file holds a record: a frame with two checksums.

A frame is the record's length (8 bytes, little-endian), the checksum of these
(4), the record, and its checksum (4): tensorflow/core/lib/io/record_writer.h.
"""

import struct

import google_crc32c

HEADER, FOOTER = 12, 4  # bytes before and after the record
ROOM = HEADER + FOOTER


def frame(record: bytes) -> bytes:
  """Returns a record as a TFRecord file holds it."""
  length = struct.pack("<Q", len(record))
  return b"".join((length, _packed_crc(length), record, _packed_crc(record)))


def is_header(data: bytes) -> bool:
  """Whether the first 12 bytes are a length with the right checksum."""
  return len(data) >= HEADER and data[8:HEADER] == _packed_crc(data[:8])


def is_frame(data: bytes) -> bool:
  """Whether `data` is a whole frame with the right checksums."""
  return (
    is_header(data)
    and length(data) == len(data) - ROOM
    and data[-FOOTER:] == _packed_crc(data[HEADER:-FOOTER])
  )


def length(header: bytes) -> int:
  """Returns the number of bytes of the record after a header."""
  return struct.unpack_from("<Q", header)[0]


def _packed_crc(data: bytes) -> bytes:
  """CRC-32C, changed as TFRecord files have it (tensorflow's crc32c.h)."""
  crc = google_crc32c.value(data)
  return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
