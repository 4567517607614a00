"""Tests of the reader of pictures: one judgement and one set of pixels."""

import io
import logging
import struct
import warnings
import zlib

import drawn_pictures as drawn
import fuzz
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sseg_jax.data import decode, import_tensorflow, reencode
from sseg_jax.errors import InputError
from sseg_jax.images import colour_conversion, picture_bytes, reader

KINDS = dict(drawn.every_kind())


def read(data: bytes) -> np.ndarray:
  return np.asarray(reader.decode(data, "x").image).astype(int)


def in_training(data: bytes) -> np.ndarray:
  """Pixels that training sees of a picture that `prepare` took."""
  tf = import_tensorflow()
  return decode.image(tf.constant(reencode.to_jpeg(data))).numpy().astype(int)


@pytest.fixture(scope="module")
def jpeg() -> bytes:
  return drawn.encode(drawn.picture(), "JPEG", quality=90)


# ------------------------------------------- the same in training as elsewhere


def test_all_kinds_are_the_same_in_training():
  plain = 0
  for name, data in KINDS.items():
    picture = reader.decode(data, name)
    seen, learnt = np.asarray(picture.image).astype(int), in_training(data)
    assert seen.shape == learnt.shape, name
    if picture.is_plain:  # the bytes as they are: equal to the last bit
      assert reencode.to_jpeg(data) is data, name
      np.testing.assert_array_equal(seen, learnt, err_msg=name)
      plain += 1
    else:  # one JPEG of quality 95 between them
      assert np.abs(seen - learnt).mean() < 3, name
  assert plain >= 20


def test_all_kinds_show_the_same_picture():
  expected = drawn.colours().astype(int)
  grey = np.asarray(drawn.picture("L")).astype(int)[..., None]
  for name, data in KINDS.items():
    kind, *rest = name.split()
    mode = rest[0] if rest else ""
    others = {"profile", "orientation", "of", "1", "PA", "LA", "RGBA", "P"}
    if others & {*rest} or "x" in name:
      continue  # tested on their own
    want = grey if mode in ("L", "I;16", "I", "F") else expected
    got = read(data)
    assert np.abs(got - want).mean() < 4, name
    if mode in ("I;16", "I", "F"):
      assert np.abs(got - want).max() <= 1, name


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientations_are_applied_once(kind):
  upright = read(KINDS[f"{kind} orientation 1"])
  turned = {
    0: upright,
    2: upright[:, ::-1],
    3: upright[::-1, ::-1],
    4: upright[::-1],
    5: upright.transpose(1, 0, 2),
    6: upright[::-1].transpose(1, 0, 2),
    7: upright[::-1, ::-1].transpose(1, 0, 2),
    8: upright.transpose(1, 0, 2)[::-1],
    9: upright,  # means nothing
  }
  for orientation, expected in turned.items():
    got = read(KINDS[f"{kind} orientation {orientation}"])
    np.testing.assert_array_equal(got, expected, err_msg=str(orientation))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_profiles_are_applied(kind):
  plain = read(KINDS[f"{kind} RGB profile sRGB"])

  def rgb(name):
    return read(KINDS[f"{kind} RGB profile {name}"])

  for name in ("broken", "nonsense", "black", "grey", "CMYK"):
    np.testing.assert_array_equal(rgb(name), plain, err_msg=name)
  swapped = plain[..., [1, 0, 2]]
  assert np.abs(rgb("channels swapped") - swapped).mean() < 1.5
  # A colour of a wider space lies further out in sRGB.
  linear = (plain / 255) ** 2.2 @ np.array(drawn.ADOBE)
  linear = (linear @ np.linalg.inv(drawn.SRGB)).clip(0, 1)
  srgb = np.where(
    linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
  )
  assert np.abs(rgb("Adobe RGB") - 255 * srgb).mean() < 1.5
  if kind != "WEBP":
    # Linear light 0.5 is 188 in sRGB.
    grey = read(KINDS[f"{kind} L profile sRGB"])[..., 0]
    light = read(KINDS[f"{kind} L profile grey"])[..., 0]
    assert np.abs(light[np.abs(grey - 128) < 2] - 188).max() <= 2
  if kind == "TIFF":
    ink = Image.new("CMYK", (2, 1))
    ink.putpixel((1, 0), (0, 0, 0, 255))
    data = drawn.encode(ink, kind, icc_profile=drawn.PROFILES["CMYK"])
    assert read(data)[0, 0].min() > 250 and read(data)[0, 1].max() < 5


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "TGA"])
def test_transparency_is_laid_over_white(kind):
  got, colours = read(KINDS[f"{kind} RGBA"]), drawn.colours()
  assert (got[:8, :10] == 255).all()
  half = (colours[-8:, -10:] + 255.0) / 2
  assert np.abs(got[-8:, -10:] - half).mean() < 4
  assert np.abs(got[8:16] - colours[8:16]).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TGA"])
