"""Training, from a config to a finished run; read it from top to bottom.

On a first read, go straight to `train`. What one step does is in
`train_step.py`.
"""

import collections
import contextlib
import functools
import json
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from sseg_jax import (
  benchmarks,
  config_check,
  errors,
  evaluator,
  files,
  sharding,
  train_step,
)
from sseg_jax.checkpoints import changes
from sseg_jax.checkpoints.checkpoint import Checkpoints
from sseg_jax.runtime import lease, preemption, provenance
from sseg_jax.runtime.compiled_step import CompiledStep
from sseg_jax.runtime.watchdog import SLOW, Watchdog

# Steps that may be under way at once: enough to hide the host's work, and few
# enough that batches do not pile up in memory.
_IN_FLIGHT = 2


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
  stop = stop or preemption.Stop().listen()
  workdir = epath.Path(files.expand(workdir))
  config_check.check(config)
  with (
    lease.held_by_first(
      workdir,
      jax.process_index() == 0,
      lambda failed: int(
        multihost_utils.broadcast_one_to_all(np.int32(failed))
      ),
    ) as held,
    contextlib.ExitStack() as closing,
  ):
    return _train(config, workdir, stop, held, closing)


def _train(
  config: ml_collections.ConfigDict,
  workdir: epath.Path,
  stop: preemption.Stop,
  held: lease.Lease | None,
  closing: contextlib.ExitStack,
) -> dict[str, Any]:
  """Does the work of `train`.

  Args:
    config: the argument of `train`, checked.
    workdir: the argument of `train`, expanded.
    stop: the argument of `train`.
    held: the lease of `workdir` in the first process; None in the others.
    closing: closes what is opened here, also when an error ends the run.
  """
  from sseg_jax import metrics
  from sseg_jax.data import pipeline

  first_process = jax.process_index() == 0
  # Read now: later edits of the checkout must not change what is recorded.
  commit = provenance.git_commit()

  # --- Mesh -------------------------------------------------------------------
  mesh = sharding.make_mesh(config.mesh)
  sharding.host_batch_size(config.batch_size, mesh, config.accumulate_steps)
  pipeline.check_lanes(config, jax.process_count())

  # --- The checkpoint to resume from ------------------------------------------
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

  # --- Data -------------------------------------------------------------------
  config = ml_collections.ConfigDict(config).copy_and_resolve_references()
  data = prepare_data(config, workdir)
  changes.check_records(found, data.records, config, workdir)
  held_out, training = open_benchmarks(config)
  evaluator.check_score(config, held_out)

  # --- Model and state --------------------------------------------------------
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

  # --- Restore the state, or initialise it ------------------------------------
  state = checkpoints.restore(shapes)
  if state is None:
    state = jax.device_put(train_step.init_state(setup), shardings)
  start = int(state.step)
  last = max(start, config.total_steps)
  all_changes = checkpoints.restored.get("changes", [])
  if changed:
    all_changes = [*all_changes, {"step": start, "fields": changed}]
    for name, (old, new) in changed.items():
      logging.warning("changed at step %d: %s: %s -> %s", start, name, old, new)
  metadata = {
    "config": config.to_dict(),
    "model": "sseg",
    "records": data.records,
    "changes": all_changes,
  }
  checkpoints.metadata = metadata
  if first_process:
    text = json.dumps(config.to_dict(), indent=2) + "\n"
    files.write_text(workdir / "config.json", text)
  tally = Tally(config.batch_size, checkpoints.restored.get("tally", {}))
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

  # --- Loop -------------------------------------------------------------------
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
  speed = metrics.Throughput(config.batch_size, config.total_steps)
  scores = evaluator.Evaluator(config, held_out, workdir, stop, training)
  watchdog = Watchdog(config.watchdog_minutes, start)
  closing.callback(watchdog.close)
  watch = BadSteps(config.max_bad_steps)
  in_flight: collections.deque = collections.deque()
  asked = agreed = False  # stop requested: in this process; in any process
  every = config.evaluate.every_steps

  def wait_for_steps(in_flight_still: int = 0) -> None:
    nonlocal agreed
    while len(in_flight) > in_flight_still:
      step = in_flight[0][0]
      scalars = watch.check(*in_flight.popleft())
      agreed = agreed or bool(scalars.pop("stop"))
      tally.add(scalars)
      checkpoints.metadata = metadata | {"tally": tally.stored()}
      speed.update(step)
      watchdog.update(step)
      stop.working()

  def evaluate_now(state: train_step.TrainState, step: int) -> bool:
    """Returns whether it was interrupted; then all processes must stop."""
    result = None
    watchdog.reset(SLOW)
    with contextlib.suppress(preemption.Stopped):
      result = scores(state, step, writer, config.evaluate.max_images)
    if multihost_utils.broadcast_one_to_all(np.int32(result is None)):
      return True
    if first_process and result:
      line = evaluator.headline(result)
      logging.info("evaluation at step %d: %s", step, line)
    score = evaluator.best_score(config, result or {})
    checkpoints.set_thresholds(step, (result or {}).get("stored", {}))
    if checkpoints.rate(step, state, score) and first_process:
      logging.info("step %d stays: %.2f is among the best", step, score)
    # Written after all but the pictures: a run that resumes repeats an
    # evaluation whose scores are missing.
    writer.scalars(step, evaluator.flat_scores(result or {}))
    scores.draw()
    speed.reset()
    watchdog.reset()
    return False

  def leave(state: train_step.TrainState, step: int) -> dict[str, Any]:
    wait_for_steps()
    checkpoints.save(step, state)
    checkpoints.close()
    logging.warning("asked to stop: saved step %d, start again to go on", step)
    return {"preempted": step}

  if (
    every
    and 0 < start < config.total_steps
    and start % every == 0
    and not multihost_utils.broadcast_one_to_all(np.int32(writer.evaluated))
  ):
    logging.info("the evaluation at step %d was cut short: repeating it", start)
    if evaluate_now(state, start):
      return leave(state, start)
  for step in range(start + 1, config.total_steps + 1):
    host_batch = next(batches)
    flags = np.full(sharding.local_size(mesh), asked, np.int32)
    batch = sharding.global_batch(host_batch | {"stop": flags}, mesh)
    state, scalars = step_fn(state, frozen, batch)
    in_flight.append((step, scalars, host_batch["id"]))
    log = step % config.log_every_steps == 0 or step == config.total_steps
    evaluate = every and step % every == 0 and step < config.total_steps
    save = checkpoints.due(step)
    wait_for_steps(0 if log or evaluate or save else _IN_FLIGHT)
    if log:
      row = tally.close_window(speed.scalars())
      checkpoints.metadata = metadata | {"tally": tally.stored()}
      writer.scalars(step, row)
      logging.info(progress(step, config.total_steps, row, speed.time_left()))
    if save:
      checkpoints.save(step, state)
      speed.reset()
      watchdog.reset()
    if evaluate and evaluate_now(state, step):
      return leave(state, step)
    if held and held.lost:
      held.check()
    asked = stop.is_set()
    if agreed if jax.process_count() > 1 else asked:
      return leave(state, step)

  # --- End --------------------------------------------------------------------
  if start < last:
    checkpoints.save(last, state)
  checkpoints.close()
  batches.close()
  watchdog.reset(SLOW)
  try:
    result = scores(state, last, writer, 0)
    checkpoints.set_thresholds(last, result.pop("stored", {}))
    if start < last or not writer.evaluated:
      writer.scalars(last, evaluator.flat_scores(result))
  except preemption.Stopped:
    logging.warning("asked to stop: start again to evaluate")
    return {"preempted": last}
  result = {
    "task": config.task,
    "seed": config.seed,
    "steps": last,
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
    scores.draw()  # after the result, so that a failure here loses no result
  return result


def step_and_stop(
  setup: train_step.Setup,
  state: train_step.TrainState,
  frozen: dict[str, Any],
  batch: dict[str, jax.Array],
) -> tuple[train_step.TrainState, train_step.Metrics]:
  """Takes a step, and tells all processes whether one was asked to stop.

  A process may not stop alone: the others would wait for it in the next step.
  So each process adds to its part of the batch a flag that says whether it was
  asked to stop, and all processes read the result in the metrics of that step.
  """
  batch = dict(batch)
  asked = batch.pop("stop")  # [devices]
  state, metrics = train_step.train_step(setup, state, frozen, batch)
  return state, metrics | {"stop": asked.max()}


class Data(NamedTuple):
  """What `prepare_data` found.

  Attributes:
    class_names: the classes of the records' label maps; () if unknown.
    records: fingerprint of the training records; None if the run draws them.
  """

  class_names: tuple[str, ...]
  records: str | None


def prepare_data(config: Any, workdir: epath.Path) -> Data:
  """Checks the training data, or draws the embedded data set.

  Raises:
    InputError: if a folder of records is missing or holds no records. This is
      raised before anything is compiled.
  """
  if config.data.source != "shapes":
    from sseg_jax.data import manifest

    folders = [f.strip() for f in config.data.train.split(",") if f.strip()]
    if not folders:
      raise errors.InputError(
        "data.train is empty; name one or more folders of records, as"
        " `python -m sseg_jax.prepare` writes them"
      )
    found = [_manifest("data.train", folder) for folder in folders]
    if config.data.val and config.task == "sseg":
      if not _manifest("data.val", config.data.val).total:
        raise errors.InputError(
          f"data.val={config.data.val}: holds no records; write it again, or"
          ' leave it out with --config.data.val=""'
        )
    return Data((), manifest.fingerprint(found))
  from sseg_jax.data import shapes

  folder = workdir / "data"
  arguments = config.data.shapes.to_dict()
  if jax.process_index() == 0:
    logging.info(
      "drawing %d training pictures to %s", arguments["train_size"], folder
    )
    shapes.write(folder, **arguments)
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices("shapes are written")
  # The files exist now, so this call only returns their names.
  names = shapes.write(folder, **arguments)
  config.data.train = names["train"]
  config.data.val = names["val"]
  own = [names[kind] for kind in shapes.KINDS]
  given = [s for s in config.evaluate.benchmarks.split(",") if s]
  config.evaluate.benchmarks = ",".join(own + given)
  return Data(shapes.CLASS_NAMES, None)


def _manifest(field: str, folder: str) -> Any:
  """Returns the manifest of a folder of records that a field names."""
  from sseg_jax.data import manifest

  try:
    return manifest.read_manifest(folder)
  except errors.InputError as error:
    # Only retrieval reads these records; a run can do without them.
    hint = "; or leave it out with --config.data.val=''"
    raise errors.InputError(
      f"{field}={folder}: {error}{hint if field == 'data.val' else ''}"
    ) from None


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


class BadSteps:
  """Fetches each step's scalars; stops the run if losses stay non-finite."""

  def __init__(self, limit: int):
    """Takes the number of bad steps in a row at which the run stops."""
    self._limit = limit
    self._count = 0

  def check(
    self, step: int, scalars: dict[str, jax.Array], ids: np.ndarray
  ) -> dict[str, float]:
    """Waits for `step` and returns its scalars; InputError at the limit."""
    values = {k: float(v) for k, v in jax.device_get(scalars).items()}
    self._count = self._count + 1 if values["bad"] else 0
    if self._count:
      logging.warning(
        "step %d: loss %s is not finite or its gradient is not; skipped",
        step,
        values["loss"],
      )
    if self._count >= self._limit:
      raise errors.InputError(
        f"the loss was not finite in {self._count} steps in a row up to step"
        f" {step}; the last batch held ids {ids[:8].tolist()} …; lower"
        " optim.peak_lr or look at these records"
      )
    return values


class Tally:
  """Totals and means over the steps so far; stored with each checkpoint.

  Attributes:
    bad_records: number of records that were masked out, over all processes and
      all restarts.
    last: the row of metrics that was written last.
  """

  def __init__(self, batch_size: int, stored: dict[str, Any]):
    """Starts from what `stored()` returned earlier, or from {}."""
    self._batch_size = batch_size
    self._window: list[dict[str, float]] = stored.get("window", [])
    self.bad_records: int = stored.get("bad_records", 0)
    self.last: dict[str, float] = stored.get("last", {})

  def add(self, scalars: dict[str, float]) -> None:
    """Adds the scalars of one step."""
    if self._window and self._window[0].keys() != scalars.keys():
      self._window = []  # another version stored other names
    self._window.append(scalars)
    self.bad_records += round((1 - scalars["valid"]) * self._batch_size)

  def close_window(self, speed: dict[str, float]) -> dict[str, float]:
    """Returns the means over the steps since the last call; sets `last`."""
    rows, self._window = self._window, []
    self.last = {k: float(np.mean([row[k] for row in rows])) for k in rows[0]}
    self.last |= speed | {"bad_records": float(self.bad_records)}
    return self.last

  def stored(self) -> dict[str, Any]:
    """Returns the whole tally in a form that JSON can hold."""
    return {
      "window": list(self._window),
      "bad_records": self.bad_records,
      "last": self.last,
    }


def progress(
  step: int, total: int, scalars: dict[str, float], left: str
) -> str:
  """Returns the line that is logged while training."""
  speed = ""
  if "ms_per_step" in scalars:
    speed = (
      f", {scalars['ms_per_step']:.0f} ms/step,"
      f" {scalars['images_per_second']:.0f} images/s, {left} left"
    )
  return f"step {step}/{total}: loss {scalars['loss']:.3f}{speed}"
