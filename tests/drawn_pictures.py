"""Small pictures of every kind, and profiles, for the tests of their reader."""

import io
import struct
from collections.abc import Iterator

import numpy as np
import PIL
from PIL import Image, features

# Columns of RGB to XYZ (D50), as ICC profiles store them.
SRGB = (
  (0.4361, 0.2225, 0.0139),
  (0.3851, 0.7169, 0.0971),
  (0.1431, 0.0606, 0.7139),
)
ADOBE = (
  (0.6097, 0.3111, 0.0195),
  (0.2053, 0.6257, 0.0609),
  (0.1492, 0.0632, 0.7446),
)
_D50 = (0.9642, 1.0, 0.8249)


def encode(image: Image.Image, kind: str, **kwargs) -> bytes:
  out = io.BytesIO()
  image.save(out, kind, **kwargs)
  return out.getvalue()


def colours(h=24, w=32) -> np.ndarray:
  """A smooth picture whose parts all differ, without a symmetry."""
  y, x = np.mgrid[:h, :w]
  r, g = 40 + 180 * x / max(1, w - 1), 30 + 190 * y / max(1, h - 1)
  b = 120 + 60 * np.sin(x / 5) * np.cos(y / 7)
  return np.stack([r, g, b], -1).astype(np.uint8)


