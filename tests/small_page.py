"""The page's handlers over a network of three colours, for its tests."""

import contextlib
import io
import urllib.request

import numpy as np
from PIL import Image
from test_segmenter import PARAMS, config, fake_network, stripes

from sseg_jax.inference import segmenter
from sseg_jax.inference.api import Model
from sseg_jax.inference.segmenter import SSegSegmenter

WORDS = "red, green, blue"


def model(monkeypatch) -> Model:
  """Returns a model whose `calls` grow with each run of the network."""
  monkeypatch.setattr(segmenter, "sseg", fake_network())
  made = Model(
    SSegSegmenter(PARAMS, {}, config()),
    templates=("{}",),
    threshold=None,
    step=1,
    metadata={},
  )
  encode = made.segmenter._encode_windows
  made.calls = []
  made.segmenter._encode_windows = lambda *a: made.calls.append(1) or encode(*a)
  return made


def picture(h=48, w=96) -> np.ndarray:
  """Returns three stripes, of which the middle one is dark."""
  image = stripes(h, w)[0].copy()
  image[:, w // 3 : 2 * w // 3] //= 2
  return image


def write(path, image=None) -> str:
  Image.fromarray(picture() if image is None else image).save(path)
  return str(path)


def png(image=None) -> bytes:
  file = io.BytesIO()
  Image.fromarray(picture() if image is None else image).save(file, "png")
  return file.getvalue()


def is_up(address: str) -> bool:
  with contextlib.closing(urllib.request.urlopen(address, timeout=10)) as page:
    return page.status == 200
