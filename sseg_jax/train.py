"""Training, from a config to a finished run; read it from top to bottom.

On a first read, go straight to `train`. What one step does is in
`train_step.py`, what a step learns in `tasks/`.
"""

import contextlib
import functools
import json
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from sseg_jax import config_check, evaluator, files, sharding, train_step
from sseg_jax.checkpoints import changes
from sseg_jax.checkpoints.checkpoint import Checkpoints
from sseg_jax.inference import fixed_classes
from sseg_jax.learned import counts, held_out, report
from sseg_jax.pseudo_masks import region_features
from sseg_jax.runtime import lease, preemption, progress, provenance
from sseg_jax.runtime.compiled_step import CompiledStep
from sseg_jax.runtime.watchdog import Watchdog


def train(
  config: ml_collections.ConfigDict,
  workdir: str | epath.PathLike,
  stop: preemption.Stop | None = None,
) -> dict[str, Any]:
  """Trains until `config.total_steps`, starting from the newest checkpoint.

  Args:
    config: fields as in `default_config.py`.
    workdir: folder of the run, local or `gs://`; made where missing.
    stop: tells the run when to stop. None listens for SIGTERM.

  Returns:
    The content of WORKDIR/result.json. If the run was asked to stop, it saves a
    checkpoint and returns {"preempted": step} instead.

  Raises:
    InputError: if a field cannot work, before anything is compiled; or if the
      loss stayed non-finite for `config.max_bad_steps` steps.
    Unavailable: if another run is at work in `workdir`, or has taken it.
  """
  from sseg_jax import metrics
  from sseg_jax.data import pipeline, training_data

  stop = stop or preemption.Stop().listen()
  workdir = epath.Path(files.expand(workdir))
  config_check.check(config)
  first_process = jax.process_index() == 0
  # Closes what is opened below, also when an error ends the run.
  with contextlib.ExitStack() as closing:
    # The lease of `workdir` in the first process; None in the others.
    held = closing.enter_context(
      lease.held_by_first(workdir, first_process, _from_first_process)
    )
    # Read now: later edits of the checkout must not change what is recorded.
    commit = provenance.git_commit()

    # --- Mesh -----------------------------------------------------------------
    mesh = sharding.make_mesh(config.mesh)
    sharding.host_batch_size(config.batch_size, mesh, config.accumulate_steps)
    pipeline.check_lanes(config, jax.process_count())

    # --- The checkpoint to resume from ----------------------------------------
    checkpoints = Checkpoints(
      workdir / "checkpoints",
      keep=config.checkpoint.keep,
      keep_best=config.checkpoint.keep_best,
      every_steps=config.checkpoint.every_steps,
      every_minutes=config.checkpoint.every_minutes,
      metadata={},
      before_save=held.check if held else lambda: None,
    )
    # This comes before any data is drawn or any program is compiled, because
    # changed settings may be refused.
    found = checkpoints.find()
    changed = changes.since(found, config, workdir)

    # --- Data -----------------------------------------------------------------
    config = ml_collections.ConfigDict(config).copy_and_resolve_references()
    data = training_data.prepare(config, workdir)
    changes.check_records(found, data.records, config, workdir)
    fixed_classes.complete(config, data.class_names)
    opened, training = evaluator.open_benchmarks(config)
    evaluator.check_score(config, opened)

    # --- Model and state ------------------------------------------------------
    setup = train_step.make_setup(config, data.class_names, mesh)
    shapes = train_step.abstract_state(setup)
    shardings = sharding.state_sharding(shapes, mesh)
    shapes = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      shapes,
      shardings,
    )
    frozen = jax.device_put(setup.frozen, sharding.replicated(mesh))
    step_fn = CompiledStep(
      jax.jit(
        functools.partial(step_and_stop, setup),
        donate_argnums=0,
        out_shardings=(shardings, sharding.replicated(mesh)),
      )
    )

    # --- Restore the state, or initialise it ----------------------------------
    state = checkpoints.restore(shapes)
    if state is None:
      state = jax.device_put(train_step.init_state(setup), shardings)
    region_features.check_eye(config, state.model_state)
    start = int(state.step)
    all_changes = checkpoints.restored.get("changes", [])
    if changed:
      all_changes = [*all_changes, {"step": start, "fields": changed}]
      for name, (old, new) in changed.items():
        logging.warning(
          "changed at step %d: %s: %s -> %s", start, name, old, new
        )
    checkpoints.metadata = {
      "config": config.to_dict(),
      "model": "sseg",
      "records": data.records,
      "changes": all_changes,
    }
    if first_process:
      checkpoints.metadata |= counts.of_run(
        config, data.records, checkpoints.restored
      )
      text = json.dumps(config.to_dict(), indent=2) + "\n"
      files.write_text(workdir / "config.json", text)
    if start > config.total_steps:
      logging.warning(
        "the newest checkpoint in %s is of step %d, beyond total_steps=%d: no"
        " step is taken, and step %d is evaluated",
        workdir,
        start,
        config.total_steps,
        start,
      )
    elif start == config.total_steps:
      logging.info("the run in %s is complete: evaluating it", workdir)
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    logging.info(
      "%.2f M parameters, %d devices, step %d of %d",
      parameters / 1e6,
      mesh.size,
      start,
      config.total_steps,
    )

    # --- Loop -----------------------------------------------------------------
    batches = pipeline.train_batches(
      config,
      start_step=start,
      process_index=jax.process_index(),
      process_count=jax.process_count(),
    )
    closing.callback(batches.close)
    logging.info(
      "%d steps of %d pictures: %.3g epochs of %d; learning rate up to %.3g",
      config.total_steps,
      config.batch_size,
      config.total_steps * config.batch_size / batches.num_records,
      batches.num_records,
      config.optim.peak_lr,
    )
    writer = metrics.MetricWriter(workdir, resume_step=start)
    closing.callback(writer.close)
    scores = evaluator.Evaluator(config, opened, workdir, stop, training)
    watchdog = Watchdog(config.watchdog_minutes, start)
    closing.callback(watchdog.close)
    speed = metrics.Throughput(config.batch_size, config.total_steps)
    tally = progress.Tally(
      config.batch_size, checkpoints.restored.get("tally", {})
    )
    steps = progress.StepsInFlight(
      tally, config.max_bad_steps, stop, speed, watchdog
    )
    step, stopped = start, False
    if is_evaluated(config, start) and not _from_first_process(
      writer.evaluated
    ):
      logging.info(
        "the evaluation at step %d was cut short: repeating it", start
      )
      stopped = not evaluate(
        config, state, start, scores, writer, checkpoints, steps
      )
    while step < config.total_steps and not stopped:
      step += 1
      host_batch = next(batches)
      votes = {"stop": steps.votes(sharding.local_size(mesh))}
      batch = sharding.global_batch(host_batch | votes, mesh)
      state, scalars = step_fn(state, frozen, batch)
      steps.add(step, scalars, host_batch["id"])
      log = step % config.log_every_steps == 0 or step == config.total_steps
      scored = is_evaluated(config, step)
      save = checkpoints.due(step)
      steps.wait(for_all=log or scored or save)
      if log:
        row = tally.close_window(speed.scalars())
        writer.scalars(step, row)
        left = speed.time_left()
        logging.info(progress.line(step, config.total_steps, row, left))
      checkpoints.metadata["tally"] = tally.stored()
      if save:
        checkpoints.save(step, state)
        steps.resume()
      if scored:
        stopped = not evaluate(
          config, state, step, scores, writer, checkpoints, steps
        )
      if held and held.lost:
        held.check()
      stopped = stopped or steps.must_stop()

    # --- End ------------------------------------------------------------------
    steps.wait()
    checkpoints.metadata["tally"] = tally.stored()
    if step > start:
      checkpoints.save(step, state)
    checkpoints.close()
    if stopped:
      logging.warning(
        "asked to stop: saved step %d, start again to go on", step
      )
      return {"preempted": step}
    batches.close()
    steps.pause()
    pairs = held_out.HeldOut(config)
    result = None
    with contextlib.suppress(preemption.Stopped):
      result = scores(state, step, writer, 0, pairs)
      checkpoints.set_thresholds(step, result.pop("stored", {}))
      if step > start or not writer.evaluated:
        writer.scalars(step, evaluator.flat_scores(result))
    # Only the first process evaluates; all end with the same exit code.
    if _from_first_process(result is None) or result is None:
      logging.warning("asked to stop: start again to evaluate")
      return {"preempted": step}
    result = {
      "task": config.task,
      "seed": config.seed,
      "steps": step,
      "final": tally.last,
      "parameters": parameters,
      **result,
      "images_per_second": tally.last.get("images_per_second"),
      "bad_records": tally.bad_records,
      "changes": all_changes,
      "versions": provenance.versions(),
      "git_commit": commit,
    }
    if held:
      held.check()
      text = json.dumps(result, indent=2) + "\n"
      files.write_text(workdir / "result.json", text)
      # After the result, so that a failure here loses no result.
      scores.draw()
      report.of_run(
        workdir, config, checkpoints.metadata, pairs, scores.segmenter
      )
    return result


