"""Table 1: how good generators of pseudo-masks are, and how fast.

    python -m sseg_jax.evaluate --oracle --generators=pixels,spectral,dino \
      --benchmarks=voc,context --data_root=DATA --out=table1

The rows from "plain" on (--generators=study) add, one after the other, changes
that are not in the paper. On a first read, go to `run`.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sseg_jax import benchmarks, files
from sseg_jax.benchmarks import oracle, report
from sseg_jax.benchmarks.table1_rows import (
  GROUPS,
  PAPER,
  ROWS,
  choose,
  config_of,
)
from sseg_jax.errors import InputError
from sseg_jax.images import drawing
from sseg_jax.pseudo_masks import generator
from sseg_jax.pseudo_masks.tokens import USUAL_WEIGHTS


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


def run(
  rows: Sequence[str],
  opened: Sequence[benchmarks.Benchmark],
  *,
  fields: Mapping[str, Any],
  weights: Mapping[str, str] | None = None,
  image_size: int = 448,
  square: bool = True,
  seeds: int = 1,
  max_images: int = 0,
  batch_size: int = 8,
  time_size: int = 224,
  time_batch: int = 128,
  dtype: str = "float32",
  pictures: int = 0,
  out: Path | None = None,
) -> dict[str, dict[str, Any]]:
  """Scores and times generators.

  Args:
    rows: keys of `ROWS`.
    opened: benchmarks, see `benchmarks`.
    fields: of `config.pseudo_masks`, over those of every row; `position_rule`
      only concerns rows with a network.
    weights: of networks, by generator; others have their usual ones.
    image_size: short side at which pictures are segmented, or either side.
    square: whether pictures lose their ratio.
    seeds: K-means' seeds, whose mean is reported.
    max_images: of each benchmark; 0 for all.
    batch_size: pictures segmented at once.
    time_size: side of the pictures of which seconds are taken.
    time_batch: how many at once; 0 takes none.
    dtype: of the networks' products.
    pictures: of each benchmark, drawn to `out`.
    out: an existing folder; gets result.json after every row.

  Returns:
    Row -> {"benchmarks": what `oracle.score` gives by name, "fields",
    "seconds_per_image"}.
  """
  results: dict[str, dict[str, Any]] = {}
  kept: dict[str, dict[str, list]] = {b.name: {} for b in opened}
  # All are checked before the first runs for hours: weights may be missing.
  of_rows = {row: {**ROWS[row], **fields} for row in rows}
  for own in of_rows.values():
    own["weights"] = (weights or {}).get(own["generator"], "")
  built = {
    row: generator.build(config_of(row, own, dtype))
    for row, own in of_rows.items()
  }
  for row, made in built.items():
    scores = {}
    for benchmark in opened:
      seen = oracle.spread(len(benchmark), max_images)
      drawn = oracle.spread(len(seen), pictures) if pictures else []
      wanted = {benchmark[seen[i]].id for i in drawn}
      scores[benchmark.name] = oracle.score(
        made,
        benchmark,
        image_size=image_size,
        square=square,
        seeds=seeds,
        max_images=max_images,
        batch_size=batch_size,
        observe=_Keeper(kept[benchmark.name], row, wanted),
        progress=_Progress(f"{row}, {benchmark.name}"),
      )
    results[row] = {
      "benchmarks": scores,
      "fields": of_rows[row],
      "seconds_per_image": seconds_per_image(
        made, image_size=time_size, batch_size=time_batch
      )
      if time_batch
      else None,
    }
    if out:
      text = json.dumps(results, indent=2) + "\n"
      (out / "result.json").write_text(text)
  if out and pictures:
    for name, samples in kept.items():
      drawing.save(out / f"masks_{name}.png", report.masks(samples, rows))
  return results


def parse_weights(text: str, rows: Sequence[str]) -> dict[str, str]:
  """Reads `--weights`: generator -> file or published name.

  InputError for a generator that no row has, and for one network given to
  several.
  """
  networks = {ROWS[row]["generator"] for row in rows} & USUAL_WEIGHTS.keys()
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


class _Keeper:
  """Keeps the segments of some samples: id -> [sample, {row: segments}]."""

  def __init__(self, kept: dict[str, list], row: str, wanted: set[str]):
    self._kept, self._row, self._wanted = kept, row, wanted

  def __call__(self, sample: benchmarks.Sample, segments: np.ndarray) -> None:
    if sample.id in self._wanted:
      entry = self._kept.setdefault(sample.id, [sample, {}])
      entry[1][self._row] = segments


class _Progress:
  """Prints a line every ten seconds."""

  def __init__(self, name: str):
    self._name, self._last = name, time.perf_counter()

  def __call__(self, done: int, total: int) -> None:
    now = time.perf_counter()
    if now - self._last > 10:
      self._last = now
      print(f"{self._name}: {done}/{total} images", file=sys.stderr, flush=True)


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


def parser() -> argparse.ArgumentParser:
  """Returns the flags of `evaluate --oracle`."""
  parser = argparse.ArgumentParser(
    prog="python -m sseg_jax.evaluate --oracle",
    description="Table 1: oracle mIoU and speed of generators of pseudo-masks.",
    epilog=f"Rows: {', '.join(ROWS)}. Groups: {', '.join(GROUPS)}.",
  )
  add = parser.add_argument
  add("--oracle", action="store_true", help="chooses this table")
  add("--generators", default="table", help="rows and groups, see below")
  add("--benchmarks", default="voc", help="as without --oracle")
  add("--data_root", default=".", help="holds VOCdevkit/ and coco/")
  add("--split", default="val", help="of VOC, Context and COCO")
  add(
    "--weights",
    default="",
    help="file or published name; dino=A,mae=B for several networks",
  )
  add("--position_rule", default="", help="of the networks: dino, size, …")
  add("--k", type=int, default=8, help="masks an image")
  add("--image_size", type=int, default=448, help="side of the pictures")
  add(
    "--keep_ratio", action="store_true", help="image_size is the short side's"
  )
  add("--seeds", type=int, default=1, help="of K-means; the mean is reported")
  add("--max_images", type=int, default=0, help="of each benchmark; 0: all")
  add("--batch_size", type=int, default=8, help="pictures segmented at once")
  add("--time_size", type=int, default=224, help="side of timed pictures")
  add("--time_batch", type=int, default=128, help="timed at once; 0: none")
  add("--dtype", default="float32", help="of the networks: float32, bfloat16")
  add("--out", type=Path, help="folder for result.json and pictures of masks")
  add("--pictures", type=int, default=6, help="drawn of each benchmark")
  add("--json", action="store_true", help="print the result as JSON")
  return parser


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command."""
  flags = parser().parse_args(argv)
  for name in ("seeds", "k", "batch_size", "image_size", "time_size"):
    if getattr(flags, name) < 1:
      raise InputError(f"{name}={getattr(flags, name)}: must be at least 1")
  for name in ("time_batch", "max_images", "pictures"):
    if getattr(flags, name) < 0:
      raise InputError(f"{name}={getattr(flags, name)}: must be at least 0")
  rows = choose(flags.generators)
  opened = [
    benchmarks.open_benchmark(spec, flags.data_root, split=flags.split)
    for spec in benchmarks.parse_specs(flags.benchmarks)
  ]
  if flags.out:
    flags.out = Path(files.expand(flags.out))
    try:
      flags.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise InputError(
        f"out={flags.out}: cannot make this folder ({error.strerror}); give"
        " another"
      ) from error
  results = run(
    rows,
    opened,
    fields={
      "k": flags.k,
      "position_rule": flags.position_rule,
    },
    weights=parse_weights(flags.weights, rows),
    image_size=flags.image_size,
    square=not flags.keep_ratio,
    seeds=flags.seeds,
    max_images=flags.max_images,
    batch_size=flags.batch_size,
    time_size=flags.time_size,
    time_batch=flags.time_batch,
    dtype=flags.dtype,
    pictures=flags.pictures if flags.out else 0,
    out=flags.out,
  )
  print(json.dumps(results) if flags.json else table(results))
  return 0
