"""Checkpoints: whole training states, verified when they are restored.

`Checkpoints` saves and restores the state of a run; `load` reads the parameters
of one checkpoint as NumPy arrays, on any machine. One checkpoint is a folder

    WORKDIR/checkpoints/STEP/{state/, metadata/, manifest.json}

with Orbax's arrays (`named_arrays`), a JSON of the configuration and versions
(`metadata`), and the manifest that tells a whole checkpoint from a damaged one
(`integrity`). `thresholds.json` in the same folder is part of the metadata.
The newest are kept, and those with the best scores (`best`).
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from sseg_jax import files
from sseg_jax.checkpoints import best, folders, integrity, named_arrays
from sseg_jax.checkpoints import metadata as stored_metadata
from sseg_jax.errors import InputError
from sseg_jax.runtime import provenance

# With several processes the clock of the first process decides for all. Reading
# it needs communication between hosts, so it is read only once in this many
# steps; that is precise enough for minutes.
_CLOCK_EVERY_STEPS = 20


class Loaded(NamedTuple):
  """The inference half of a checkpoint; every array is a NumPy array.

  Attributes:
    config: of the run: a dict as it was stored, or a `ConfigDict`.
    params: nested dict of arrays.
    model_state: nested dict of running statistics.
    step: of training.
    metadata: thresholds and whatever else was stored.
    folder: of the step; None for what is no checkpoint of a run.
  """

  config: Any
  params: dict
  model_state: dict
  step: int
  metadata: dict[str, Any]
  folder: epath.Path | None = None


class Checkpoints:
  """Saves the state of a run in the background and restores it.

  Args:
    directory: folder of the step folders, local or `gs://`; made if missing.
      All processes of a run must see the same one.
    keep: how many of the newest checkpoints are kept; older ones are deleted.
    keep_best: how many of the best-scoring checkpoints are kept as well.
    every_steps: a save is due at multiples of it; 0 switches that off.
    every_minutes: a save is due this long after the last; 0 switches that off.
    metadata: written into each checkpoint as JSON: `config`, class of the
      model, thresholds. Versions of the packages are added.
    before_save: is called before anything is written. It raises an error if
      this process must not write, as `lease.Lease.check` does.

  Attributes:
    metadata: the argument; it may be replaced between saves.
    restored: the metadata of the checkpoint that `restore` returned, {} before.
  """

  def __init__(
    self,
    directory: str | epath.PathLike,
    *,
    keep: int,
    every_steps: int,
    every_minutes: float,
    metadata: Mapping[str, Any],
    keep_best: int = 0,
    before_save: Callable[[], None] = lambda: None,
  ):
    if keep < 1:
      raise InputError(f"checkpoint.keep is {keep}; keep at least 1")
    if keep_best < 0:
      raise InputError(f"checkpoint.keep_best is {keep_best}; 0 keeps none")
    self.metadata = dict(metadata)
    self.restored: dict[str, Any] = {}
    self._thresholds: dict[str, Any] = {}
    self._json_metadata()  # raises now if JSON cannot hold the metadata
    if "://" not in str(directory):  # Orbax refuses relative paths
      directory = os.path.abspath(directory)
    self._directory = epath.Path(directory)
    self._every_steps = every_steps
    self._every_seconds = 60 * every_minutes
    self._last_save = time.monotonic()
    self._saving = -1
    self._before_save = before_save
    self._found: int | None = None
    self._best = best.Best(self._directory, keep_best)
    policies = ocp.checkpoint_managers
    self._manager = ocp.CheckpointManager(
      self._directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=policies.AnyPreservationPolicy(
          [policies.LatestN(keep), self._best]
        ),
        cleanup_tmp_directories=True,  # left by a save that was killed
        # Otherwise a damaged checkpoint would raise here, before `restore`.
        lightweight_initialize=True,
        # Runs when the files are complete, before the folder gets its final
        # name and before older checkpoints are deleted.
        async_options=ocp.AsyncOptions(
          post_finalization_callback=self._write_manifest
        ),
      ),
    )

  def due(self, step: int) -> bool:
    """Returns whether to save at `step`, also if the machine is preempted soon.

    Call it after every step, in every process.
    """
    due = self._every_steps > 0 and step % self._every_steps == 0
    return due or self._manager.reached_preemption(step) or self._overdue(step)

  def save(self, step: int, state: Any) -> None:
    """Starts saving `state` as `step`; does nothing if `step` is saved already.

    Args:
      step: the number of steps taken.
      state: any pytree of arrays; copied before the call returns.
    """
    self._last_save = time.monotonic()
    self._before_save()
    if step in self._manager.all_steps():
      return
    self._manager.wait_until_finished()  # raises errors of the last save
    self._saving = step
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.PyTreeSave(
          named_arrays.nested(named_arrays.flat(state))
        ),
        metadata=ocp.args.JsonSave(self._json_metadata()),
      ),
      force=True,  # whether a save is due is decided above, not by Orbax
    )

  def rate(self, step: int, state: Any, score: float) -> bool:
    """Keeps `state` beyond the newest ones if its score is one of the best.

    Call it in every process.

    Args:
      step: the number of steps taken.
      state: as for `save`; saved now if it is kept and is not saved yet.
      score: higher is better; NaN means no score. The value of the first
        process is used.

    Returns:
      Whether it is kept.
    """
    score = float(_from_first_process(np.float32(score)))
    kept = self._best.rate(step, score, self._manager.all_steps())
    if kept:
      self.save(step, state)
    if kept and _is_first_process():
      self._best.write()
    return kept

  def find(self) -> dict[str, Any]:
    """Returns the metadata of the checkpoint to resume from; {} if none.

    This is the latest whole checkpoint; damaged ones are reported. `restore`
    then uses the checkpoint that is found here. Call it in every process.

    Raises:
      InputError: if there are checkpoints, and none is whole.
    """
    self.wait()
    steps = sorted(self._manager.all_steps(), reverse=True)
    if not steps:
      return {}
    # One process verifies the files and sends the result to the others.
    whole = (
      folders.latest_whole({s: self._directory / str(s) for s in steps})
      if _is_first_process()
      else None
    )
    step = int(_from_first_process(np.int32(-1 if whole is None else whole)))
    if step < 0:
      raise InputError(folders.none_whole(self._directory, steps))
    self._found = step
    return stored_metadata.read(self._directory / str(step))

  def set_thresholds(self, step: int, thresholds: Mapping[str, Any]) -> None:
    """Stores thresholds with `step`, if it is saved, and with all later steps.

    Args:
      step: the step that they were found for.
      thresholds: background thresholds from `background.to_store`; {} changes
        nothing. Those of the first process are used.
    """
    if not thresholds:
      return
    self._before_save()
    self._thresholds = dict(thresholds)
    self._manager.wait_until_finished()
    folder = self._directory / str(step)
    if _is_first_process() and step in self._manager.all_steps():
      stored_metadata.write_thresholds(folder, thresholds)

  def restore(self, abstract_state: Any) -> Any | None:
    """Returns the latest whole checkpoint, or None if there is none at all.

    A damaged checkpoint is reported and moved to `DIRECTORY.damaged/STEP`, and
    the one before it is used. Calls `find` unless it was called before.

    Args:
      abstract_state: pytree of the wanted structure, of arrays or of
        `jax.ShapeDtypeStruct`. A leaf with a sharding is returned as a
        `jax.Array` with this sharding, whatever topology wrote it. A leaf
        without is returned as a NumPy array.

    Raises:
      InputError: if no checkpoint is whole, or the latest whole one is of
        another model; the message names the first array that differs.
    """
    if self._found is None:
      self.find()
    if self._found is None:
      return None
    step, self._found = self._found, None
    folder = self._directory / str(step)
    state = named_arrays.restore(folder, abstract_state)
    self.restored = stored_metadata.read(folder)
    self._thresholds = stored_metadata.thresholds(self.restored)
    for later in sorted(self._manager.all_steps()):
      if later > step:  # damaged
        self._set_aside(later)
    self._manager.reload()
    self._last_save = time.monotonic()
    return state

  def wait(self) -> None:
    """Blocks until the running save is complete; raises if it failed."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for the running save and ends the threads."""
    self._manager.close()

  def _overdue(self, step: int) -> bool:
    if self._every_seconds <= 0:
      return False
    if jax.process_count() > 1 and step % _CLOCK_EVERY_STEPS:
      return False
    overdue = time.monotonic() - self._last_save >= self._every_seconds
    return bool(_from_first_process(np.int32(overdue)))

  def _json_metadata(self) -> dict[str, Any]:
    metadata = {
      **self.metadata,
      **self._thresholds,
      "versions": provenance.versions(),
    }
    return json.loads(json.dumps(metadata))

  def _write_manifest(self) -> None:
    if not _is_first_process():
      return
    # On file systems that rename, the folder has no final name yet.
    step = str(self._saving)
    (folder,) = (
      path
      for path in self._directory.iterdir()
      if path.name == step
      or path.name.startswith(f"{step}.orbax-checkpoint-tmp")
    )
    integrity.write_manifest(folder)

  def _set_aside(self, step: int) -> None:
    if _is_first_process():
      folders.set_aside(self._directory, step)
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices(f"checkpoint {step} set aside")


