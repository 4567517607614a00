"""Open-vocabulary evaluation: a segmenter, benchmarks, and their scores.

`python -m sseg_jax.evaluate --checkpoint=DIR --benchmarks=voc --data_root=DIR`

With `--oracle`, generators of pseudo-masks instead; see `benchmarks/table1.py`.

On a first read, go straight to `evaluate`. Training calls it between steps.
"""

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sseg_jax import files, prompts
from sseg_jax.benchmarks.retrieval import retrieval
from sseg_jax.errors import InputError, reported

if TYPE_CHECKING:
  from sseg_jax.benchmarks import Benchmark, Sample
  from sseg_jax.segmenter import Segmenter

__all__ = ["THRESHOLDS", "choose_threshold", "evaluate", "retrieval"]

# Dense where a softmax over few classes has most of its values.
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(20)) + (0.97, 0.99, 0.999)


def evaluate(
  segmenter: "Segmenter",
  benchmark: "Benchmark",
  *,
  threshold: float = 0.95,
  thresholds: Sequence[float] = THRESHOLDS,
  templates: str | Sequence[str] = "simple",
  max_images: int = 0,
  batch_size: int = 32,
  observe: Callable[["Sample", np.ndarray], None] | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
  """Scores a segmenter on a benchmark, all thresholds in one pass.

  Args:
    segmenter: anything with `scores`; see `segmenter.Segmenter`.
    benchmark: see `benchmarks`.
    threshold: background threshold of the reported scores; without effect on
      benchmarks without background.
    thresholds: more of them, for the curve.
    templates: a key of `prompts.TEMPLATES` or templates.
    max_images: 0 for all; else that many, spread evenly over the benchmark.
    batch_size: pictures of one size scored at once, at most.
    observe: gets each sample with its predicted labels.
    progress: gets the number of finished pictures and of all.

  Returns:
    A dictionary that JSON can hold: `benchmark mIoU per_class pixel_accuracy
    images seconds images_per_second templates threshold`; per-class IoU in
    0..100 in label order, None for classes that never occur. With background
    also `curve` (a list of threshold and mIoU) and `best_threshold`, which is
    chosen on this very benchmark: report it only for a training split.
  """
  from sseg_jax.benchmarks.miou import Confusion, ThresholdConfusions
  from sseg_jax.segmenter import ClassSet, apply_threshold, winners

  if isinstance(templates, str):
    templates = prompts.templates(templates)
  class_set = ClassSet(benchmark.class_names, tuple(templates))
  indices = _spread(len(benchmark), max_images)
  if benchmark.has_background:
    names = ("background", *benchmark.class_names)
    sweep = ThresholdConfusions(
      len(benchmark.class_names), (*thresholds, threshold)
    )
  else:
    names = benchmark.class_names
    confusion = Confusion(len(names))
  start, done = time.perf_counter(), 0
  for samples in _batches((benchmark[i] for i in indices), batch_size):
    images = np.stack([sample.image for sample in samples])
    bests, indexes = winners(segmenter, images, class_set)
    for sample, best, index in zip(samples, bests, indexes, strict=True):
      if benchmark.has_background:
        sweep.add(sample.labels, best, index)
      else:
        confusion.add(sample.labels, index)
      if observe:
        observe(
          sample,
          apply_threshold(best, index, threshold)
          if benchmark.has_background
          else index,
        )
    done += len(samples)
    if progress:
      progress(done, len(indices))
  seconds = time.perf_counter() - start
  if benchmark.has_background:
    confusion = sweep.at(threshold)
  result: dict[str, Any] = {
    "benchmark": benchmark.name,
    "mIoU": _rounded(confusion.mean_iou()),
    "per_class": {
      name: _rounded(100 * float(iou))
      for name, iou in zip(names, confusion.iou(), strict=True)
    },
    "pixel_accuracy": _rounded(confusion.pixel_accuracy()),
    "images": len(indices),
    "seconds": round(seconds, 3),
    "images_per_second": round(len(indices) / seconds, 3),
    "templates": list(templates),
    "threshold": None,
  }
  if benchmark.has_background:
    curve = [
      {"threshold": float(t), "mIoU": _rounded(sweep.at(t).mean_iou())}
      for t in sweep.thresholds
    ]
    result["threshold"] = float(threshold)
    result["curve"] = curve
    result["best_threshold"] = max(curve, key=lambda point: point["mIoU"] or 0)
  return result


def _spread(size: int, wanted: int) -> list[int]:
  if not 0 < wanted < size:
    return list(range(size))
  return [i * size // wanted for i in range(wanted)]


def _batches(
  samples: Iterator["Sample"], batch_size: int
) -> Iterator[list["Sample"]]:
  """Groups neighbours of one size."""
  for _, group in itertools.groupby(samples, lambda s: s.image.shape):
    while batch := list(itertools.islice(group, batch_size)):
      yield batch


def _rounded(value: float) -> float | None:
  return round(value, 2) if math.isfinite(value) else None


# ------------------------------------------------------------------ command


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m sseg_jax.evaluate",
    description="Scores a checkpoint on benchmarks.",
    epilog="With --oracle it scores generators of pseudo-masks (Table 1), and"
    " has other flags: --oracle --help.",
  )
  add = parser.add_argument
  add("--checkpoint", required=True, help="work directory or a step's folder")
  add(
    "--benchmarks",
    required=True,
    help="comma-separated: voc, voc20, context, context59, coco, coco80 (below"
    " --data_root), KIND=PATH, or [NAME=]FOLDER with images/, labels/ and"
    " classes.txt",
  )
  add("--data_root", default=".", help="holds VOCdevkit/ and coco/")
  add("--split", default="val", help="of VOC, Context and COCO")
  add(
    "--classes",
    help="prompt with these names: a file with one a line, in label order, or"
    f" one of {', '.join(prompts.CLASS_NAMES)}",
  )
  add("--background_threshold", type=float, help="default: the checkpoint's")
  add(
    "--choose_threshold_split",
    metavar="SPLIT",
    help="choose the threshold on this split first, e.g. train",
  )
  add(
    "--templates", choices=prompts.TEMPLATES, help="default: the checkpoint's"
  )
  add("--combiner", choices=("mean", "sum", "hard"))
  add("--image_size", type=int, help="short side and window")
  add("--max_images", type=int, default=0, help="of each benchmark; 0: all")
  add("--per_class", action="store_true", help="print IoU of each class")
  add(
    "--out", type=files.path, help="folder for result.json, pictures and curves"
  )
  add("--pictures", type=int, default=8, help="samples in the picture grid")
  add("--json", action="store_true", help="print the result as JSON")
  return parser


@reported
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command."""
  if "--oracle" in (sys.argv[1:] if argv is None else argv):
    from sseg_jax.benchmarks import table1

    return table1.main(argv)
  flags = _parser().parse_args(argv)
  # Everything above starts at once; JAX is loaded from here on.
  from sseg_jax import benchmarks, checkpoint, default_config
  from sseg_jax.benchmarks import report
  from sseg_jax.segmenter import SSegSegmenter

  if flags.max_images < 0:
    raise InputError(f"max_images={flags.max_images}: give 0 for all, or more")
  specs = benchmarks.parse_specs(flags.benchmarks)
  names = benchmarks.class_list(flags.classes) if flags.classes else None
  opened = {
    split: [
      benchmarks.open_benchmark(
        spec, flags.data_root, split=split, class_names=names
      )
      for spec in specs
    ]
    for split in {flags.split, flags.choose_threshold_split or flags.split}
  }
  if flags.out:
    make_folder(flags.out)
  loaded = checkpoint.load(flags.checkpoint)
  config = default_config.completed(loaded.config)
  segmenter = SSegSegmenter(
    loaded.params,
    loaded.model_state,
    config,
    combiner=flags.combiner,
    image_size=flags.image_size,
  )
  templates = flags.templates or config.evaluate.templates
  results = {}
  for i, benchmark in enumerate(opened[flags.split]):
    name = benchmark.name
    threshold, source = choose_threshold(
      name, flags.background_threshold, loaded.metadata, config
    )
    if flags.choose_threshold_split and benchmark.has_background:
      chosen = evaluate(
        segmenter,
        opened[flags.choose_threshold_split][i],
        templates=templates,
        max_images=flags.max_images,
        progress=_progress(f"{name} {flags.choose_threshold_split}"),
      )["best_threshold"]
      threshold = chosen["threshold"]
      source = f"best on {flags.choose_threshold_split}"
    examples: list = []
    keep = _Keeper(len(benchmark), flags.max_images, flags.pictures, examples)
    result = evaluate(
      segmenter,
      benchmark,
      threshold=threshold,
      templates=templates,
      max_images=flags.max_images,
      observe=keep if flags.out else None,
      progress=_progress(name),
    )
    result["threshold_source"] = source if benchmark.has_background else None
    result["split"] = flags.split
    result["combiner"] = segmenter.combiner
    result["image_size"] = segmenter.image_size
    result["checkpoint"] = str(flags.checkpoint)
    result["step"] = int(loaded.step)
    results[name] = result
    if flags.out:
      report.draw(flags.out, benchmark, result, examples)
  if flags.out:
    (flags.out / "result.json").write_text(json.dumps(results, indent=2) + "\n")
  if flags.json:
    print(json.dumps(results))
  else:
    print(report.summary(results))
    if flags.per_class:
      print("\n" + report.per_class(results))
  return 0


def choose_threshold(
  name: str, flag: float | None, metadata: dict, config: Any
) -> tuple[float, str]:
  """Background threshold for a benchmark, and where it comes from.

  The flag, else the checkpoint's map `thresholds` (its `default` for benchmarks
  it does not name), else the configuration.
  """
  if flag is not None:
    if not flag >= 0:
      raise InputError(
        f"background_threshold={flag} is negative; give a score, e.g. 0.5"
      )
    return flag, "flag"
  thresholds = metadata.get("thresholds") or {}
  for key in (name, "default"):
    if key in thresholds:
      return float(thresholds[key]), f"checkpoint ({key})"
  return float(config.evaluate.background_threshold), "config"


def make_folder(path: Path) -> None:
  """Creates a folder for results; InputError if that is impossible."""
  try:
    path.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(
      f"out={path}: cannot make this folder ({error.strerror}); give another"
    ) from error


class _Keeper:
  """Keeps a few samples, spread over the benchmark, for the picture grid."""

  def __init__(self, size: int, max_images: int, wanted: int, kept: list):
    seen = min(size, max_images or size)
    self._wanted = set(_spread(seen, wanted)) if wanted else set()
    self._kept = kept
    self._count = 0

  def __call__(self, sample: "Sample", predicted: np.ndarray) -> None:
    if self._count in self._wanted:
      self._kept.append((sample.image, sample.labels, predicted))
    self._count += 1


def _progress(name: str) -> Callable[[int, int], None]:
  start = last = time.perf_counter()

  def show(done: int, total: int) -> None:
    nonlocal last
    now = time.perf_counter()
    if done == total or now - last > 5:
      last = now
      rate = done / (now - start)
      print(
        f"{name}: {done}/{total} images, {rate:.2f}/s",
        file=sys.stderr,
        flush=True,
      )

  return show


if __name__ == "__main__":
  sys.exit(main())