def picture(mode="RGB", h=24, w=32) -> Image.Image:
  """The same in any mode; alpha 255 but for a corner of 0 and one of 128."""
  rgb = Image.fromarray(colours(h, w))
  grey = np.asarray(rgb.convert("L"))
  match mode:
    case "I;16":
      return Image.fromarray(grey.astype(np.uint16) * 257)
    case "I":
      return Image.fromarray(grey.astype(np.int32) * 257)
    case "F":
      return Image.fromarray(grey.astype(np.float32) / 255)
    case "P":
      return rgb.quantize(32)
    case "LAB":
      from PIL import ImageCms

      srgb, lab = (ImageCms.createProfile(n) for n in ("sRGB", "LAB"))
      return ImageCms.profileToProfile(rgb, srgb, lab, outputMode="LAB")
    case "LA" | "RGBA" | "PA":
      image = rgb.convert("RGBA" if mode == "PA" else mode)
      alpha = np.full((h, w), 255, np.uint8)
      alpha[: h // 3, : w // 3], alpha[-h // 3 :, -w // 3 :] = 0, 128
      image.putalpha(Image.fromarray(alpha))
      return image.quantize(32, method=2) if mode == "PA" else image
  return rgb.convert(mode)


def exif(orientation: object = None) -> bytes:
  data = Image.Exif()
  if orientation is not None:
    data[0x0112] = orientation
  data[0x010F] = "a camera"
  return data.tobytes()


def _tag(kind: bytes, body: bytes) -> bytes:
  data = kind + bytes(4) + body
  return data + bytes(-len(data) % 4)


def _xyz(values) -> bytes:
  return _tag(
    b"XYZ ", b"".join(struct.pack(">i", round(v * 65536)) for v in values)
  )


def _gamma(value: float) -> bytes:
  return _tag(b"curv", struct.pack(">IH", 1, round(value * 256)))


def _profile(
  space: bytes, tags: dict[bytes, bytes], kind=b"mntr", pcs=b"XYZ "
) -> bytes:
  text = b"test\0"
  tags = {
    b"desc": _tag(b"desc", struct.pack(">I", len(text)) + text + bytes(78)),
    b"cprt": _tag(b"text", text),
    b"wtpt": _xyz(_D50),
    **tags,
  }
  at, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
  for name, data in tags.items():
    table += name + struct.pack(">II", at + len(body), len(data))
    body += data
  head = bytearray(128)
  head[:4] = struct.pack(">I", at + len(body))
  head[8:24] = b"\x02\x20\0\0" + kind + space + pcs
  head[24:36] = struct.pack(">6H", 2020, 1, 1, 0, 0, 0)
  head[36:40] = b"acsp"
  head[68:80] = struct.pack(">3i", *(round(v * 65536) for v in _D50))
  return bytes(head) + table + body


def rgb_profile(columns=SRGB, gamma=2.2) -> bytes:
  tags = {}
  for letter, column in zip(b"rgb", columns, strict=True):
    name = bytes([letter])
    tags[name + b"XYZ"], tags[name + b"TRC"] = _xyz(column), _gamma(gamma)
  return _profile(b"RGB ", tags)


def grey_profile(gamma: float) -> bytes:
  return _profile(b"GRAY", {b"kTRC": _gamma(gamma)})


def cmyk_profile() -> bytes:
  """No ink is white; any full ink is black: L* falls with the sum."""
  line = bytes(range(256))
  grid = b"".join(bytes([255 if i == 0 else 0, 128, 128]) for i in range(2**4))
  matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
  table = bytes([4, 3, 2, 0]) + matrix + line * 4 + grid + line * 3
  return _profile(b"CMYK", {b"A2B0": _tag(b"mft1", table)}, b"prtr", b"Lab ")


PROFILES = {
  "sRGB": rgb_profile(),
  "Adobe RGB": rgb_profile(ADOBE, 2.19921875),
  "channels swapped": rgb_profile((SRGB[1], SRGB[0], SRGB[2])),
  "grey": grey_profile(1.0),
  "CMYK": cmyk_profile(),
  "broken": rgb_profile()[:200],
  "nonsense": b"no profile",
  "black": rgb_profile(((0.0, 0.0, 0.0),) * 3),
}


def every_kind() -> Iterator[tuple[str, bytes]]:
  """Yields a name and a file: modes by formats, orientations, profiles, …."""
  kinds = {
    "PNG": ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK", "YCbCr"),
    "TIFF": (
      "1",
      "L",
      "LA",
      "P",
      "RGB",
      "RGBA",
      "CMYK",
      "YCbCr",
      "LAB",
      "I;16",
      "I",
      "F",
    ),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "GIF": ("L", "P", "PA"),
    "PPM": ("1", "L", "RGB", "I", "F"),
    "TGA": ("L", "P", "RGB", "RGBA"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA", "I;16"),
    "AVIF": ("RGB", "RGBA"),
  }
  if not features.check("avif"):
    del kinds["AVIF"]
  if not features.check("jpg_2000"):
    del kinds["JPEG2000"]
  if int(PIL.__version__.split(".")[0]) < 13:
    # Before 13, Pillow cannot read back the uncompressed YCbCr that it writes.
    kinds["TIFF"] = tuple(mode for mode in kinds["TIFF"] if mode != "YCbCr")
  for kind, modes in kinds.items():
    for mode in modes:
      yield f"{kind} {mode}", encode(picture(mode), kind)
  image = picture()
  for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
    for orientation in range(10):
      data = encode(image, kind, exif=exif(orientation))
      yield f"{kind} orientation {orientation}", data
    for name, profile in PROFILES.items():
      for mode in ("L", "RGB", "RGBA", "CMYK"):
        if mode in kinds[kind]:
          data = encode(picture(mode), kind, icc_profile=profile)
          yield f"{kind} {mode} profile {name}", data
  for subsampling in (0, 1, 2):
    for progressive in (False, True):
      data = encode(
        image, "JPEG", subsampling=subsampling, progressive=progressive
      )
      yield f"JPEG {subsampling} {progressive}", data
  frames = [picture("P"), Image.new("P", (32, 24), 3)]
  for kind in ("GIF", "PNG", "WEBP", "TIFF"):
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    yield f"{kind} of two", data
  data = encode(image, "MPO", save_all=True, append_images=[picture("L")])
  yield "MPO", data
  for h, w in ((1, 1), (1, 40), (40, 1), (7, 9)):
    for kind in ("PNG", "JPEG", "WEBP", "GIF"):
      yield f"{kind} {h}x{w}", encode(picture("RGB", h, w), kind)
