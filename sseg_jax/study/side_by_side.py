"""Figures 3, 8 and 9 of the paper: pictures with what systems find in them.

Figure 3: runs of S-Seg beside the truth; all classes of a benchmark are
queries. Figure 8: pseudo-masks with oracle labels. Figure 9: several systems
beside each other. Labels are made by the code that `evaluate` scores, with the
same prompts, windows and thresholds.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from sseg_jax import (
  baselines,
  benchmarks,
  checkpoint_scores,
  figures,
  files,
  prompts,
  system_scores,
)
from sseg_jax.baselines import trained
from sseg_jax.baselines.options import Options
from sseg_jax.benchmarks.sample import Benchmark, Sample
from sseg_jax.errors import InputError
from sseg_jax.images import drawing, reader
from sseg_jax.images.label_maps import ignored_label
from sseg_jax.images.palette import palette
from sseg_jax.images.sheet import sheet
from sseg_jax.images.writer import IGNORED_COLOUR
from sseg_jax.inference import api

_CELL = 280  # side of a picture in the figure, in pixels
_OPACITY = 0.65  # of masks
_TITLES = {
  "sseg": "S-Seg",
  "clip": "CLIP",
  "maskclip": "MaskCLIP",
  "groupvit": "GroupViT",
  "b1": "B1",
  "b2": "B2",
  "linear_probe": "linear probe",
  "maskformer": "MaskFormer",
}
# Systems of `--figure=9`; those that `main` trains come first.
_SYSTEMS = (trained.METHOD, *trained.TRAINED, *baselines.SYSTEMS)


class Shown(NamedTuple):
  """A column of a figure.

  Attributes:
    title: above its pictures.
    system: one of `_SYSTEMS`, or "" for what a checkpoint is.
    place: the checkpoint, weights or folder of label maps.
  """

  title: str
  system: str
  place: str


class _Collected:
  """Pictures of benchmarks and their labels; an observer of `Settings`."""

  def __init__(self):
    self.opened: dict[str, Benchmark] = {}
    self.rows: dict[str, list[tuple[Sample, np.ndarray]]] = {}

  def __call__(self, benchmark: Benchmark) -> Callable:
    self.opened[benchmark.name] = benchmark
    rows = self.rows.setdefault(benchmark.name, [])
    return lambda sample, labels: rows.append((sample, labels))


def draw(figure: int, flags: Any) -> dict[str, Any]:
  """Draws figure 3, 8 or 9 as the flags of `study` say.

  Returns:
    What is written to figure_N.json: for each PNG its pictures, and for each
    system the protocol, the background threshold and the mIoU on these pictures
    alone.
  """
  if flags.pictures < 1:
    raise InputError(f"pictures={flags.pictures}: must be at least 1")
  wanted = _runs(flags.runs) if figure in (3, 8) else _systems(flags.systems)
  if figure != 9 and (flags.image or flags.words):
    raise InputError(f"image, words: belong to figure=9, not to {figure}")
  files.make_folder("out", flags.out)
  if figure == 8:
    told = _figure_8(wanted, flags)
  elif flags.image or flags.words:
    with tempfile.TemporaryDirectory() as folder:
      spec = _as_benchmark(Path(folder) / "picture", flags)
      told = _compared(figure, wanted, spec, flags, with_truth=False)
  else:
    told = _compared(figure, wanted, flags.benchmarks, flags)
  path = flags.out / f"figure_{figure}.json"
  files.write_text(path, json.dumps(told, indent=2) + "\n")
  return told


def _figure_8(wanted: Sequence[Shown], flags: Any) -> dict[str, Any]:
  if len(wanted) != 1:
    raise InputError(f"runs={flags.runs}: figure=8 takes one run")
  model = api.load(wanted[0].place)
  told = {}
  for spec in benchmarks.parse_specs(flags.benchmarks):
    opened = benchmarks.open_benchmark(spec, flags.data_root or ".")
    name = f"figure_8_{opened.name}.png"
    picture = figures.pseudo_masks(model, opened, count=flags.pictures)
    drawing.save(flags.out / name, np.asarray(picture))
    told[name] = {"pictures": min(flags.pictures, len(opened))}
  return told


def _compared(
  figure: int,
  wanted: Sequence[Shown],
  specs: str,
  flags: Any,
  *,
  with_truth: bool = True,
) -> dict[str, Any]:
  """Lets each system label the pictures, and draws a PNG a benchmark."""
  found = [
    _labelled(shown, benchmarks.parse_specs(specs), flags) for shown in wanted
  ]
  told = {}
  for name, opened in found[0][0].opened.items():
    columns = [collected.rows[name] for collected, _ in found]
    picture = side_by_side(
      opened, [shown.title for shown in wanted], columns, with_truth=with_truth
    )
    drawing.save(flags.out / f"figure_{figure}_{name}.png", picture)
    fields = ("system", "protocol", "threshold", "threshold_source", "mIoU")
    told[f"figure_{figure}_{name}.png"] = {
      "pictures": [sample.id for sample, _ in columns[0]],
      "systems": [
        {"title": shown.title, "place": shown.place}
        | {field: results[name][field] for field in fields}
        for shown, (_, results) in zip(wanted, found, strict=True)
      ],
    }
  return told


def _labelled(
  shown: Shown, specs: Sequence[str], flags: Any
) -> tuple[_Collected, dict[str, dict[str, Any]]]:
  """Returns the labels of one system, and its results."""
  collected = _Collected()
  made_elsewhere = shown.system == "predictions"
  settings = checkpoint_scores.Settings(
    data_root=flags.data_root or ".",
    max_images=flags.pictures,
    store=False,
    protocol=None if made_elsewhere else flags.protocol,
    observer=collected,
  )
  if not shown.system or trained.is_trained(shown.system):
    results = checkpoint_scores.run(shown.place, specs, settings, shown.system)
    return collected, results
  options = (
    Options(predictions=shown.place)
    if made_elsewhere
    else Options(weights=shown.place)
  )
  return collected, system_scores.run(shown.system, specs, settings, options)


def side_by_side(
  benchmark: Benchmark,
  titles: Sequence[str],
  columns: Sequence[Sequence[tuple[Sample, Int[np.ndarray, "_ _"]]]],
  *,
  with_truth: bool = True,
) -> UInt8[np.ndarray, "h w 3"]:
  """Draws a row for each picture: itself, the columns, the truth, a legend.

  A class has the same colour everywhere. The legend of a row names the classes
  that occur in it.

  Args:
    benchmark: whose pictures they are.
    titles: of the columns.
    columns: samples with their labels, the same samples in each.
    with_truth: whether the samples have labels worth drawing.
  """
  has_background = benchmark.has_background
  names = (*(["background"] * has_background), *benchmark.class_names)
  rows = []
  for parts in zip(*columns, strict=True):
    maps = [labels for _, labels in parts]
    truth = [parts[0][0].labels] if with_truth else []
    rows.append((parts[0][0], [*maps, *truth]))
  shown = _present([m for _, maps in rows for m in maps], len(names))
  colours = np.zeros((len(names), 3), np.uint8)
  others = [i for i in shown if i or not has_background]
  distinct = palette(255, has_background=False)
  colours[others] = distinct[np.arange(len(others)) % 255]
  heads = [*titles, *(["truth"] * with_truth)]
  lines = []
  for sample, maps in rows:
    cells = [("picture", sample.image)]
    # Over grey, so that colours are those of the legend.
    grey = sample.image.mean(-1, keepdims=True).round().astype(np.uint8)
    grey = grey.repeat(3, -1)
    for title, labels in zip(heads, maps, strict=True):
      painted = drawing.overlay(
        grey, labels, colours, has_background=has_background, opacity=_OPACITY
      )
      cells.append((title, painted))
    drawn = np.asarray(sheet(cells, columns=len(cells), cell=_CELL))
    entries = [
      (tuple(colours[i].tolist()), names[i], "")
      for i in _present(maps, len(names))
    ]
    if with_truth and (maps[-1] == ignored_label(len(names))).any():
      entries.append((IGNORED_COLOUR, "ignored", ""))
    lines.append(
      drawing.beside(drawn, drawing.legend(entries, height=len(drawn)))
    )
  width = max(line.shape[1] for line in lines)
  return np.concatenate(
    [
      np.pad(
        line, ((0, 0), (0, width - line.shape[1]), (0, 0)), constant_values=255
      )
      for line in lines
    ]
  )


def _present(maps: Sequence[np.ndarray], count: int) -> list[int]:
  found = np.unique(np.concatenate([np.unique(m) for m in maps]))
  return [int(i) for i in found if 0 <= i < count]


def _as_benchmark(folder: Path, flags: Any) -> str:
  """Writes a picture without labels as a benchmark whose classes are words."""
  if not (flags.image and flags.words):
    raise InputError("image, words: give both, or neither and --benchmarks")
  names = prompts.parse_words(flags.words, background=not flags.no_background)
  image = reader.read_image(Path(files.expand(flags.image)))
  for name in ("images", "labels"):
    (folder / name).mkdir(parents=True)
  classes = [*(["background"] * (not flags.no_background)), *names]
  (folder / "classes.txt").write_text("\n".join(classes), encoding="utf-8")
  Image.fromarray(image).save(folder / "images" / "picture.png")
  ignored = ignored_label(len(classes))
  labels = np.full(
    image.shape[:2], ignored, np.uint8 if ignored < 256 else np.uint16
  )
  Image.fromarray(labels).save(folder / "labels" / "picture.png")
  return str(folder)


def _runs(text: str) -> list[Shown]:
  """Reads "runs/a,S-Seg+=runs/b": work directories, with titles or without."""
  found = []
  for part in filter(None, (part.strip() for part in text.split(","))):
    title, equals, place = part.partition("=")
    if not equals:
      title, place = Path(part).name, part
    found.append(Shown(title or place, "", files.expand(place)))
  if not found:
    raise InputError("runs is empty: give work directories, as runs/a,runs/b")
  return found


def _systems(text: str) -> list[Shown]:
  """Reads "clip=CLIP,sseg=runs/a": systems, and where they are."""
  found = []
  for part in filter(None, (part.strip() for part in text.split(","))):
    system, equals, place = part.partition("=")
    if not (equals and place) or system not in _SYSTEMS:
      raise InputError(
        f"systems: {part!r} is not SYSTEM=PLACE of one of {', '.join(_SYSTEMS)}"
      )
    title = _TITLES.get(system, system)
    found.append(Shown(title, system, files.expand(place)))
  if not found:
    raise InputError(
      "systems is empty: give what is compared, as clip=CLIP,sseg=runs/a"
    )
  return found
