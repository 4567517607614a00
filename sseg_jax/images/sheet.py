"""Several pictures with titles, in rows and columns."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from sseg_jax.images import lettering

_GAP = 10
_LETTERS = 15


def sheet(
  pictures: Sequence[tuple[str, Image.Image | np.ndarray]],
  *,
  columns: int = 4,
  cell: int = 230,
) -> Image.Image:
  """Draws pictures on white, each below its title.

  Args:
    pictures: title, and a Pillow picture or uint8 [h, w, 3]. Titles that are
      too long are cut.
    columns: most pictures in a row.
    cell: side of the square that a picture is scaled to fit, in pixels.
  """
  found = [(title, _scaled(picture, cell)) for title, picture in pictures]
  head = 2 * _LETTERS
  rows = [found[i : i + columns] for i in range(0, len(found), columns)]
  heights = [max(picture.height for _, picture in row) for row in rows]
  canvas = Image.new(
    "RGB",
    (
      _GAP + min(columns, len(found)) * (cell + _GAP),
      _GAP + sum(head + height + _GAP for height in heights),
    ),
    lettering.PAPER,
  )
  draw = ImageDraw.Draw(canvas)
  y = _GAP
  for row, height in zip(rows, heights, strict=True):
    for column, (title, picture) in enumerate(row):
      x = _GAP + column * (cell + _GAP)
      text = lettering.fitted(title, _LETTERS, cell)
      at = (x + cell // 2, y + head // 2)
      font = lettering.font(_LETTERS, text)
      draw.text(at, text, lettering.INK, font, anchor="mm")
      canvas.paste(picture, (x + (cell - picture.width) // 2, y + head))
    y += head + height + _GAP
  return canvas


def _scaled(picture: Image.Image | np.ndarray, cell: int) -> Image.Image:
  if not isinstance(picture, Image.Image):
    picture = Image.fromarray(picture)
  factor = cell / max(picture.size)
  w, h = (max(1, round(side * factor)) for side in picture.size)
  # Pixels of a small picture stay squares, as in `drawing.annotated`.
  method = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
  return picture.convert("RGB").resize((w, h), method)