def test_wholly_transparent_pictures_keep_their_colours(kind):
  image = drawn.picture()
  expected = np.asarray(image)
  image.putalpha(0)
  np.testing.assert_array_equal(read(drawn.encode(image, kind)), expected)


def test_a_transparent_colour():
  palette = Image.new("P", (2, 1), 0)
  palette.putpalette([9, 9, 9, 255, 0, 0])
  palette.putpixel((1, 0), 1)
  data = drawn.encode(palette, "PNG", transparency=0)
  assert read(data).tolist() == [[[255] * 3, [255, 0, 0]]]
  wide = Image.fromarray(np.array([[257, 2570]], np.uint16))
  data = drawn.encode(wide, "PNG")
  chunk = b"tRNS" + struct.pack(">H", 257)
  chunk = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
  assert read(data[:33] + chunk + data[33:])[0, :, 0].tolist() == [255, 10]


@pytest.mark.parametrize(
  ("values", "expected"),
  [
    ([0, 0.5, 1], [0, 128, 255]),
    ([0, 100, 200], [0, 100, 200]),
    ([0, 257, 65535], [0, 1, 255]),
    ([-1, 0, 1], [0, 128, 255]),
    ([0, 50_000, 100_000], [0, 128, 255]),
    ([np.nan, np.inf, 1], [0, 255, 255]),
    ([-np.inf, 0, 0.2], [0, 0, 51]),
  ],
)
def test_float_greys(values, expected):
  image = Image.fromarray(np.array([values], np.float32))
  data = drawn.encode(image, "TIFF")
  assert read(data)[0, :, 0].tolist() == expected
  if np.isfinite(values).all() and values[1] >= 1:
    image = Image.fromarray(np.array([values], np.int32))
    assert read(drawn.encode(image, "TIFF"))[0, :, 0].tolist() == expected


# ------------------------------------------ metadata do not condemn the pixels


def with_exif(data: bytes, exif: bytes) -> bytes:
  body = b"Exif\0\0" + exif
  return (
    data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
  )


def broken_exifs() -> dict[str, bytes]:
  good = drawn.exif(1)[6:]
  text = bytearray(drawn.exif(6)[6:])
  order = "<" if text[:2] == b"II" else ">"
  at = text.index(struct.pack(order + "H", 0x0112))
  text[at + 2 : at + 12] = struct.pack(order + "HI4s", 2, 2, b"6\0\0\0")
  return {
    "empty": b"",
    "no header": b"\0" * 40,
    "text": b"nothing of this is EXIF" * 3,
    "cut": good[:12],
    "pointer outside": good[:4] + b"\xff\xff\xff\x7f" + good[8:],
    "too many entries": good[:8] + b"\xff\xff" + good[10:],
    "orientation as text": bytes(text),
  }


@pytest.mark.parametrize("name", broken_exifs())
def test_broken_exif(name, jpeg):
  exif = broken_exifs()[name]
  expected = read(jpeg)
  image = Image.fromarray(expected.astype(np.uint8))
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    png = drawn.encode(image, "PNG", exif=exif)
    for data in (with_exif(jpeg, exif), png):
      np.testing.assert_array_equal(read(data), expected)
      assert np.abs(in_training(data) - expected).mean() < 3


def png_chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
  crc = zlib.crc32(kind + body) if crc is None else crc
  return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


@pytest.mark.parametrize(
  "chunk",
  [
    png_chunk(b"tEXt", b"a\0b", 1),
    png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**22))),
    png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**22))),
    png_chunk(b"iCCP", b"a\0\0no zlib"),
    png_chunk(b"eXIf", b"MM"),
    png_chunk(b"eXIf", drawn.exif(6)[6:], 1),
    png_chunk(b"pHYs", b"x"),
    png_chunk(b"tRNS", b""),
    png_chunk(b"gAMA", b""),
    png_chunk(b"acTL", b"\xff"),
  ],
  ids=lambda chunk: f"{chunk[4:8].decode()} of {len(chunk) - 12}",
)
def test_broken_chunks(chunk):
  data = drawn.encode(drawn.picture(), "PNG")
  np.testing.assert_array_equal(
    read(data[:33] + chunk + data[33:]), drawn.colours()
  )


