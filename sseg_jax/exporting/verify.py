"""Runs an exported folder on pictures and compares it with this package."""

import dataclasses
import importlib.util
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sseg_jax.exporting.source import Source
from sseg_jax.exporting.towers import Towers

LARGEST_DIFFERENCE = 1e-4  # of the largest score
# Where masks are refined: a rounding error moves a pixel between two clusters,
# and with it the mean score of both regions. Their labels must be equal still.
LARGEST_REFINED = 1e-2
SMALLEST_SHARE = 0.999  # of pixels with an equal label
# Combiners that choose one query: a rounding error at a mask's edge changes the
# choice, and so the score, of single pixels.
_CHOOSING = ("hard", "smallest")
_TURNS = 5


class Failed(Exception):
  """The file gives something else than this package; the message says what."""


@dataclasses.dataclass(frozen=True)
class Report:
  """What was measured.

  Attributes:
    pictures: how many pictures were compared.
    megabytes: of the folder.
    seconds: median time of one window, with words that are encoded already.
    seconds_here: of the same by the jitted network in this process.
    difference: largest difference of a score, as a share of the largest score;
      where the combiner chooses a query, of 99.9 % of the pixels.
    largest: the same of all pixels.
    equal: share of pixels with an equal label.
  """

  pictures: int
  megabytes: float
  seconds: float
  seconds_here: float
  difference: float
  largest: float
  equal: float

  def line(self) -> str:
    """Returns the report as a line of text."""
    return (
      f"{self.megabytes:.1f} MB, {1e3 * self.seconds:.0f} ms a window"
      f" ({1e3 * self.seconds_here:.0f} ms by the jitted network here);"
      f" {self.pictures} pictures: largest difference {self.difference:.1e},"
      f" equal pixels {100 * self.equal:.3f} %"
    )