def step_and_stop(
  setup: train_step.Setup,
  state: train_step.TrainState,
  frozen: dict[str, Any],
  batch: dict[str, jax.Array],
) -> tuple[train_step.TrainState, train_step.Metrics]:
  """Takes a step, and returns "stop" as well: whether a process must stop.

  It is the maximum of all processes' `progress.StepsInFlight.votes`, which are
  the array "stop" of the batch, [devices].
  """
  batch = dict(batch)
  votes = batch.pop("stop")
  state, metrics = train_step.train_step(setup, state, frozen, batch)
  return state, metrics | {"stop": votes.max()}


def is_evaluated(config: ml_collections.ConfigDict, step: int) -> bool:
  """Returns whether the run evaluates after `step`; the end is not counted."""
  every = config.evaluate.every_steps
  return bool(every) and step % every == 0 and 0 < step < config.total_steps


def evaluate(
  config: ml_collections.ConfigDict,
  state: train_step.TrainState,
  step: int,
  scores: evaluator.Evaluator,
  writer: Any,
  checkpoints: Checkpoints,
  steps: progress.StepsInFlight,
) -> bool:
  """Evaluates between steps, and keeps `state` if its score is a best one.

  Args:
    config: of the run.
    state: after `step`.
    step: number of steps taken.
    scores: evaluates.
    writer: a `metrics.MetricWriter` for the scores.
    checkpoints: keep the best states, and the background thresholds.
    steps: whose clocks are stopped meanwhile.

  Returns:
    False if the run was asked to stop meanwhile; then all processes must stop.
  """
  steps.pause()
  result = None
  with contextlib.suppress(preemption.Stopped):
    result = scores(state, step, writer, config.evaluate.max_images)
  if _from_first_process(result is None):
    return False
  result = result or {}
  first_process = jax.process_index() == 0
  if first_process and result:
    line = evaluator.headline(result)
    logging.info("evaluation at step %d: %s", step, line)
  score = evaluator.best_score(config, result)
  checkpoints.set_thresholds(step, result.get("stored", {}))
  if checkpoints.rate(step, state, score) and first_process:
    logging.info("step %d stays: %.2f is among the best", step, score)
  # Written after all but the pictures: a run that resumes repeats an
  # evaluation whose scores are missing.
  writer.scalars(step, evaluator.flat_scores(result))
  scores.draw()
  steps.resume()
  return True


def _from_first_process(value: int) -> int:
  """Returns the first process's value in every process."""
  return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