def test_metadata_beside_broken_ones_count():
  data = drawn.encode(drawn.picture(), "PNG", exif=drawn.exif(6))
  broken = png_chunk(b"tEXt", b"a\0b", 1)
  assert read(data[:33] + broken + data[33:]).shape == (32, 24, 3)


# ---------------------------------------------------------------- broken pixels


def test_jpegs_without_their_end(jpeg):
  expected = read(jpeg)
  fine = {
    "no end marker": jpeg[:-2],
    "half an end marker": jpeg[:-1],
    "zeros after the end": jpeg + bytes(500),
    "zeros instead of the end marker": jpeg[:-2] + bytes(500),
    "another picture behind": jpeg + jpeg[:300],
  }
  for name, data in fine.items():
    np.testing.assert_array_equal(read(data), expected, err_msg=name)
    assert np.abs(in_training(data) - expected).mean() < 3, name
  assert reencode.to_jpeg(jpeg[:-2]) != jpeg[:-2]  # training needs the marker
  for missing in (8, 60, len(jpeg) // 3):
    for tail in (b"", bytes(missing), bytes(5000)):
      data = jpeg[:-missing] + tail
      with pytest.raises(InputError, match="x: cannot be read"):
        read(data)
      with pytest.raises(reencode.Rejected, match="unreadable"):
        reencode.to_jpeg(data)


def test_unfinished_progressive_jpegs_are_written_anew():
  data = drawn.encode(drawn.picture(), "JPEG", progressive=True)
  scans = [s for m, s, _ in picture_bytes.jpeg_segments(data) if m == 0xDA]
  assert reader.decode(data, "x").is_plain and len(scans) > 5
  data = data[: scans[4]] + data[-2:]  # decoders smooth what is missing
  assert not reader.decode(data, "x").is_plain
  assert np.abs(in_training(data) - read(data)).mean() < 3


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "is empty"),
    (b"text", "unknown format"),
    (b"\x89PNG\r\n\x1a\n", "cannot be read"),
    (b"\xff\xd8\xff\xe0", "cannot be read"),
    (KINDS["PNG RGB"][:200], "cannot be read"),
    (KINDS["GIF P"][:-90], "cannot be read"),
    (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unknown format"),
  ],
)
def test_broken_pictures_are_named(tmp_path, content, message):
  path = tmp_path / "x.png"
  path.write_bytes(content)
  with pytest.raises(InputError, match=f"x.png: .*{message}"):
    reader.read_image(path)
  with pytest.raises(reencode.Rejected):
    reencode.to_jpeg(content)


def test_what_is_no_file(tmp_path):
  with pytest.raises(InputError, match="absent.png: no such picture"):
    reader.read_image(tmp_path / "absent.png")
  with pytest.raises(InputError, match="is a folder"):
    reader.read_image(tmp_path)
  with pytest.raises(InputError, match="is not a file's name"):
    reader.read_image("a\0b.png")
  with pytest.raises(InputError, match="File name too long"):
    reader.read_image("a" * 300)


def test_home_folder(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "a.png").write_bytes(KINDS["PNG RGB"])
  assert reader.read_image("~/a.png").shape == (24, 32, 3)


# --------------------------------------------------------------- large pictures