def pictures(side: int) -> list[np.ndarray]:
  """Draws three pictures of soft colours, of different sizes, uint8."""
  rng = np.random.default_rng(0)
  sizes = ((side, side), (side, side * 5 // 4), (side * 4 // 3, side * 7 // 8))
  drawn = []
  for h, w in sizes:
    cells = rng.uniform(0, 255, (5, 6, 3))
    rows = np.linspace(0, 4, h).round().astype(int)
    columns = np.linspace(0, 5, w).round().astype(int)
    picture = cells[rows][:, columns] + 12 * np.sin(np.arange(w) / 9)[:, None]
    drawn.append(np.clip(picture, 0, 255).astype(np.uint8))
  return drawn


def module(folder: Path) -> ModuleType:
  """Returns a folder's `run.py`, imported."""
  spec = importlib.util.spec_from_file_location(
    "sseg_jax_exported_run", folder / "run.py"
  )
  assert spec is not None and spec.loader is not None
  run = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(run)
  return run


def check(
  folder: Path,
  fields: dict[str, Any],
  source: Source,
  towers: Towers,
  images: Sequence[np.ndarray],
) -> Report:
  """Compares a folder, by its own `run.py`, with the network it was made of.

  Args:
    folder: of a format.
    fields: of its `config.json`.
    source: the checkpoint.
    towers: what was exported.
    images: pictures, uint8 [h, w, 3] each.

  Raises:
    Failed: if scores or labels differ by more than is allowed, or a batch gives
      something else than its pictures one by one.
  """
  run = module(folder)
  embed, segment = run.load(folder)
  words = list(source.words)
  classes = np.asarray(embed(run.token_ids(fields, words)))
  choosing = source.segmenter.combiner in _CHOOSING
  compared = [
    compare(
      *_found(run, fields, segment, classes, image),
      *source.wanted(towers.refine, image),
      choosing=choosing,
    )
    for image in images
  ]
  report = _report(folder, compared, *_times(segment, classes, towers))
  if not report.difference <= _bound(towers):
    raise Failed(
      f"scores differ by {report.difference:.1e} of the largest, more than"
      f" {_bound(towers):.0e}"
    )
  if not report.equal >= SMALLEST_SHARE:
    raise Failed(f"{100 * report.equal:.2f} % of the labels are equal")
  if fields["dynamic"]:
    _check_batch(segment, classes, towers)
  return report


def _found(run, fields, segment, classes, image) -> tuple[Any, Any]:
  """Returns scores and labels as `run.py` computes them."""
  scores = run.scores(fields, segment, classes, image)
  best = scores.max(-1)
  limit = run.threshold(fields["rule"], best, len(classes))
  limit = float(min(limit, best.max()))
  return scores, np.where(best >= limit, scores.argmax(-1) + 1, 0)


def compare(
  scores: Float[np.ndarray, "h w c"],
  labels: Int[np.ndarray, "h w"],
  wanted: Float[np.ndarray, "h w c"],
  wanted_labels: Int[np.ndarray, "h w"],
  *,
  choosing: bool,
) -> tuple[float, float, float]:
  """Returns how the scores and labels of a picture differ.

  Returns:
    The largest difference of 99.9 % of the pixels if the combiner is
    `choosing` a query, else of all; of all; and the share of equal labels.
  """
  apart = np.abs(scores - wanted).max(-1) / wanted.max()
  largest = float(apart.max())
  usual = float(np.quantile(apart, 0.999)) if choosing else largest
  return usual, largest, float((labels == wanted_labels).mean())


def _report(folder, compared, seconds, seconds_here) -> Report:
  size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
  usual, largest, equal = zip(*compared, strict=True)
  return Report(
    pictures=len(compared),
    megabytes=size / 1e6,
    seconds=seconds,
    seconds_here=seconds_here,
    difference=max(usual),
    largest=max(largest),
    equal=float(np.mean(equal)),
  )


def _between(scores: Any) -> np.float32:
  """Returns a threshold with no score near it, below some of each picture."""
  best = np.asarray(scores).max(-1)
  values = np.unique(best)
  values = values[values <= best.max((1, 2)).min()]
  gaps = np.diff(values)
  if not gaps.size or gaps.max() < LARGEST_DIFFERENCE:
    return np.float32(0)
  first = int(gaps.argmax())
  return np.float32((values[first] + values[first + 1]) / 2)


def _bound(towers: Towers) -> float:
  return LARGEST_REFINED if towers.refined else LARGEST_DIFFERENCE


def _windows(towers: Towers, count: int) -> np.ndarray:
  side = towers.image_size
  drawn = [picture[:side, : side * 7 // 8] for picture in pictures(side)]
  padded = [
    np.pad(p, ((0, 0), (0, side - p.shape[1]), (0, 0)), "edge") for p in drawn
  ]
  return np.stack(padded[:count]).astype(np.float32)


def _check_batch(segment, classes, towers: Towers) -> None:
  """Compares two pictures at once, two words and a threshold."""
  images, zero = _windows(towers, 2), np.float32(0)
  limit = _between(towers.segment_here(images, classes[:2], zero)[0])
  wanted = towers.segment_here(images, classes[:2], limit)
  found = segment(images, classes[:2], limit)
  apart = np.abs(np.asarray(found[0]) - np.asarray(wanted[0]))
  apart = apart.max(-1) / np.asarray(wanted[0]).max()
  equal = (np.asarray(found[1]) == np.asarray(wanted[1])).mean()
  if np.quantile(apart, 0.999) > _bound(towers) or equal < SMALLEST_SHARE:
    raise Failed(
      f"two pictures at once: scores differ by {apart.max():.1e},"
      f" {100 * equal:.2f} % of the labels are equal"
    )


def _times(segment, classes, towers: Towers) -> tuple[float, float]:
  """Returns seconds of one window: of the file, and of the jitted network."""
  image, zero = _windows(towers, 1), np.float32(0)

  def by_file():
    return np.asarray(segment(image, classes, zero)[0])

  def by_network():
    return np.asarray(towers.segment_here(image, classes, zero)[0])

  medians = []
  for way in (by_file, by_network):
    way()
    taken = []
    for _ in range(_TURNS):
      start = time.perf_counter()
      way()
      taken.append(time.perf_counter() - start)
    medians.append(statistics.median(taken))
  return medians[0], medians[1]
