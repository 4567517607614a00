"""Draws overlays, legends and grids of predictions.

The functions of `writer` and `line_chart` can be imported from here as well.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from sseg_jax.images.label_maps import ignored_label
from sseg_jax.images.line_chart import curve
from sseg_jax.images.palette import palette
from sseg_jax.images.writer import IGNORED_COLOUR, is_ours, save, save_labels

__all__ = [
  "annotated",
  "beside",
  "colourize",
  "curve",
  "grid",
  "is_ours",
  "legend",
  "overlay",
  "palette",
  "save",
  "save_labels",
]

_INK = (32, 32, 36)
_PALE = (120, 120, 128)
_PAPER = (255, 255, 255)
_BAND_PIXELS = 2**20


def colourize(
  labels: Int[np.ndarray, "h w"], colours: UInt8[np.ndarray, "c 3"]
) -> UInt8[np.ndarray, "h w 3"]:
  """Paints a label map; labels without a colour become light grey."""
  count = len(colours)
  table = np.concatenate([colours, np.array([IGNORED_COLOUR], np.uint8)])
  return table[np.where((labels >= 0) & (labels < count), labels, count)]


def overlay(
  image: UInt8[np.ndarray, "h w 3"],
  labels: Int[np.ndarray, "h w"],
  colours: UInt8[np.ndarray, "c 3"],
  *,
  has_background: bool,
  opacity: float = 0.55,
) -> UInt8[np.ndarray, "h w 3"]:
  """Paints masks over a picture, with outlines; background is only darkened."""
  edge = _edges(labels, max(1, round(min(labels.shape) / 300)))
  out = np.empty_like(image)
  # Band by band, because mixing takes ten times the picture's memory.
  rows = max(1, _BAND_PIXELS // labels.shape[1])
  for top in range(0, len(labels), rows):
    band = slice(top, top + rows)
    out[band] = _mixed(
      image[band],
      labels[band],
      edge[band],
      colours,
      has_background=has_background,
      opacity=opacity,
    )
  return out


def _mixed(
  image: np.ndarray,
  labels: np.ndarray,
  edge: np.ndarray,
  colours: np.ndarray,
  *,
  has_background: bool,
  opacity: float,
) -> np.ndarray:
  picture = image.astype(np.float32)
  painted = colourize(labels, colours).astype(np.float32)
  mixed = picture + (painted - picture) * opacity
  if has_background:
    grey = picture.mean(-1, keepdims=True)
    dimmed = 0.6 * (0.5 * picture + 0.5 * grey)
    mixed = np.where((labels == 0)[..., None], dimmed, mixed)
  mixed[edge] = 0.25 * mixed[edge] + 0.75 * 255
  return np.clip(mixed + 0.5, 0, 255).astype(np.uint8)


def _edges(labels: np.ndarray, width: int) -> np.ndarray:
  edge = np.zeros(labels.shape, bool)
  for i in range(1, width + 1):
    edge[i:] |= labels[i:] != labels[:-i]
    edge[:, i:] |= labels[:, i:] != labels[:, :-i]
  return edge


def _font(
  size: int, text: str = ""
) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
  if not text.isascii():
    # Pillow's own font has only Latin letters.
    for name in ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Arial.ttf"):
      try:
        return ImageFont.truetype(name, size)
      except OSError:
        continue
  return ImageFont.load_default(size)


def legend(
  entries: Sequence[tuple[tuple[int, int, int], str, str]],
  *,
  height: int = 0,
  size: int = 16,
  max_width: int = 360,
) -> UInt8[np.ndarray, "h w 3"]:
  """Draws a small box of each colour, with a name and a value beside it.

  Args:
    entries: colour, name and value (or "") of each line.
    height: smallest height in pixels; entries that do not fit start a new
      column.
    size: of the letters, in pixels.
    max_width: of a name, in pixels; a longer name is cut and ends in "...".
  """
  gap, line = size, round(size * 1.6)
  rows = max(1, (max(height, 6 * line) - 2 * gap) // line)
  columns = [entries[i : i + rows] for i in range(0, len(entries), rows)]
  plans = []
  for column in columns:
    names = [_fitted(name, size, max_width) for _, name, _ in column]
    wide = max(_font(size, n).getlength(n) for n in names)
    value = max(_font(size, v).getlength(v) for _, _, v in column)
    plans.append((column, names, round(wide), round(value)))
  width = gap + sum(
    line + wide + value + (gap if value else 0) + gap
    for _, _, wide, value in plans
  )
  longest = max((len(column) for column in columns), default=0)
  canvas = Image.new(
    "RGB", (width, max(height, 2 * gap + longest * line)), _PAPER
  )
  draw = ImageDraw.Draw(canvas)
  x = gap
  for column, names, wide, value in plans:
    for i, ((colour, _, text), name) in enumerate(
      zip(column, names, strict=True)
    ):
      y = gap + i * line
      box = (x, y + 2, x + size, y + 2 + size)
      draw.rectangle(box, colour, outline=_PALE)
      middle = y + 2 + size // 2
      font = _font(size, name)
      draw.text((x + line, middle), name, _INK, font, anchor="lm")
      if text:
        right = x + line + wide + gap + value
        draw.text((right, middle), text, _PALE, font, anchor="rm")
    x += line + wide + value + (gap if value else 0) + gap
  return np.asarray(canvas)


def _fitted(text: str, size: int, width: int) -> str:
  font = _font(size, text)
  # Letters are wider than a pixel; to measure thousands takes seconds.
  is_long = len(text) > width
  text = text[:width]
  if not is_long and font.getlength(text) <= width:
    return text
  while text and font.getlength(text + "...") > width:
    text = text[:-1]
  return text + "..."


def beside(*parts: UInt8[np.ndarray, "_ _ 3"]) -> UInt8[np.ndarray, "h w 3"]:
  """Puts pictures side by side on white, aligned at the top."""
  h = max(part.shape[0] for part in parts)
  return np.concatenate(
    [
      np.pad(p, ((0, h - len(p)), (0, 0), (0, 0)), constant_values=255)
      for p in parts
    ],
    axis=1,
  )


def annotated(
  image: UInt8[np.ndarray, "h w 3"],
  labels: Int[np.ndarray, "h w"],
  names: Sequence[str],
  colours: UInt8[np.ndarray, "c 3"],
  *,
  has_background: bool,
) -> UInt8[np.ndarray, "h2 w2 3"]:
  """Draws an overlay, and a legend of all names and their shares of pixels.

  A small picture is enlarged, so that the legend is not larger than it.
  """
  factor = max(1, -(-360 // max(image.shape[:2])))
  if factor > 1:
    image, labels = (
      x.repeat(factor, 0).repeat(factor, 1) for x in (image, labels)
    )
  shares = np.bincount(labels.ravel(), minlength=len(names)) / labels.size
  entries = [
    (tuple(colour.tolist()), name, f"{100 * share:.1f} %")
    for colour, name, share in zip(colours, names, shares, strict=True)
  ]
  painted = overlay(image, labels, colours, has_background=has_background)
  size = int(np.clip(min(image.shape[:2]) / 24, 14, 48))
  return beside(
    painted,
    legend(entries, height=len(painted), size=size, max_width=20 * size),
  )


def grid(
  rows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
  class_names: Sequence[str],
  *,
  has_background: bool,
  cell: int = 240,
  pairs: int | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
  """Draws (picture, truth, prediction) of several samples, with a legend.

  Args:
    rows: uint8 picture [h, w, 3], labels [h, w], predicted labels [h, w].
    class_names: without background.
    has_background: whether label 0 is background.
    cell: width of one picture in the grid.
    pairs: number of samples in a row; by default 1, and 2 for four samples or
      more.
  """
  names = (("background",) if has_background else ()) + tuple(class_names)
  present: set[int] = set()
  for _, truth, guess in rows:
    present.update(np.unique(truth).tolist(), np.unique(guess).tolist())
  shown = sorted(i for i in present if 0 <= i < len(names))
  if has_background and 0 not in shown:
    shown.insert(0, 0)
  # Only classes that occur get a colour: few colours are easy to tell apart.
  colours = np.zeros((len(names), 3), np.uint8)
  distinct = palette(min(len(shown), 255), has_background=has_background)
  # Above 255 classes at once, colours repeat.
  colours[shown] = distinct[np.arange(len(shown)) % max(1, len(distinct))]
  pairs = pairs or (2 if len(rows) >= 4 else 1)
  gap, head = 8, 34
  wide = 3 * cell + 2 * gap
  lines = [rows[i : i + pairs] for i in range(0, len(rows), pairs)]
  heights = [
    max(_fit(image.shape[:2], cell)[0] for image, _, _ in line)
    for line in lines
  ]
  canvas = Image.new(
    "RGB",
    (
      2 * gap + pairs * wide + (pairs - 1) * 3 * gap,
      head + sum(heights) + gap * len(lines),
    ),
    _PAPER,
  )
  draw = ImageDraw.Draw(canvas)
  y = head
  for line, height in zip(lines, heights, strict=True):
    for i, (image, truth, guess) in enumerate(line):
      h, w = _fit(image.shape[:2], cell)
      for j, (title, part, method) in enumerate(
        (
          ("picture", image, Image.Resampling.LANCZOS),
          ("truth", colourize(truth, colours), Image.Resampling.NEAREST),
          ("prediction", colourize(guess, colours), Image.Resampling.NEAREST),
        )
      ):
        x = gap + i * (wide + 3 * gap) + j * (cell + gap)
        if y == head:
          at = (x + cell // 2, head // 2)
          draw.text(at, title, _INK, _font(16), anchor="mm")
        small = Image.fromarray(part).resize((w, h), method)
        canvas.paste(small, (x + (cell - w) // 2, y + (height - h) // 2))
    y += height + gap
  entries = [(tuple(colours[i].tolist()), names[i], "") for i in shown]
  if ignored_label(len(names)) in present:
    entries.append((IGNORED_COLOUR, "ignored", ""))
  return beside(np.asarray(canvas), legend(entries, height=canvas.height))


def _fit(size: tuple[int, int], cell: int) -> tuple[int, int]:
  """Height and width of a picture whose longer side fills a cell."""
  factor = cell / max(size)
  return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
