"""Scores any segmenter on benchmarks, under a protocol, and keeps the results.

On a first read, go straight to `score_all`. `checkpoint_scores.py` calls it
with a checkpoint, `system_scores.py` with the systems that a checkpoint is
compared with.
"""

import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from sseg_jax import benchmarks, evaluation, files, prompts, score_thresholds
from sseg_jax.benchmarks import report, unfinished
from sseg_jax.benchmarks.sample import Benchmark, Keeper, Sample, spread
from sseg_jax.errors import InputError
from sseg_jax.inference import protocols
from sseg_jax.runtime import provenance
from sseg_jax.runtime.progress_bar import counter
from sseg_jax.score_settings import Origin, Settings

__all__ = ["Opened", "Origin", "Settings", "open_all", "score_all"]


Opened = Sequence[tuple[Benchmark, Benchmark | None]]


def open_all(specs: Sequence[str], settings: Settings) -> Opened:
  """Opens benchmarks, and for each the pictures of its threshold; makes `out`.

  InputError for a background threshold that a protocol has or lacks.
  """
  opened = [_open(spec, settings) for spec in specs]
  if settings.protocol:
    protocol = protocols.find(settings.protocol)
    for benchmark, _ in opened:
      _check_threshold(benchmark, protocol, settings)
  if settings.out:
    files.make_folder("out", settings.out)
  return opened


def _check_threshold(
  benchmark: Benchmark, protocol: protocols.Protocol, settings: Settings
) -> None:
  if not benchmark.has_background or not protocol.has_thresholds:
    return
  fixed, given = (
    protocol.threshold(benchmark.name),
    settings.background_threshold,
  )
  if fixed is not None and given is not None:
    raise InputError(
      f"background_threshold={given}: protocol={protocol.name} has {fixed} for"
      f" {benchmark.name}; leave out one of the two"
    )
  if fixed is None and given is None:
    raise InputError(
      f"protocol={protocol.name} has no background threshold for"
      f" {benchmark.name}; add --background_threshold"
    )


def score_all(
  segmenter: Any,
  opened: Opened,
  settings: Settings,
  origin: Origin,
  protocol: protocols.Protocol,
) -> dict[str, dict[str, Any]]:
  """Scores a segmenter on benchmarks, and writes and draws to `out`.

  Args:
    segmenter: see `segmenter.Segmenter`.
    opened: what `open_all` returned.
    settings: see `Settings`.
    origin: see `Origin`.
    protocol: what the segmenter does, for the results.

  Returns:
    As `run` does.
  """
  out = settings.out
  results: dict[str, dict] = {}
  keepers: list[Keeper] = []
  for benchmark, training in opened:
    keepers.append(
      Keeper(benchmark, settings.max_images, settings.pictures if out else 0)
    )
    result = _score(
      segmenter, benchmark, training, settings, origin, protocol, keepers[-1]
    )
    result |= {**origin.fields, "protocol_settings": protocol.settings()}
    results[benchmark.name] = result
    if out:  # after each benchmark, and before anything is drawn
      files.write_text(
        out / "result.json", json.dumps(results, indent=2) + "\n"
      )
  for (benchmark, _), keeper in zip(opened, keepers, strict=True):
    if out:
      rows = [(s.image, s.labels, labels) for s, labels in keeper.kept]
      report.draw(out, benchmark, results[benchmark.name], rows)
  return results


def _open(spec: str, settings: Settings) -> tuple[Benchmark, Benchmark | None]:
  """Opens a benchmark, and the pictures that its threshold is chosen on."""
  scored = benchmarks.open_benchmark(
    spec,
    settings.data_root,
    split=settings.split,
    class_names=settings.class_names,
  )
  names = settings.class_names
  if settings.protocol:
    protocol = protocols.find(settings.protocol)
    key = protocol.names_of(scored.name)
    if key:
      names = scored.class_names = prompts.CLASS_NAMES[key]
    if protocol.has_thresholds:
      return scored, None
  training = benchmarks.open_training(
    spec,
    scored,
    settings.data_root,
    split=settings.choose_threshold_split,
    class_names=names,
  )
  return scored, training


