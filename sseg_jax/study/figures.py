"""Figures 11 and 12 of the paper, from runs of self-training.

Figure 11: regions that the teacher missed and the student finds. Figure 12:
mIoU over the number of training pairs, with and without self-training.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw

from sseg_jax import benchmarks, files
from sseg_jax.errors import InputError
from sseg_jax.images import drawing, line_chart, sheet
from sseg_jax.images.reader import ignored_label

RESULT = "result.json"
_SHOWN = 4  # pictures of figure 11
_FRAME = (230, 30, 30)


class Found(NamedTuple):
  """A region that the teacher missed and the student found.

  Attributes:
    label: its true class.
    pixels: how many of its pixels the student alone has right, less those that
      the teacher alone has right.
    box: of the student's gain, (left, top, right, bottom), ends left out.
  """

  label: int
  pixels: int
  box: tuple[int, int, int, int]


def found_by_student(
  truth: Int[np.ndarray, "h w"],
  teacher: Int[np.ndarray, "h w"],
  student: Int[np.ndarray, "h w"],
  *,
  ignored: int,
  has_background: bool,
) -> Found | None:
  """Returns the class of a picture in which the student gains most.

  Args:
    truth: label map.
    teacher: labels of the teacher.
    student: labels of the student.
    ignored: the label of pixels that do not count.
    has_background: whether label 0 is background, which is no region.

  Returns:
    The class with the largest gain in pixels; None if no class has a gain.
  """
  best = None
  for label in np.unique(truth):
    if label == ignored or (has_background and label == 0):
      continue
    mine = truth == label
    gained = mine & (student == label) & (teacher != label)
    lost = mine & (student != label) & (teacher == label)
    pixels = int(gained.sum()) - int(lost.sum())
    if pixels > 0 and (best is None or pixels > best.pixels):
      rows, columns = np.nonzero(gained)
      left, top = int(columns.min()), int(rows.min())
      right, bottom = int(columns.max()) + 1, int(rows.max()) + 1
      best = Found(int(label), pixels, (left, top, right, bottom))
  return best


def figure_11(
  run: Path, spec: str, out: Path, *, data_root: str = ".", most: int = 200
) -> list[dict[str, Any]]:
  """Draws the pictures in which the student gains most over its teacher.

  The rule: of the first `most` pictures of the benchmark, those four whose
  `found_by_student` has the largest share of the picture.

  Args:
    run: work directory of a finished S-Seg+ run.
    spec: a benchmark, see `benchmarks.open_benchmark`.
    out: folder; gets figure_11.png and figure_11.json.
    data_root: as for `benchmarks.open_benchmark`.
    most: how many pictures are looked at.

  Returns:
    Picture, class, gain in percent of its pixels, and box of each row.
  """
  # Imported here, because these load JAX.
  from sseg_jax.inference import api

  result = read(run)
  models = [
    api.load(path)
    for path in (
      result["teacher"]["checkpoint"],
      result["rounds"][-1]["student"]
      if result.get("rounds")
      else run / "student",
    )
  ]
  opened = benchmarks.open_benchmark(spec, data_root)
  found = _gains(models, opened, most)
  if not found:
    raise InputError(
      f"figure=11: in no picture of {spec} does the student of {run} find what"
      " its teacher missed"
    )
  cells = [cell for row in found for cell in _cells(opened, *row)]
  sheet.sheet(cells).save(out / "figure_11.png")
  told = [
    {
      "picture": sample.id,
      "class": _names(opened)[region.label],
      "gain": round(share, 2),
      "box": list(region.box),
    }
    for share, sample, _, region in found
  ]
  files.write_text(out / "figure_11.json", json.dumps(told, indent=2) + "\n")
  return told


def _names(opened: Any) -> list[str]:
  first = ["background"] if opened.has_background else []
  return first + list(opened.class_names)


def _gains(models: Sequence[Any], opened: Any, most: int) -> list[Any]:
  """Returns share, sample, both label maps and region, the best rows first."""
  rows = []
  for i in range(min(most, len(opened))):
    sample = opened[i]
    labels = [
      np.asarray(
        model.segment(
          sample.image,
          list(opened.class_names),
          background=opened.has_background,
        ).labels,
        np.int32,
      )
      for model in models
    ]
    region = found_by_student(
      sample.labels,
      *labels,
      ignored=ignored_label(len(_names(opened))),
      has_background=opened.has_background,
    )
    if region:
      share = 100 * region.pixels / sample.labels.size
      rows.append((share, sample, labels, region))
  return sorted(rows, key=lambda row: -row[0])[:_SHOWN]


def _cells(
  opened: Any, share: float, sample: Any, labels: list[Any], region: Found
) -> list[tuple[str, np.ndarray]]:
  """Returns a row of the figure: picture, teacher, student, true labels."""
  background = opened.has_background
  colours = drawing.palette(len(_names(opened)), has_background=background)
  title = f"{_names(opened)[region.label]}: +{share:.1f} %"
  cells = [(title, framed(sample.image, region.box))]
  named = zip(
    ("teacher", "student", "truth"), (*labels, sample.labels), strict=True
  )
  for title, each in named:
    overlay = drawing.overlay(
      sample.image,
      np.asarray(each, np.int32),
      colours,
      has_background=background,
    )
    cells.append((title, framed(overlay, region.box)))
  return cells


def framed(
  image: UInt8[np.ndarray, "h w 3"], box: tuple[int, int, int, int]
) -> UInt8[np.ndarray, "h w 3"]:
  """Returns a picture with a coloured rectangle around a box."""
  picture = Image.fromarray(np.asarray(image))
  width = max(1, min(picture.size) // 80)
  left, top, right, bottom = box
  ImageDraw.Draw(picture).rectangle(
    (left, top, right - 1, bottom - 1), outline=_FRAME, width=width
  )
  return np.asarray(picture)


def figure_12(runs: dict[int, Path], out: Path) -> list[dict[str, Any]]:
  """Draws mIoU over the number of pairs, with and without self-training.

  Args:
    runs: number of the teacher's training pairs -> work directory of a finished
      S-Seg+ run.
    out: folder; gets figure_12.png and figure_12.json.

  Returns:
    Of each run the pairs and the mean mIoU of teacher and student over the
    benchmarks that all runs have.
  """
  results = {size: read(path) for size, path in sorted(runs.items())}
  scores = {
    size: {
      name: {
        k: v["mIoU"]
        for k, v in result[name]["benchmarks"].items()
        if v["mIoU"] is not None
      }
      for name in ("teacher", "student")
    }
    for size, result in results.items()
  }
  common = set.intersection(
    *(set(v) for each in scores.values() for v in each.values())
  )
  if not common:
    raise InputError(
      "figure=12: the runs have no benchmark in common; score all on the same"
    )
  rows = [
    {"pairs": size}
    | {
      name: round(float(np.mean([each[name][k] for k in sorted(common)])), 2)
      for name in ("teacher", "student")
    }
    for size, each in scores.items()
  ]
  sizes = [row["pairs"] for row in rows]
  line_chart.curve(
    out / "figure_12.png",
    {
      "with self-training": (sizes, [row["student"] for row in rows]),
      "without": (sizes, [row["teacher"] for row in rows]),
    },
    title=f"mean mIoU of {', '.join(sorted(common))}",
    x="training pairs",
    y="mIoU",
  )
  files.write_text(out / "figure_12.json", json.dumps(rows, indent=2) + "\n")
  return rows


def parse_runs(text: str) -> dict[int, Path]:
  """Reads "2048=runs/a,4096=runs/b": training pairs and work directories."""
  found: dict[int, Path] = {}
  for part in text.split(","):
    size, equals, path = part.strip().partition("=")
    if not (equals and path and size.isdecimal() and int(size)):
      raise InputError(
        f"runs={text!r}: give PAIRS=WORKDIR for each run, as 4096=runs/plus"
      )
    if int(size) in found:
      raise InputError(f"runs={text!r}: {size} pairs occur twice")
    found[int(size)] = Path(files.expand(path))
  return found


def read(run: Path) -> dict[str, Any]:
  """Returns the result of a finished S-Seg+ run."""
  path = run / RESULT
  try:
    result = json.loads(path.read_text())
    if {"teacher", "student", "difference"} <= result.keys():
      return result
  except (OSError, ValueError, AttributeError) as error:
    raise InputError(
      f"{path}: no result of self-training ({error}); give the work directory"
      " of a finished run with self_training.teacher"
    ) from error
  raise InputError(
    f"{path}: is the result of a run without self_training.teacher; give one"
    " with it"
  )


def draw(figure: int, runs: str, flags: Any) -> Sequence[dict[str, Any]]:
  """Draws a figure as the command's flags say, and returns its rows."""
  if not runs:
    raise InputError(f"runs is empty: figure={figure} needs finished runs")
  files.make_folder("out", flags.out)
  if figure == 12:
    return figure_12(parse_runs(runs), flags.out)
  return figure_11(
    Path(files.expand(runs)),
    flags.benchmarks,
    flags.out,
    data_root=flags.data_root or ".",
  )
