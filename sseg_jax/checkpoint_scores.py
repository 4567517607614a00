"""Scores of a checkpoint on benchmarks: what `evaluate` does with its flags.

On a first read, go straight to `run`.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sseg_jax import benchmarks, evaluation, files
from sseg_jax.benchmarks import report
from sseg_jax.benchmarks.sample import Benchmark, Keeper, Sample
from sseg_jax.checkpoints import checkpoint
from sseg_jax.errors import InputError
from sseg_jax.inference import background, sources
from sseg_jax.inference.segmenter import SSegSegmenter
from sseg_jax.runtime.progress_bar import counter


@dataclasses.dataclass(frozen=True)
class Settings:
  """How a checkpoint is scored. None takes what the checkpoint's config has.

  Attributes:
    data_root: holds `VOCdevkit/` and `coco/`.
    split: the split that is scored.
    class_names: instead of those of the benchmarks, in label order.
    background_threshold: of all benchmarks.
    choose_threshold_split: the split on which thresholds are chosen anew.
    threshold_images: how many pictures a threshold is chosen on.
    templates: a key of `prompts.TEMPLATES`.
    combiner: one of `default_config.COMBINERS`.
    synonyms: a key of `synonyms.SYNONYMS`.
    image_size: short side and window.
    max_images: of each benchmark; 0 for all.
    out: folder for result.json, pictures and curves.
    pictures: how many samples of each benchmark are drawn to `out`.
    store: whether chosen thresholds are stored with the checkpoint.
  """

  data_root: str = "."
  split: str = "val"
  class_names: tuple[str, ...] | None = None
  background_threshold: float | None = None
  choose_threshold_split: str | None = None
  threshold_images: int | None = None
  templates: str | None = None
  combiner: str | None = None
  synonyms: str | None = None
  image_size: int | None = None
  max_images: int = 0
  out: Path | None = None
  pictures: int = 8
  store: bool = True

  def __post_init__(self):
    """Raises InputError for values that no checkpoint can be scored with."""
    if self.max_images < 0:
      raise InputError(f"max_images={self.max_images}: give 0 for all, or more")
    background.check_flag(self.background_threshold)
    if self.choose_threshold_split == self.split:
      raise InputError(
        f"choose_threshold_split={self.split} is the split that is scored; a"
        " threshold comes from other pictures, e.g. of train"
      )


def run(
  path: str, specs: Sequence[str], settings: Settings
) -> dict[str, dict[str, Any]]:
  """Scores a checkpoint, and stores the thresholds that were chosen with it.

  Thresholds are stored only in a run's checkpoint that is used as its config
  says, with its own combiner, size and templates.

  Args:
    path: work directory, a step's folder, an exported folder, or a repository
      of the hub; see `inference.api.load`.
    specs: benchmarks, see `benchmarks.open_benchmark`.
    settings: see `Settings`.

  Returns:
    For each benchmark what `evaluation.evaluate` returns, where the threshold
    comes from, and the settings that were used.
  """
  opened = [_open(spec, settings) for spec in specs]
  out = settings.out
  if out:
    files.make_folder("out", out)
  loaded = sources.read(path)
  config = loaded.config
  segmenter = SSegSegmenter(
    loaded.params,
    loaded.model_state,
    config,
    combiner=settings.combiner,
    image_size=settings.image_size,
    synonyms=settings.synonyms,
  )
  results: dict[str, dict] = {}
  keepers: list[Keeper] = []
  for benchmark, training in opened:
    keepers.append(
      Keeper(benchmark, settings.max_images, settings.pictures if out else 0)
    )
    result = _score(
      segmenter, loaded, config, benchmark, training, settings, keepers[-1]
    )
    result["checkpoint"], result["step"] = str(path), int(loaded.step)
    results[benchmark.name] = result
    if out:  # after each benchmark, and before anything is drawn
      files.write_text(
        out / "result.json", json.dumps(results, indent=2) + "\n"
      )
  for (benchmark, _), keeper in zip(opened, keepers, strict=True):
    if out:
      rows = [(s.image, s.labels, labels) for s, labels in keeper.kept]
      report.draw(out, benchmark, results[benchmark.name], rows)
  others = (settings.combiner, settings.image_size, settings.templates)
  if settings.store and not any((*others, settings.synonyms)):
    chosen = {
      name: result["threshold_choice"]["threshold"]
      for name, result in results.items()
      if result["threshold_choice"]
    }
    counts = {b.name: len(b.class_names) for b, _ in opened}
    checkpoint.add_thresholds(
      loaded, background.to_store(chosen, counts, segmenter.combiner)
    )
  return results


def _open(spec: str, settings: Settings) -> tuple[Benchmark, Benchmark | None]:
  """Opens a benchmark, and the pictures that its threshold is chosen on."""
  scored = benchmarks.open_benchmark(
    spec,
    settings.data_root,
    split=settings.split,
    class_names=settings.class_names,
  )
  training = benchmarks.open_training(
    spec,
    scored,
    settings.data_root,
    split=settings.choose_threshold_split,
    class_names=settings.class_names,
  )
  return scored, training


def _score(
  segmenter: SSegSegmenter,
  loaded: checkpoint.Loaded,
  config: Any,
  benchmark: Benchmark,
  training: Benchmark | None,
  settings: Settings,
  keeper: Keeper,
) -> dict[str, Any]:
  """Finds the threshold of one benchmark and scores it."""
  name = benchmark.name
  templates = settings.templates or config.evaluate.templates
  fixed = settings.background_threshold
  choose_anew = bool(settings.choose_threshold_split)
  if fixed is None and not choose_anew:
    fixed = config.evaluate.background_threshold
  rule, choice = None, None
  apart = _Apart(name)
  if benchmark.has_background:
    with counter("pictures", title=f"{name}, threshold") as progress:
      rule, choice = evaluation.find_threshold(
        segmenter,
        benchmark,
        training,
        fixed=fixed,
        metadata={} if choose_anew else loaded.metadata,
        templates=templates,
        max_images=(
          settings.threshold_images or config.evaluate.threshold_images
        ),
        observe=apart.choose,
        progress=progress,
      )

  def observe(sample: Sample, predicted: np.ndarray) -> None:
    apart.score(sample)
    keeper(sample, predicted)

  with counter("pictures", title=name) as progress:
    result = evaluation.evaluate(
      segmenter,
      benchmark,
      threshold=rule.value if rule else None,
      templates=templates,
      max_images=settings.max_images,
      observe=observe,
      progress=progress,
    )
  return result | {
    "threshold_source": rule.source if rule else None,
    "threshold_choice": choice,
    "split": benchmark.split,
    "combiner": segmenter.combiner,
    "image_size": segmenter.image_size,
  }


class _Apart:
  """Refuses to score a picture that the threshold was chosen on."""

  def __init__(self, name: str):
    self._name = name
    self._chosen: dict[bytes, str] = {}

  def choose(self, sample: Sample) -> None:
    """Takes a picture that the threshold is chosen on."""
    self._chosen[self._digest(sample)] = sample.id

  def score(self, sample: Sample) -> None:
    """Raises InputError if the threshold was chosen on this picture."""
    if self._chosen and (same := self._chosen.get(self._digest(sample))):
      raise InputError(
        f"{self._name}: picture {sample.id} is scored, and the background"
        f" threshold was chosen on it ({same}); take it out of one of the two"
        " splits, or give --background_threshold"
      )

  def _digest(self, sample: Sample) -> bytes:
    return hashlib.sha256(sample.image.tobytes()).digest()