def _score(
  segmenter: Any,
  benchmark: Benchmark,
  training: Benchmark | None,
  settings: Settings,
  origin: Origin,
  protocol: protocols.Protocol,
  keeper: Keeper,
) -> dict[str, Any]:
  """Finds the threshold of one benchmark and scores it."""
  more = settings.observer and settings.observer(benchmark)
  apart = score_thresholds.Apart(benchmark.name)
  kept = unfinished.Unfinished()
  if not hasattr(segmenter, "labels_of"):  # which only reads files
    kept = unfinished.start(
      settings.unfinished,
      benchmark,
      _identity(segmenter, benchmark, training, settings, origin, protocol),
      spread(len(benchmark), settings.max_images),
    )
  kept.add("pictures", keeper)
  if more and settings.unfinished:
    kept.add("report", more)
  if "threshold" in kept.facts:
    rule, choice = apart.restore(kept.facts["threshold"])
  else:
    anew = bool(settings.choose_threshold_split)
    given = settings.background_threshold
    rule, choice = score_thresholds.find(
      segmenter,
      benchmark,
      training,
      protocol,
      apart,
      fixed=origin.threshold if given is None and not anew else given,
      metadata={} if anew else origin.metadata,
      templates=origin.templates,
      max_images=settings.threshold_images or origin.threshold_images,
    )
    kept.facts["threshold"] = apart.facts(rule, choice)
    kept.write()

  def observe(sample: Sample, predicted: np.ndarray) -> None:
    apart.score(sample)
    keeper(sample, predicted)
    if more:
      more(sample, predicted)

  with counter("pictures", title=benchmark.name) as progress:
    result = evaluation.evaluate(
      segmenter,
      benchmark,
      threshold=rule.value if rule else None,
      templates=origin.templates,
      max_images=settings.max_images,
      observe=observe,
      progress=progress,
      unfinished=kept,
    )
  return result | {
    "threshold_source": rule.source if rule else None,
    "threshold_choice": choice,
    "split": benchmark.split,
    "combiner": getattr(segmenter, "combiner", ""),
    "image_size": getattr(segmenter, "image_size", None),
  }


def _identity(
  segmenter: Any,
  benchmark: Benchmark,
  training: Benchmark | None,
  settings: Settings,
  origin: Origin,
  protocol: protocols.Protocol,
) -> dict[str, Any]:
  """Returns all that the counts of a benchmark depend on."""
  own = (
    *("max_images", "pictures", "background_threshold"),
    *("choose_threshold_split", "threshold_images"),
  )
  names = ("thresholds", "thresholds_of")
  return {
    "benchmark": _facts(benchmark),
    "protocol": protocol.settings(),
    "system": {**origin.fields, **origin.settings},
    "templates": origin.templates,
    "combiner": getattr(segmenter, "combiner", ""),
    "synonyms": getattr(segmenter, "synonyms", ""),
    "image_size": getattr(segmenter, "image_size", None),
    **{name: getattr(settings, name) for name in own},
    "drawn": settings.out is not None,
    "report": settings.observer is not None,
    "own_threshold": origin.threshold,
    "own_threshold_images": origin.threshold_images,
    "stored": {name: origin.metadata.get(name) for name in names},
    "training": training and _facts(training),
    "versions": provenance.versions(),
    "code": provenance.code(),
    "device": jax.default_backend(),
  }


def _facts(benchmark: Benchmark) -> dict[str, Any]:
  return {
    "name": benchmark.name,
    "split": benchmark.split,
    "pictures": len(benchmark),
    "classes": benchmark.class_names,
    "has_background": benchmark.has_background,
  }
