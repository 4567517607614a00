"""Scores a checkpoint on benchmarks: the command.

`python -m sseg_jax.evaluate --checkpoint=DIR --benchmarks=voc --data_root=DIR`

`--oracle` scores generators of pseudo-masks; see `benchmarks/table1.py`.
The evaluation itself is in `evaluation.py`.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sseg_jax import default_config, files, prompts
from sseg_jax.errors import InputError, reported
from sseg_jax.evaluation import evaluate, find_threshold, spread
from sseg_jax.inference import background

if TYPE_CHECKING:
  from sseg_jax.benchmarks import Sample


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
  add(
    "--background_threshold",
    type=float,
    metavar="T",
    help="pixels whose best score is below are background; default: the one"
    " stored with the checkpoint, else one chosen on the training split",
  )
  add(
    "--choose_threshold_split",
    metavar="SPLIT",
    help="choose the threshold anew, on this split, e.g. train; never on the"
    " pictures that are scored",
  )
  add(
    "--threshold_images",
    type=int,
    metavar="N",
    help="pictures that a threshold is chosen on; default: the checkpoint's",
  )
  add(
    "--templates", choices=prompts.TEMPLATES, help="default: the checkpoint's"
  )
  add("--combiner", choices=default_config.COMBINERS)
  add("--image_size", type=int, help="short side and window")
  add("--max_images", type=int, default=0, help="of each benchmark; 0: all")
  add("--per_class", action="store_true", help="print IoU of each class")
  add("--out", type=_folder, help="folder for result.json, pictures and curves")
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
  # The code above starts fast; the imports below load JAX.
  from sseg_jax import benchmarks, default_config
  from sseg_jax.benchmarks import report
  from sseg_jax.checkpoints import checkpoint
  from sseg_jax.inference.segmenter import SSegSegmenter

  if flags.max_images < 0:
    raise InputError(f"max_images={flags.max_images}: give 0 for all, or more")
  background.check_flag(flags.background_threshold)
  specs = benchmarks.parse_specs(flags.benchmarks)
  names = benchmarks.class_list(flags.classes) if flags.classes else None
  choose_on = flags.choose_threshold_split
  if choose_on == flags.split:
    raise InputError(
      f"choose_threshold_split={choose_on} is the split that is scored; a"
      " threshold comes from other pictures, e.g. of train"
    )
  opened = [
    benchmarks.open_benchmark(
      spec, flags.data_root, split=flags.split, class_names=names
    )
    for spec in specs
  ]
  training = [
    benchmarks.open_training(
      spec,
      scored,
      flags.data_root,
      split=choose_on,
      class_names=names,
    )
    for spec, scored in zip(specs, opened, strict=True)
  ]
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
  results: dict[str, dict] = {}
  chosen: dict[str, float] = {}
  drawings: list[tuple] = []
  fixed = flags.background_threshold
  if fixed is None and not choose_on:
    fixed = config.evaluate.background_threshold
  for benchmark, of_training in zip(opened, training, strict=True):
    name = benchmark.name
    apart = _Apart(name)
    rule, choice = None, None
    if benchmark.has_background:
      rule, choice = find_threshold(
        segmenter,
        benchmark,
        of_training,
        fixed=fixed,
        metadata={} if choose_on else loaded.metadata,
        templates=templates,
        max_images=flags.threshold_images or config.evaluate.threshold_images,
        observe=apart.choose,
        progress=_progress(f"{name}, threshold"),
      )
    if choice:
      chosen[name] = choice["threshold"]
    examples: list = []
    keep = _Keeper(len(benchmark), flags.max_images, flags.pictures, examples)

    def observe(sample, predicted, apart=apart, keep=keep) -> None:
      apart.score(sample)
      if flags.out:
        keep(sample, predicted)

    result = evaluate(
      segmenter,
      benchmark,
      threshold=rule.value if rule else None,
      templates=templates,
      max_images=flags.max_images,
      observe=observe,
      progress=_progress(name),
    )
    result["threshold_source"] = rule.source if rule else None
    result["threshold_choice"] = choice
    result["split"] = benchmark.split
    result["combiner"] = segmenter.combiner
    result["image_size"] = segmenter.image_size
    result["checkpoint"] = str(flags.checkpoint)
    result["step"] = int(loaded.step)
    results[name] = result
    drawings.append((benchmark, result, examples))
    if flags.out:  # after each benchmark, and before anything is drawn
      text = json.dumps(results, indent=2) + "\n"
      files.write_text(flags.out / "result.json", text)
  for benchmark, result, examples in drawings if flags.out else ():
    report.draw(flags.out, benchmark, result, examples)
  if not (flags.combiner or flags.image_size or flags.templates):
    counts = {b.name: len(b.class_names) for b in opened}
    checkpoint.add_thresholds(
      loaded, background.to_store(chosen, counts, segmenter.combiner)
    )
  if flags.json:
    print(json.dumps(results))
  else:
    print(report.summary(results))
    if flags.per_class:
      print("\n" + report.per_class(results))
  return 0


def _folder(text: str) -> Path:
  return Path(files.expand(text))


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
    self._wanted = set(spread(seen, wanted)) if wanted else set()
    self._kept = kept
    self._count = 0

  def __call__(self, sample: "Sample", predicted: np.ndarray) -> None:
    if self._count in self._wanted:
      self._kept.append((sample.image, sample.labels, predicted))
    self._count += 1


class _Apart:
  """Refuses to score a picture that the threshold was chosen on."""

  def __init__(self, name: str):
    self._name = name
    self._chosen: dict[bytes, str] = {}

  def choose(self, sample: "Sample") -> None:
    """Takes a picture that the threshold is chosen on."""
    self._chosen[self._digest(sample)] = sample.id

  def score(self, sample: "Sample") -> None:
    """Raises InputError if the threshold was chosen on this picture."""
    if self._chosen and (same := self._chosen.get(self._digest(sample))):
      raise InputError(
        f"{self._name}: picture {sample.id} is scored, and the background"
        f" threshold was chosen on it ({same}); take it out of one of the two"
        " splits, or give --background_threshold"
      )

  def _digest(self, sample: "Sample") -> bytes:
    return hashlib.sha256(sample.image.tobytes()).digest()


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
