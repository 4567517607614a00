"""Pictures in every form in which a caller may give one."""

import http.server
import io
import threading

import numpy as np
import pytest
from PIL import Image

from sseg_jax.errors import InputError
from sseg_jax.images import given, reader

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def png(picture):
  file = io.BytesIO()
  picture.save(file, "png")
  return file.getvalue()


def test_path_bytes_pillow_and_array_are_the_same_pixels(tmp_path):
  picture = Image.fromarray(RGB)
  picture.save(tmp_path / "a.png")
  data = png(picture)
  for image in (
    tmp_path / "a.png",
    str(tmp_path / "a.png"),
    data,
    bytearray(data),
    picture,
    Image.open(tmp_path / "a.png"),
    RGB,
    RGB.astype(np.int64),
    RGB.astype(np.float64) / 255,
    RGB.astype(np.uint16) * 257,
  ):
    np.testing.assert_array_equal(given.pixels(image), RGB)


def test_grey_alpha_and_booleans():
  grey = RGB[..., 0]
  three = np.repeat(grey[..., None], 3, -1)
  for image in (grey, grey[..., None], Image.fromarray(grey)):
    np.testing.assert_array_equal(given.pixels(image), three)
  np.testing.assert_array_equal(
    given.pixels(grey > 99), np.where(three > 99, 255, 0)
  )
  alpha = np.zeros((5, 7), np.uint8)
  alpha[0] = 255
  out = given.pixels(np.dstack([RGB, alpha]))
  np.testing.assert_array_equal(out[0], RGB[0])
  assert (out[1:] == 255).all()  # laid over white


def test_a_pillow_picture_is_turned_upright():
  file = io.BytesIO()
  exif = Image.Exif()
  exif[0x0112] = 6
  Image.fromarray(RGB).save(file, "png", exif=exif)
  opened = Image.open(file)
  np.testing.assert_array_equal(
    given.pixels(opened), reader.decode(file.getvalue(), "").image
  )
  assert given.pixels(opened).shape == (7, 5, 3)


@pytest.mark.parametrize(
  ("image", "message"),
  [
    (RGB.astype(np.float32), "floats are taken as 0..1"),
    (RGB / 255 - 0.5, "floats are taken as 0..1"),
    (np.full((4, 4), np.nan), "floats are taken as 0..1"),
    (RGB.astype(np.int32) - 1, "from -1 to 247: integers"),
    (RGB.astype(np.int32) * 300, "integers are taken as 0..255"),
    (RGB.transpose(2, 0, 1), "put the channels last"),
    (RGB[:0], "no pixels"),
    (np.zeros((2, 2, 5), np.uint8), r"shape \(2, 2, 5\), not a picture"),
    (np.zeros((1, 2, 2, 3), np.uint8), "not a picture"),
    (np.zeros((2, 2), complex), "complex128"),
    (None, "image is NoneType, not a picture"),
    ({"a": 1}, "image is dict, not a picture"),
    ([[1], [1, 2]], "image is list, not a picture"),
    (b"", "the file is empty"),
    (b"no picture", "unknown format"),
    (Image.new("RGB", (0, 3)), "no pixels"),
    ("http://[/a.png", "no answer"),
    ("http://127.0.0.1:1/a b\n.png", "no answer"),
  ],
)
def test_what_is_no_picture_is_told_in_one_line(image, message):
  with pytest.raises(InputError, match=message) as raised:
    given.pixels(image)
  assert "\n" not in str(raised.value)


def test_a_broken_file_that_pillow_opened():
  file = io.BytesIO(png(Image.effect_noise((64, 64), 90))[:900])
  with pytest.raises(InputError, match="cannot be read"):
    given.pixels(Image.open(file))


@pytest.fixture
def address():
  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      found = self.path == "/a.png"
      body = png(Image.fromarray(RGB)) if found else b"<p>no</p>"
      self.send_response(200 if self.path != "/absent.png" else 404)
      self.send_header("Content-Length", str(len(body)))
      self.end_headers()
      self.wfile.write(body)

    def log_message(self, *args):
      pass

  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


def test_an_address_is_read(address, monkeypatch):
  np.testing.assert_array_equal(given.pixels(f"{address}/a.png"), RGB)
  with pytest.raises(InputError, match=r"absent.png: the server answers 404"):
    given.pixels(f"{address}/absent.png")
  with pytest.raises(InputError, match=r"page.html: .*unknown format"):
    given.pixels(f"{address}/page.html")
  monkeypatch.setattr(given, "_LARGEST_DOWNLOAD", 10)
  with pytest.raises(InputError, match="more than 10 bytes"):
    given.pixels(f"{address}/a.png")
