"""What a row is computed by if it needs no training.

`METHODS` is the registry: a method is a function from a `Given` to the part of
result.json that it computes. Every baseline (`baselines.BASELINES`) is one.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from etils import epath
from ml_collections import ConfigDict

from sseg_jax import (
  baselines,
  config_check,
  evaluation,
  evaluator,
  metrics,
  train_step,
)
from sseg_jax.benchmarks import Benchmark, oracle
from sseg_jax.checkpoints import checkpoint
from sseg_jax.data import training_data
from sseg_jax.errors import InputError
from sseg_jax.pseudo_masks import generator
from sseg_jax.runtime import provenance
from sseg_jax.study.runs import Run


class Given(NamedTuple):
  """What a method works on.

  Attributes:
    run: row, seed and folder.
    config: the run's, checked.
    class_names: of the training data.
    opened: benchmarks that are scored.
    training: for each of them the training split, or None.
  """

  run: Run
  config: ConfigDict
  class_names: tuple[str, ...]
  opened: list[Benchmark]
  training: Sequence[Benchmark | None]


def untrained(given: Given) -> dict[str, Any]:
  """Scores random weights, retrieval included: the row has its own text tower.

  Rows of other methods have no retrieval.
  """
  config, workdir = given.config, epath.Path(given.run.workdir)
  setup = train_step.make_setup(config, given.class_names)
  state = train_step.init_state(setup)
  writer = metrics.MetricWriter(workdir)
  scores = evaluator.Evaluator(
    config, given.opened, workdir, None, given.training
  )
  output = scores(state, 0, writer, 0)
  output.pop("stored", None)
  writer.scalars(0, evaluator.flat_scores(output))
  scores.draw()
  writer.close()
  return output


def baseline(name: str, given: Given) -> dict[str, Any]:
  """Scores a baseline with the weights of the row `Row.of`, same seed."""
  run, config = given.run, given.config
  loaded = checkpoint.load(run.out / run.row.of / f"seed{run.seed}")
  segmenter = baselines.find(name)(
    loaded.params, loaded.model_state, config, **run.row.settings
  )
  return {
    "benchmarks": {
      benchmark.name: evaluation.evaluate(
        segmenter,
        benchmark,
        threshold=config.evaluate.background_threshold,
        templates=config.evaluate.templates,
      )
      for benchmark in given.opened
    }
  }


def oracle_labels(given: Given) -> dict[str, Any]:
  """Scores the pseudo-masks, each with the label of most of its pixels."""
  config = given.config
  pseudo_masks = generator.build(config)
  return {
    "benchmarks": {
      benchmark.name: oracle.score(
        pseudo_masks,
        benchmark,
        image_size=config.evaluate.image_size,
        seed=config.seed,
      )
      for benchmark in given.opened
    }
  }


METHODS: dict[str, Callable[[Given], dict[str, Any]]] = {
  "untrained": untrained,
  "oracle": oracle_labels,
  **{name: functools.partial(baseline, name) for name in baselines.BASELINES},
}


def compute(run: Run) -> dict[str, Any]:
  """Returns a row that needs no training, in the form of train's result.json.

  Raises:
    InputError: for a method that does not exist; it lists those that do.
  """
  method = METHODS.get(run.row.method)
  if method is None:
    raise InputError(
      f"row {run.name}: method={run.row.method!r} is unknown; use train or one"
      f" of {', '.join(METHODS)}"
    )
  config = run.config.copy_and_resolve_references()
  config_check.check(config)
  class_names = training_data.prepare(
    config, epath.Path(run.workdir)
  ).class_names
  opened, training = evaluator.open_benchmarks(config)
  return {
    "task": run.row.method,
    "seed": run.seed,
    "steps": 0,
    "final": {},
    **method(Given(run, config, class_names, opened, training)),
    "versions": provenance.versions(),
    "git_commit": provenance.git_commit(),
  }
