"""Parts of the page that Gradio has in a similar form.

Import this module only where Gradio is installed.
"""

import contextlib
import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio import component_meta
from gradio.components.annotated_image import AnnotatedImageData, Annotation
from gradio.data_classes import FileData
from PIL import Image

from sseg_jax.page.handlers import View


@contextlib.contextmanager
def _no_stubs() -> Iterator[None]:
  """Keeps Gradio from writing a .pyi file beside each class of a component."""
  write = component_meta.create_or_modify_pyi
  component_meta.create_or_modify_pyi = lambda *_: None
  try:
    yield
  finally:
    component_meta.create_or_modify_pyi = write


with _no_stubs():

  class Picture(gr.Image):
    """An image that gives its handler the file as it was uploaded.

    `gr.Image` would decode it first: without a limit of pixels, and with an
    error of its own for a broken file.
    """

    # Gradio then takes the browser's part of the class above.
    is_template = True

    def preprocess(self, payload: Any) -> str | None:
      """Returns the path of the file."""
      if payload is None or not payload.path:
        return None
      # Gradio has checked that the file is one that was uploaded.
      return str(payload.path)

  class Regions(gr.AnnotatedImage):
    """A picture under coloured regions whose legend names them on hover.

    `gr.AnnotatedImage` takes some 50 ms and 30 MB for each mask of a megapixel;
    one bit a pixel is enough.
    """

    is_template = True

    def postprocess(self, value: Any) -> AnnotatedImageData | None:
      """Writes the files of a view."""
      if not isinstance(value, View):
        return None
      cache = Path(self.GRADIO_CACHE)
      folder = cache / secrets.token_hex(16)
      folder.mkdir(parents=True)
      picture = _write_picture(value.image, cache)
      annotations = []
      for number, region in enumerate(value.regions):
        path = folder / f"{number}.png"
        _write_mask(region.mask, region.colour, path)
        annotations.append(
          Annotation(image=FileData(path=str(path)), label=region.name)
        )
      return AnnotatedImageData(
        image=FileData(path=str(picture)), annotations=annotations
      )


def _write_picture(image: np.ndarray, cache: Path) -> Path:
  """Writes a picture once, whatever the number of its views."""
  digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes())
  path = cache / digest.hexdigest() / "picture.jpg"
  if path.exists():
    path.touch()  # it is in use, so it is not deleted yet
    return path
  path.parent.mkdir(parents=True, exist_ok=True)
  # Another visitor may ask for the same picture meanwhile.
  part = path.with_name(f"{secrets.token_hex(8)}.jpg")
  Image.fromarray(image).save(part, quality=90)
  part.replace(path)
  return path


def _write_mask(mask: np.ndarray, colour: str, path: Path) -> None:
  """Writes a PNG of one bit a pixel: clear, or of one colour."""
  image = Image.fromarray(mask.astype(np.uint8))
  image.putpalette([0, 0, 0, *bytes.fromhex(colour[1:])])
  image.save(path, transparency=0, bits=1)
