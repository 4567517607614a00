"""Scores as text tables; predictions, masks and curves as pictures."""

import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from sseg_jax.benchmarks.sample import Benchmark
from sseg_jax.errors import InputError
from sseg_jax.images import drawing
from sseg_jax.images.palette import palette
from sseg_jax.inference import protocols


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """Lines up columns; the first to the left, the others to the right."""
  lines = [list(header), *map(list, rows)]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  text = []
  for line in lines:
    cells = [line[0].ljust(widths[0])]
    cells += [c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)]
    text.append("  ".join(cells).rstrip())
  text.insert(1, "  ".join("-" * width for width in widths))
  return "\n".join(text)


def summary(results: Mapping[str, Mapping[str, Any]]) -> str:
  """One table for each protocol, with a line for each benchmark.

  Scores of two protocols cannot be compared, so they never share a table.
  """
  parts: dict[str, list] = {}
  for name, r in results.items():
    settings = r.get("protocol_settings")
    head = (
      protocols.Protocol(**settings).line()
      if settings
      else f"protocol {r.get('protocol', protocols.OWN)}"
    )
    parts.setdefault(head, []).append((name, r))
  return "\n\n".join(
    "\n".join([*textwrap.wrap(head, 79), _summary(rows)])
    for head, rows in parts.items()
  )


def _summary(results: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
  rows = []
  for name, r in results:
    choice = r.get("threshold_choice")
    other = choice and choice["without_labels"]
    rows.append(
      (
        name,
        _number(r["mIoU"]),
        _number(r["pixel_accuracy"]),
        str(r["images"]),
        f"{r['images_per_second']:.2f}",
        "-" if r["threshold"] is None else f"{r['threshold']:.3g}",
        r["threshold_source"] or "-",
        f"{choice['mIoU']:.2f}" if choice else "-",
        f"{other['mIoU']:.2f} at {other['threshold']:.3g}" if other else "-",
      )
    )
  header = (
    "benchmark",
    "mIoU",
    "pixel acc.",
    "images",
    "images/s",
    "threshold",
    "from",
    "mIoU there",
    "and without labels",
  )
  return table(header, rows)


def per_class(results: Mapping[str, Mapping[str, Any]]) -> str:
  """One table of class and IoU for each benchmark."""
  parts = []
  for name, r in results.items():
    rows = [(c, _number(iou)) for c, iou in r["per_class"].items()]
    parts.append(table((name, "IoU"), rows))
  return "\n\n".join(parts)


def draw(
  out: Path,
  benchmark: Benchmark,
  result: Mapping[str, Any],
  rows: Sequence[tuple],
) -> None:
  """Writes `predictions_<name>.png` and, with background, `curve_<name>.png`.

  If a picture cannot be drawn or written, one line says so and no error is
  raised, so that the scores are not lost.

  Args:
    out: an existing folder.
    benchmark: what was evaluated.
    result: as `evaluate` returns it.
    rows: (picture, truth, predicted labels) of some samples.
  """
  name = benchmark.name
  if rows:
    picture = drawing.grid(
      rows, benchmark.class_names, has_background=benchmark.has_background
    )
    try:
      drawing.save(out / f"predictions_{name}.png", picture)
    except InputError as error:
      print(f"no pictures of {name}: {error}", file=sys.stderr)
  if "curve" in result:
    points = result["curve"]
    x = [point["threshold"] for point in points]
    y = [point["mIoU"] for point in points]
    t = result["threshold"]
    try:
      drawing.curve(
        out / f"curve_{name}.png",
        {name: (x, y)},
        title=f"{name}: mIoU against the background threshold",
        x="background threshold",
        y="mIoU",
        mark=(t, result["mIoU"], f"{result['mIoU']:.2f} at {t:.3g}"),
      )
    except (InputError, OSError) as error:
      print(f"no curve of {name}: {error}", file=sys.stderr)


def masks(
  samples: Mapping[str, Sequence], rows: Sequence[str], cell: int = 224
) -> UInt8[np.ndarray, "h w 3"]:
  """Draws a line for each picture: the picture, then it with each row's masks.

  Args:
    samples: id -> (sample, row -> segments at any size).
    rows: order of the columns.
    cell: height and width of a picture here, its ratio dropped.
  """
  # Of more segments than 255, some share a colour.
  colours = palette(255, has_background=False)
  lines = []
  for sample, found in samples.values():
    image = _nearest(sample.image, cell)
    parts = [image]
    for row in rows:
      labels = _nearest(found[row], cell) % len(colours)
      parts.append(
        drawing.overlay(image, labels, colours, has_background=False)
      )
    gap = ((2, 2), (2, 2), (0, 0))
    parts = [np.pad(part, gap, constant_values=255) for part in parts]
    lines.append(drawing.beside(*parts))
  return np.concatenate(lines)


def _nearest(array: np.ndarray, side: int) -> np.ndarray:
  rows = np.arange(side) * array.shape[0] // side
  columns = np.arange(side) * array.shape[1] // side
  return array[rows][:, columns]


def _number(value: float | None) -> str:
  return "-" if value is None else f"{value:.2f}"
