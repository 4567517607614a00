"""Evaluation between the steps of a run: benchmarks, retrieval, pictures."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath

from sseg_jax import benchmarks, errors, evaluation, sharding, train_step
from sseg_jax.images import drawing
from sseg_jax.inference import background, fixed_classes, pairs
from sseg_jax.inference.segmenter import SSegSegmenter
from sseg_jax.runtime import preemption


class Evaluator:
  """Scores a state on the benchmarks and on retrieval, in the first process.

  Attributes:
    segmenter: with the weights that were scored last; None before.
  """

  def __init__(
    self,
    config: Any,
    held_out: list[benchmarks.Benchmark],
    workdir: epath.Path,
    stop: preemption.Stop | None = None,
    training: Sequence[benchmarks.Benchmark | None] = (),
  ):
    """Stores the arguments; compiles nothing yet.

    Args:
      config: the run's fields.
      held_out: benchmarks that are scored.
      workdir: folder of the run; predictions.png is written to it.
      stop: an evaluation ends early if it is set.
      training: for each of `held_out` the training split on which its
        background threshold is chosen (`benchmarks.open_training`), or None.
    """
    self._config = config
    self._benchmarks = held_out
    self._workdir = workdir
    self._stop = stop or preemption.Stop()
    self.segmenter: SSegSegmenter | None = None
    self._training = training or [None] * len(held_out)
    self._undrawn: list[Callable[[], None]] = []

  def __call__(
    self,
    state: train_step.TrainState,
    step: int,
    writer: Any,
    max_images: int,
    observe: Callable[..., None] = lambda batch, outputs: None,
  ) -> dict[str, Any]:
    """Evaluates a state, in the first process.

    Call it in every process. Call `draw` afterwards, when the results are
    written, to draw predictions.

    Args:
      state: may be sharded over processes.
      step: number of steps taken, under which pictures are written.
      writer: a `metrics.MetricWriter` for the pictures.
      max_images: number of pictures of each benchmark; 0 means all.
      observe: of the held-out pairs, see `pairs.of_records`.

    Returns:
      "benchmarks": name -> result of `evaluation.evaluate`; "stored": the
      background thresholds in the form that a checkpoint keeps; "retrieval", if
      there are held-out pairs. In other processes than the first, {}.

    Raises:
      Stopped: in the first process, if the run was asked to stop meanwhile.
    """
    params, model_state = _to_host((state.params, state.model_state))
    if jax.process_index() != 0:
      return {}
    self._stop.check()
    if self.segmenter is None:
      self.segmenter = fixed_classes.build(params, model_state, self._config)
    self.segmenter.set_weights(params, model_state)
    results: dict[str, Any] = {}
    chosen: dict[str, float] = {}
    self._undrawn = []
    for i, benchmark in enumerate(self._benchmarks):
      rows: list[tuple] = []
      name = benchmark.name
      rule, choice = self._threshold(
        self.segmenter, benchmark, self._training[i]
      )
      results[name] = evaluation.evaluate(
        self.segmenter,
        benchmark,
        threshold=rule.value if rule else None,
        templates=self._config.evaluate.templates,
        max_images=max_images,
        observe=functools.partial(self._keep, rows, 8),
      )
      results[name]["threshold_source"] = rule.source if rule else None
      results[name]["threshold_choice"] = choice
      if choice:
        chosen[name] = choice["threshold"]
      self._undrawn.append(
        functools.partial(self._draw, i == 0, benchmark, rows, step, writer)
      )
    counts = {b.name: len(b.class_names) for b in self._benchmarks}
    output: dict[str, Any] = {
      "benchmarks": results,
      "stored": background.to_store(
        chosen, counts, self._config.evaluate.combiner
      ),
    }
    if self._config.data.val and self._config.task == "sseg":
      output["retrieval"] = self._retrieval(self.segmenter, observe)
    return output

  def _threshold(
    self,
    segmenter: SSegSegmenter,
    benchmark: benchmarks.Benchmark,
    training: benchmarks.Benchmark | None,
  ) -> tuple[background.Threshold | None, dict[str, Any] | None]:
    """Chooses the background threshold of a benchmark for these weights."""
    if not benchmark.has_background:
      return None, None
    config = self._config.evaluate
    return evaluation.find_threshold(
      segmenter,
      benchmark,
      training,
      fixed=config.background_threshold,
      templates=config.templates,
      max_images=config.threshold_images,
      observe=lambda _: self._stop.check(),
    )

  def draw(self) -> None:
    """Draws predictions of the last evaluation, for TensorBoard.

    The picture of the first benchmark is written to WORKDIR/predictions.png as
    well. If drawing or writing fails, the error is logged and the run goes on.
    """
    undrawn, self._undrawn = self._undrawn, []
    for draw in undrawn:
      try:
        draw()
      except Exception as error:
        logging.warning(
          "no picture of predictions (%s: %s)", type(error).__name__, error
        )

  def _draw(
    self,
    first: bool,
    benchmark: benchmarks.Benchmark,
    rows: list[tuple],
    step: int,
    writer: Any,
  ) -> None:
    picture = drawing.grid(
      rows, benchmark.class_names, has_background=benchmark.has_background
    )
    writer.images(step, {f"predictions/{benchmark.name}": picture})
    if first:
      drawing.save(self._workdir / "predictions.png", picture)

  def _keep(
    self, rows: list, wanted: int, sample: Any, predicted: np.ndarray
  ) -> None:
    self._stop.check()
    if len(rows) < wanted:
      rows.append((sample.image, sample.labels, predicted))

  def _retrieval(
    self, segmenter: SSegSegmenter, observe: Callable[..., None]
  ) -> dict:
    config = self._config

    def checked(batch, outputs):
      self._stop.check()
      observe(batch, outputs)

    found = pairs.of_records(segmenter, config.data.val, checked)
    rounds = [
      evaluation.ranks(pairs.similarity(config, found, i))
      for i in range(config.evaluate.retrieval_captions)
    ]
    scores = {name: np.mean([r[name] for r in rounds]) for name in rounds[0]}
    return {k: float(v) for k, v in scores.items()} | {
      "pairs": len(found.pictures[0])
    }


def open_benchmarks(
  config: Any,
) -> tuple[list[benchmarks.Benchmark], list[benchmarks.Benchmark | None]]:
  """Opens the benchmarks that `config.evaluate.benchmarks` names.

  Returns:
    The benchmarks that are scored, and for each of them its training split, on
    which the background threshold is chosen (None if it has no such split).
    Both lists are empty for an empty string.
  """
  if not config.evaluate.benchmarks:
    return [], []
  specs = benchmarks.parse_specs(config.evaluate.benchmarks)
  held_out = [benchmarks.open_benchmark(spec) for spec in specs]
  training = [
    benchmarks.open_training(spec, scored)
    for spec, scored in zip(specs, held_out, strict=True)
  ]
  return held_out, training


def flat_scores(output: dict[str, Any]) -> dict[str, float]:
  """Returns an evaluation as name -> score, with TensorBoard's names."""
  scores = {
    f"mIoU/{name}": result["mIoU"]
    for name, result in output.get("benchmarks", {}).items()
    if result["mIoU"] is not None
  }
  for name, value in output.get("retrieval", {}).items():
    scores[f"retrieval/{name.replace('@', '_at_')}"] = value
  return scores


