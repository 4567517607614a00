"""A chart of lines, drawn with matplotlib."""

import os
from collections.abc import Sequence
from typing import Any

from sseg_jax.errors import InputError

_MARKED = 12  # a line of at most so many points shows each of them


def axes(size: tuple[float, float], dpi: int) -> tuple[Any, Any]:
  """Returns an empty figure of matplotlib, whose canvas draws pixels, and axes.

  Args:
    size: width and height in inches.
    dpi: pixels an inch.

  Raises:
    InputError: matplotlib is not installed.
  """
  try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
  except ImportError as error:
    raise InputError(
      "matplotlib is not installed; curves need it: pip install matplotlib"
    ) from error
  figure = Figure(figsize=size, dpi=dpi, layout="constrained")
  FigureCanvasAgg(figure)
  plot = figure.add_subplot()
  plot.spines[["top", "right"]].set_visible(False)
  return figure, plot


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
  figure, plot = axes((6, 3.8), dpi=150)
  for name, (abscissae, ordinates) in lines.items():
    marker = "o" if len(abscissae) <= _MARKED else None
    plot.plot(abscissae, ordinates, label=name, marker=marker, linewidth=1.8)
  if mark:
    plot.plot(*mark[:2], "o", color="black", markersize=6)
    low, high = plot.get_xlim()
    right = mark[0] > (low + high) / 2  # text to the left has more room
    plot.annotate(
      mark[2],
      mark[:2],
      (-8 if right else 8, -24),
      textcoords="offset points",
      ha="right" if right else "left",
      fontsize=9,
      bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
    )
  plot.set(title=title, xlabel=x, ylabel=y)
  plot.grid(alpha=0.25)
  if len(lines) > 1:
    plot.legend(frameon=False)
  figure.savefig(path)
