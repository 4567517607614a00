"""Steps in flight, totals over steps, and the line that is logged."""

import collections
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from absl import logging

from sseg_jax import errors
from sseg_jax.runtime import preemption
from sseg_jax.runtime.watchdog import SLOW, Watchdog

# Steps that may be in flight at once: enough to hide the host's work, and few
# enough that batches do not pile up in memory.
_IN_FLIGHT = 2


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


@runtime_checkable
class Speed(Protocol):
  """What `StepsInFlight` calls of `metrics.Throughput`."""

  def update(self, step: int) -> None:
    """Records that `step` has ended."""

  def reset(self) -> None:
    """Forgets the steps so far."""


class StepsInFlight:
  """Steps that were started, and what is done when each of them has ended.

  JAX returns from a step before the devices have computed it, so the next step
  can start at once. `wait` reads the scalars of the oldest steps: it adds them
  to the tally, stops the run if losses stay non-finite, and reads whether any
  process was asked to stop.

  A process may not stop alone: the others would wait for it in the next step.
  So each process sends its `votes` with its part of the batch, the step returns
  their maximum as the scalar "stop", and all processes read the same value.

  Args:
    tally: adds up the scalars.
    max_bad_steps: number of bad steps in a row at which the run stops.
    stop: says whether this process was asked to stop.
    speed: measures the steps.
    watchdog: warns about a step that takes too long.
  """

  def __init__(
    self,
    tally: Tally,
    max_bad_steps: int,
    stop: preemption.Stop,
    speed: Speed,
    watchdog: Watchdog,
  ):
    self._tally = tally
    self._max_bad_steps = max_bad_steps
    self._stop = stop
    self._speed = speed
    self._watchdog = watchdog
    self._steps: collections.deque = collections.deque()
    self._bad_steps = 0  # in a row
    self._asked = False  # whether this process was asked to stop
    self._agreed = False  # whether any process was

  def votes(self, devices: int) -> np.ndarray:
    """Returns int32 [devices]: 1 if this process was asked to stop, else 0."""
    return np.full(devices, self._asked, np.int32)

  def add(
    self, step: int, scalars: dict[str, jax.Array], ids: np.ndarray
  ) -> None:
    """Adds a step that was just started, and the ids of its records."""
    self._steps.append((step, scalars, ids))

  def wait(self, *, for_all: bool = True) -> None:
    """Waits until all steps have ended, or all but the newest two.

    Raises:
      InputError: if the loss stayed non-finite for `max_bad_steps` steps.
    """
    while len(self._steps) > (0 if for_all else _IN_FLIGHT):
      step, scalars, ids = self._steps.popleft()
      values = {k: float(v) for k, v in jax.device_get(scalars).items()}
      self._count_bad(step, values, ids)
      self._agreed = self._agreed or bool(values.pop("stop"))
      self._tally.add(values)
      self._speed.update(step)
      self._watchdog.update(step)
      self._stop.working()

  def _count_bad(
    self, step: int, values: dict[str, float], ids: np.ndarray
  ) -> None:
    self._bad_steps = self._bad_steps + 1 if values["bad"] else 0
    if self._bad_steps:
      logging.warning(
        "step %d: loss %s is not finite or its gradient is not; skipped",
        step,
        values["loss"],
      )
    if self._bad_steps >= self._max_bad_steps:
      raise errors.InputError(
        f"the loss was not finite in {self._bad_steps} steps in a row up to"
        f" step {step}; the last batch held ids {ids[:8].tolist()} …; lower"
        " optim.peak_lr or look at these records"
      )

  def must_stop(self) -> bool:
    """Returns whether to stop now, the same in all processes.

    Call it once after each step. Of several processes, each tells the others
    with the next step, so they stop some steps after the signal.
    """
    self._asked = self._stop.is_set()
    return self._agreed if jax.process_count() > 1 else self._asked

  def pause(self) -> None:
    """Call it before other work, such as an evaluation: it may take longer."""
    self._watchdog.reset(SLOW)

  def resume(self) -> None:
    """Call it after other work: the time it took is not a step's."""
    self._speed.reset()
    self._watchdog.reset()


def line(step: int, total: int, scalars: dict[str, float], left: str) -> str:
  """Returns the line that is logged while training.

  Args:
    step: the last step that has ended.
    total: number of steps of the run.
    scalars: a row of `Tally.close_window`.
    left: the time to the last step, as text.
  """
  speed = ""
  if "ms_per_step" in scalars:
    speed = (
      f", {scalars['ms_per_step']:.0f} ms/step,"
      f" {scalars['images_per_second']:.0f} images/s, {left} left"
    )
  return f"step {step}/{total}: loss {scalars['loss']:.3f}{speed}"