def check_score(config: Any, held_out: list[benchmarks.Benchmark]) -> None:
  """Raises InputError if no evaluation has `config.checkpoint.best_score`."""
  name = config.checkpoint.best_score
  known = [f"mIoU/{benchmark.name}" for benchmark in held_out]
  if config.data.val and config.task == "sseg":
    ones = np.ones((1, 1))
    known += flat_scores(
      {"benchmarks": {}, "retrieval": evaluation.ranks(ones)}
    )
  if name and name not in known:
    raise errors.InputError(
      f"checkpoint.best_score={name!r} is no score of this run's evaluations;"
      f" they have {', '.join(known) or 'none: see evaluate.benchmarks'}"
    )


def best_score(config: Any, output: dict[str, Any]) -> float:
  """Returns the score by which checkpoints are compared; NaN if none."""
  scores = flat_scores(output)
  if name := config.checkpoint.best_score:
    return scores.get(name, math.nan)
  for kind in ("mIoU/", "retrieval/"):
    values = [
      value
      for name, value in scores.items()
      if name.startswith(kind) and (kind == "mIoU/" or name.endswith("R_at_1"))
    ]
    if values:
      return float(np.mean(values))
  return math.nan


def headline(output: dict[str, Any]) -> str:
  """Returns an evaluation in one line."""
  parts = [
    f"{name} mIoU {result['mIoU']}"
    for name, result in output.get("benchmarks", {}).items()
  ]
  if retrieval := output.get("retrieval"):
    parts.append(
      f"R@1 {retrieval['image_to_text_R@1']:.1f} (image to text)"
      f" {retrieval['text_to_image_R@1']:.1f} (text to image) of"
      f" {retrieval['pairs']}"
    )
  return ", ".join(parts)


def _to_host(tree: Any) -> Any:
  """Returns NumPy arrays, gathered where they are split over processes."""
  if jax.process_count() > 1:
    # One program for all arrays; `process_allgather` compiles one for each.
    mesh = jax.tree.leaves(tree)[0].sharding.mesh
    tree = jax.jit(_same, out_shardings=sharding.replicated(mesh))(tree)
    return jax.tree.map(lambda x: np.asarray(x.addressable_data(0)), tree)
  return jax.device_get(tree)


def _same(tree: Any) -> Any:
  return tree
