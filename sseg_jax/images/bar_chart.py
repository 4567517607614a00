"""A chart of named bars, drawn with matplotlib."""

import warnings
from collections.abc import Mapping

import numpy as np
from PIL import Image

from sseg_jax.images import line_chart
from sseg_jax.images.palette import palette


def bars(
  values: Mapping[str, float | None], *, title: str, x: str, highest: float
) -> Image.Image:
  """Draws one horizontal bar a name, the longest at the top.

  Args:
    values: name -> value; None is a name without a value, drawn last.
    title: stands above.
    x: what the values are.
    highest: end of the axis, which starts at 0.

  Raises:
    InputError: matplotlib is not installed.
  """
  ordered = sorted(
    values.items(), key=lambda item: -1.0 if item[1] is None else item[1]
  )
  figure, axes = line_chart.axes((6.4, 1.2 + 0.24 * len(ordered)), dpi=110)
  places = np.arange(len(ordered))
  lengths = [value or 0.0 for _, value in ordered]
  colour = palette(3, has_background=False)[2] / 255
  axes.barh(places, lengths, height=0.7, color=colour, alpha=0.75)
  for place, (_, value) in zip(places, ordered, strict=True):
    text = "does not occur" if value is None else f"{value:.1f}"
    at = ((value or 0) + highest / 100, place)
    axes.annotate(text, at, va="center", fontsize=8)
  axes.set(title=title, xlabel=x, xlim=(0, highest * 1.08))
  axes.set_ylim(-0.6, len(ordered) - 0.4)
  axes.set_yticks(places, [_plain(name) for name, _ in ordered], fontsize=9)
  axes.grid(axis="x", alpha=0.25)
  with warnings.catch_warnings():
    # Letters that matplotlib's font lacks become boxes.
    warnings.filterwarnings("ignore", message="Glyph")
    figure.canvas.draw()
  return Image.fromarray(np.array(figure.canvas.buffer_rgba())).convert("RGB")


def _plain(name: str) -> str:
  """Returns a short name in which no $ starts a formula."""
  short = name if len(name) <= 28 else name[:27] + "…"
  return short.replace("$", r"\$")