def load(path: str | epath.PathLike, step: int | None = None) -> Loaded:
  """Reads parameters and model state as NumPy arrays, on any machine.

  Args:
    path: a run's work directory, its `checkpoints` folder or one step's folder;
      WORKDIR/best is the one whose evaluation between steps scored best.
    step: the step wanted; by default the latest whole one.

  Raises:
    InputError: if there is no checkpoint, or none of those asked for is whole.
  """
  path = files.expand(path)
  found = folders.find(path)
  steps = list(found)
  if step is not None:
    if step not in steps:
      raise InputError(f"{path} has no step {step}; it has {sorted(steps)}")
    steps = [step]
  whole = folders.latest_whole({step: found[step] for step in steps})
  if whole is None:
    raise InputError(folders.none_whole(path, steps))
  folder = found[whole]
  metadata = stored_metadata.read(folder)
  leaves = named_arrays.read_parts(folder, ("params", "model_state"))
  tree = named_arrays.nested(leaves, int_keys=True)
  return Loaded(
    config=metadata.get("config", {}),
    params=tree.get("params", {}),
    model_state=tree.get("model_state", {}),
    step=whole,
    metadata=metadata,
    folder=folder,
  )


def add_thresholds(loaded: Loaded, thresholds: Mapping[str, Any]) -> bool:
  """Stores thresholds with what `load` gave; returns whether (`metadata`)."""
  if loaded.folder is None:
    return False
  return stored_metadata.add_thresholds(
    loaded.folder, loaded.metadata, thresholds
  )


def _is_first_process() -> bool:
  return jax.process_index() == 0


def _from_first_process(value: np.number) -> np.number:
  if jax.process_count() == 1:
    return value
  return multihost_utils.broadcast_one_to_all(value)