@pytest.mark.parametrize("name", ["JPEG RGB", "PNG RGBA", "TIFF F", "GIF P"])
def test_large_pictures_are_scaled_down(tmp_path, monkeypatch, caplog, name):
  path = tmp_path / "x"
  path.write_bytes(KINDS[name])
  whole = reader.read_image(path).astype(float)
  assert not caplog.records
  monkeypatch.setattr(reader, "MAX_PIXELS", 24 * 32 // 4)
  monkeypatch.setattr(colour_conversion, "_BAND_PIXELS", 200)
  with caplog.at_level(logging.WARNING):
    small = reader.read_image(path)
  expected = whole.reshape(12, 2, 16, 2, 3).mean((1, 3))
  assert np.abs(small - expected).mean() < 2
  assert (
    "x: 32x24 pixels are too many; it is scaled down to 16x12" in caplog.text
  )
  assert np.abs(in_training(KINDS[name]) - small).mean() < 3
  monkeypatch.setattr(reader, "MAX_PIXELS", 24 * 32 // 4 - 1)
  assert reader.read_image(path).shape == (6, 8, 3)


@pytest.mark.parametrize("short_side", [48, 100])
def test_shrunk_pictures_are_near_those_of_lanczos(short_side):
  """Of smooth colours with an edge, from a JPEG that is decoded smaller."""
  y, x = np.mgrid[:480, :640]
  pixels = np.stack([x * 255 / 640, y * 255 / 480, 128 + 0 * x], -1)
  pixels[120:300, 200:460] = (230, 40, 60)
  image = Image.fromarray(pixels.astype(np.uint8))
  data = drawn.encode(image, "JPEG", quality=95)
  small = reader.decode(data, "x", short_side=short_side).image
  size = round(640 * short_side / 480), short_side
  assert small.size == size
  whole = Image.open(io.BytesIO(data)).resize(size, Image.Resampling.LANCZOS)
  difference = np.asarray(small, int) - np.asarray(whole, int)
  assert np.sqrt((difference**2).mean()) < 5  # 34 dB
  # Neither moved nor blurred: an edge shifted by a pixel differs by far more.
  assert np.abs(difference).mean() < 1


def test_long_pictures_fit_a_jpeg():
  data = drawn.encode(Image.new("L", (66_000, 3), 7), "PNG")
  assert read(data).shape == in_training(data).shape == (2, 33_000, 3)


def test_sizes_that_are_refused(monkeypatch):
  monkeypatch.setattr(reader, "LARGEST", 32 * 24 - 1)
  for name in ("JPEG RGB", "PNG RGB"):
    with pytest.raises(InputError, match="32x24 pixels, more than 767"):
      read(KINDS[name])
    with pytest.raises(reencode.Rejected, match="too_large"):
      reencode.to_jpeg(KINDS[name])
  monkeypatch.undo()
  # Pillow warns above its limit and refuses twice as much, JPEGs apart.
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 32 * 24 - 1)
  assert read(KINDS["PNG RGB"]).shape == (24, 32, 3)
  monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 32 * 24 // 2 - 1)
  assert read(KINDS["JPEG RGB"]).shape == (24, 32, 3)
  with pytest.raises(InputError, match="x: has over 766 pixels"):
    read(KINDS["PNG RGB"])


# --------------------------------------------------------------------- suffixes


def test_suffixes():
  for name in (
    "a.jpg",
    "b.JPEG",
    "c.jfif",
    "d.JPE",
    "e.tif",
    "f.WebP",
    "g.bmp",
  ):
    assert reader.has_suffix(name)
  for name in ("a.txt", "jpg", ".jpg", "a.jpg.txt", "a.json", "a.pdf"):
    assert not reader.has_suffix(name)
  known = {Image.registered_extensions()[s] for s in reader.SUFFIXES}
  assert known - {"MPO"} <= set(Image.OPEN)  # Pillow opens MPO as JPEG


# ------------------------------------------------------------------------- fuzz

SEEDS = sorted({name: d for name, d in KINDS.items() if len(d) < 5000}.items())
CHANGES = st.lists(
  st.tuples(
    st.sampled_from(("flip", "zero", "cut out", "put in", "end", "marker")),
    st.floats(0, 1),
    st.binary(min_size=1, max_size=40),
  ),
  min_size=1,
  max_size=3,
)


def changed(data: bytes, changes) -> bytes:
  out = bytearray(data)
  for how, place, new in changes:
    # The squares: headers are short, and lie in front.
    at = int(place**2 * len(out))
    match how:
      case "flip":
        out[at : at + 1] = bytes(b ^ new[0] for b in out[at : at + 1])
      case "zero":
        out[at : at + len(new)] = bytes(len(out[at : at + len(new)]))
      case "cut out":
        del out[at : at + len(new)]
      case "put in":
        out[at:at] = new
      case "end":
        del out[at:]
      case "marker":
        out[at : at + 2] = b"\xff" + new[:1]
  return bytes(out)


@pytest.mark.slow
@fuzz.examples
@given(st.sampled_from(SEEDS), CHANGES)
def test_fuzz(seed, changes):
  name, data = seed
  data = changed(data, changes)
  try:
    picture = reader.decode(data, name)
  except InputError as error:
    assert str(error).startswith(f"{name}: ") and "\n" not in str(error)
    with pytest.raises(reencode.Rejected):
      reencode.to_jpeg(data)
    return
  seen = np.asarray(picture.image).astype(int)
  learnt = in_training(data)
  assert seen.shape == learnt.shape and seen.ndim == 3
  if picture.is_plain:
    np.testing.assert_array_equal(seen, learnt)


# ----------------------------------------------------------------- resizing


def test_resize_has_half_pixel_centres():
  row = np.array([[[0], [4]]], np.uint8)
  got = reader.resize(row, 1, 4)[0, :, 0]
  np.testing.assert_allclose(got, [0, 1, 3, 4])
  # No antialias: every second pair is averaged, the rest is not looked at.
  ramp = np.arange(8, dtype=np.uint8).reshape(1, 8, 1)
  np.testing.assert_allclose(reader.resize(ramp, 1, 2)[0, :, 0], [1.5, 5.5])
