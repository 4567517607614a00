"""Table 1: how good generators of pseudo-masks are, and how fast.

    python -m sseg_jax.evaluate --oracle --generators=pixels,spectral,dino \
      --benchmarks=voc,context --data_root=DATA --out=table1

The rows from "plain" on (--generators=study) are not in the paper; they measure
changes of its form. On a first read, go to `run`.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sseg_jax import files
from sseg_jax.benchmarks import oracle, report
from sseg_jax.benchmarks.sample import Benchmark, Keeper, Sample
from sseg_jax.benchmarks.table1_rows import (
  NEEDS_FOLDER,
  PAPER,
  ROWS,
  config_of,
)
from sseg_jax.errors import InputError
from sseg_jax.images import drawing
from sseg_jax.pseudo_masks import generator
from sseg_jax.pseudo_masks.tokens import USUAL_WEIGHTS
from sseg_jax.runtime import progress_bar

# Id of a picture -> the picture, and its segments by row.
Drawn = dict[str, tuple[Sample, dict[str, np.ndarray]]]


def seconds_per_image(
  made: generator.PseudoMasks, *, image_size: int, batch_size: int
) -> float:
  """Measures `generate` on one batch of noise; the best of two, compiled."""
  size = max(1, image_size // made.stride) * made.stride
  image = np.random.default_rng(0).integers(
    0, 256, (batch_size, size, size, 3), np.uint8
  )
  arguments = (
    jax.device_put(made.frozen),
    jnp.asarray(image),
    jax.random.split(jax.random.key(0), batch_size),
  )
  run = jax.jit(made.generate).lower(*arguments).compile()
  best = float("inf")
  for _ in range(2):
    start = time.perf_counter()
    jax.block_until_ready(run(*arguments))
    best = min(best, time.perf_counter() - start)
  return best / batch_size


@dataclasses.dataclass(frozen=True)
class Settings:
  """How `run` scores and times generators.

  Attributes:
    image_size: short side at which pictures are segmented, or either side.
    square: whether both sides become `image_size`.
    seeds: of K-means, whose mean is reported.
    max_images: of each benchmark; 0 for all.
    batch_size: pictures segmented at once.
    time_size: side of the pictures that are timed.
    time_batch: how many of them at once; 0 measures no time.
    dtype: of the networks' products, "float32" or "bfloat16".
    pictures: how many of each benchmark are drawn.
  """

  image_size: int = 448
  square: bool = True
  seeds: int = 1
  max_images: int = 0
  batch_size: int = 8
  time_size: int = 224
  time_batch: int = 128
  dtype: str = "float32"
  pictures: int = 0

  def __post_init__(self):
    """Raises InputError for a number that is too small."""
    for name in ("seeds", "batch_size", "image_size", "time_size"):
      if getattr(self, name) < 1:
        raise InputError(f"{name}={getattr(self, name)}: must be at least 1")
    for name in ("time_batch", "max_images", "pictures"):
      if getattr(self, name) < 0:
        raise InputError(f"{name}={getattr(self, name)}: must be at least 0")


def run(
  rows: Sequence[str],
  opened: Sequence[Benchmark],
  settings: Settings,
  *,
  fields: Mapping[str, Any],
  weights: Mapping[str, str] | None = None,
  out: Path | None = None,
  finished: Callable[[str, dict[str, Any]], None] | None = None,
) -> dict[str, dict[str, Any]]:
  """Scores and times generators.

  Args:
    rows: keys of `ROWS`.
    opened: benchmarks, see `benchmarks`.
    settings: see `Settings`.
    fields: of `config.pseudo_masks`, over those of every row; `position_rule`
      only concerns rows with a network.
    weights: of networks, by generator; others have their usual ones.
    out: an existing folder; gets result.json after every row, and pictures.
    finished: gets each row, and what is returned of it, as soon as it is done.

  Returns:
    Row -> {"benchmarks": what `oracle.score` gives by name, "fields",
    "seconds_per_image"}.
  """
  results: dict[str, dict[str, Any]] = {}
  drawn: dict[str, Drawn] = {benchmark.name: {} for benchmark in opened}
  # All are checked before the first runs for hours: weights may be missing.
  of_rows = {row: {**ROWS[row], **fields} for row in rows}
  for own in of_rows.values():
    own["weights"] = (weights or {}).get(own["generator"], "")
  built = {
    row: generator.build(config_of(row, own, settings.dtype))
    for row, own in of_rows.items()
  }
  for row, made in built.items():
    results[row] = {
      "benchmarks": {
        benchmark.name: _score(
          row, made, benchmark, settings, drawn[benchmark.name]
        )
        for benchmark in opened
      },
      "fields": of_rows[row],
      "seconds_per_image": seconds_per_image(
        made, image_size=settings.time_size, batch_size=settings.time_batch
      )
      if settings.time_batch
      else None,
    }
    if out:
      text = json.dumps(results, indent=2) + "\n"
      files.write_text(out / "result.json", text)
    if finished:
      finished(row, results[row])
  if out and settings.pictures:
    for name, samples in drawn.items():
      drawing.save(out / f"masks_{name}.png", report.masks(samples, rows))
  return results


def _score(
  row: str,
  made: generator.PseudoMasks,
  benchmark: Benchmark,
  settings: Settings,
  drawn: Drawn,
) -> dict[str, Any]:
  """Scores one row on one benchmark, and adds its segments to `drawn`."""
  keeper = Keeper(benchmark, settings.max_images, settings.pictures)
  with progress_bar.counter(
    "pictures", title=f"{row}, {benchmark.name}"
  ) as progress:
    scores = oracle.score(
      made,
      benchmark,
      image_size=settings.image_size,
      square=settings.square,
      seeds=settings.seeds,
      max_images=settings.max_images,
      batch_size=settings.batch_size,
      observe=keeper,
      progress=progress,
    )
  for sample, segments in keeper.kept:
    drawn.setdefault(sample.id, (sample, {}))[1][row] = segments
  return scores


def parse_weights(text: str, rows: Sequence[str]) -> dict[str, str]:
  """Reads `--weights`: generator -> file or published name.

  InputError for a generator that no row has, and for one network given to
  several.
  """
  known = {*USUAL_WEIGHTS, NEEDS_FOLDER}
  networks = {ROWS[row]["generator"] for row in rows} & known
  if text and "=" not in text:
    if len(networks) > 1:
      raise InputError(
        f"weights={text}: the rows have {len(networks)} networks; give each its"
        " own, as " + ",".join(f"{name}=PATH" for name in sorted(networks))
      )
    return dict.fromkeys(networks, files.expand(text))
  found = {}
  for part in filter(None, text.split(",")):
    name, _, source = part.partition("=")
    if name not in networks or not source:
      raise InputError(
        f"weights: {part!r} is not GENERATOR=PATH of one of"
        f" {', '.join(sorted(networks)) or 'no network'}"
      )
    found[name] = files.expand(source)
  return found


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
  """Lines up rows: mIoU by benchmark beside the paper's, masks, seconds."""
  names = list(next(iter(results.values()))["benchmarks"])
  header = ["generator"]
  for name in names:
    header += [name, "± over seeds", "paper"]
  header += ["masks", "s/image", "paper"]
  lines = []
  for row, result in results.items():
    paper = PAPER.get(row, {})
    line = [row]
    for name in names:
      score = result["benchmarks"][name]
      if score["mIoU"] is None:  # no pixel is labelled
        line += ["-", "-", _cell(paper, name)]
        continue
      spread = float(np.std(score["mIoU_seeds"]))
      line += [f"{score['mIoU']:.1f}", f"{spread:.1f}", _cell(paper, name)]
    seconds = result["seconds_per_image"]
    line.append(f"{score['masks_per_image']:.1f}")
    line.append("-" if seconds is None else f"{seconds:.4f}")
    line.append(_cell(paper, "seconds"))
    lines.append(line)
  return report.table(header, lines)


def _cell(values: Mapping[str, float], name: str) -> str:
  return f"{values[name]:g}" if name in values else "-"
