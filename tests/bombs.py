"""Pictures of few bytes and many pixels, in little memory; see `test_bombs`."""

import io
import pathlib
import re
import resource
import struct
import zlib

from PIL import Image

from sseg_jax.errors import InputError
from sseg_jax.images import given

resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30,) * 2)


def chunk(kind, body):
  check = zlib.crc32(kind + body)
  return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


def png(w, h, bits, colour, body):
  head = struct.pack(">IIBBBBB", w, h, bits, colour, 0, 0, 0)
  start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
  return start + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def scans(count):
  file = io.BytesIO()
  Image.new("RGB", (2000, 2000)).save(file, "jpeg", progressive=True)
  data = file.getvalue()
  at = data.index(b"\xff\xda")
  end = data.index(b"\xff", at + 2)
  return data[:-2] + data[at:end] * count + data[-2:]


def jpeg(w, h):
  file = io.BytesIO()
  Image.new("RGB", (8, 8)).save(file, "jpeg")
  data = bytearray(file.getvalue())
  at = data.index(b"\xff\xc0")
  data[at + 5 : at + 9] = struct.pack(">HH", h, w)
  return bytes(data)


zeros = zlib.compress(bytes(2**28), 9)
text = b"a\0\0" + zeros
one = png(1, 1, 8, 2, zlib.compress(bytes(4)))
bmp = io.BytesIO()
Image.new("RGB", (2, 2)).save(bmp, "bmp")
bmp = bytearray(bmp.getvalue())
bmp[18:26] = struct.pack("<ii", 2**30, 2**30)
gif = b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\0\0\0,\0\0\0\0"
bombs = [
  png(2**31 - 1, 2**31 - 1, 8, 2, zeros),
  png(30_000, 30_000, 1, 0, zeros),
  png(13_000, 13_000, 8, 6, zeros),
  png(13_000, 13_000, 16, 0, zeros[:1000]),
  png(1, 1, 8, 2, zeros),
  one[:33] + chunk(b"zTXt", text) + one[33:],
  one[:33] + chunk(b"iCCP", text) + one[33:],
  jpeg(65_500, 65_500),
  jpeg(16_000, 16_000),
  jpeg(65_500, 4000),
  scans(5000),
  bytes(bmp),
  gif + struct.pack("<HH", 65535, 65535) + b"\0\x08\0\0;",
  b"P6 100000 100000 255\n",
  b"P5 16000 8000 65535\n" + bytes(99),
  b"Pf 20000 8000 1.0\n",
  b"P1 99999999999999999999 1\n1",
]
for index, bomb in enumerate(bombs):
  try:
    print(index, given.pixels(bomb).shape)
  except InputError as error:
    print(index, "refused", error)
# Of this program alone: `getrusage` also counts the process that started it.
status = pathlib.Path("/proc/self/status").read_text()
print("peak", int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024)
