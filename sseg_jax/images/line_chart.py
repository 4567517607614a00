"""A chart of lines, drawn with matplotlib."""

import os
from collections.abc import Sequence

from sseg_jax.errors import InputError
from sseg_jax.images.palette import palette


def curve(
  path: str | os.PathLike,
  lines: dict[str, tuple[Sequence[float], Sequence[float]]],
  *,
  title: str,
  x: str,
  y: str,
  mark: tuple[float, float, str] | None = None,
) -> None:
  """Draws lines (name -> abscissae, ordinates) and one marked point to a PNG.

  Needs matplotlib; InputError says so where it is missing.
  """
  try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
  except ImportError as error:
    raise InputError(
      "matplotlib is not installed; curves need it: pip install matplotlib"
    ) from error
  figure = Figure(figsize=(6, 3.8), dpi=150, layout="constrained")
  FigureCanvasAgg(figure)
  axes = figure.add_subplot()
  colours = palette(len(lines), has_background=False)
  for i, (name, (abscissae, ordinates)) in enumerate(lines.items()):
    colour = colours[i] / 255
    axes.plot(abscissae, ordinates, color=colour, label=name, linewidth=1.8)
  if mark:
    axes.plot(*mark[:2], "o", color="black", markersize=6)
    axes.annotate(
      mark[2], mark[:2], (8, -14), textcoords="offset points", fontsize=9
    )
  axes.set(title=title, xlabel=x, ylabel=y)
  axes.grid(alpha=0.25)
  axes.spines[["top", "right"]].set_visible(False)
  if len(lines) > 1:
    axes.legend(frameon=False)
  figure.savefig(path)
