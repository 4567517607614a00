"""Totals over steps, steps in flight, and the vote on whether to stop."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from sseg_jax.errors import InputError
from sseg_jax.runtime import preemption, progress
from sseg_jax.runtime.watchdog import Watchdog


def test_what_steps_add_up_to_is_kept():
  straight, stopped = progress.Tally(8, {}), progress.Tally(8, {})
  for step in range(1, 8):
    scalars = {"loss": 1 / step, "valid": np.float32(1 - (step % 3) / 8)}
    for tally in (straight, stopped):
      tally.add({k: float(v) for k, v in scalars.items()})
      if step == 3:
        tally.close_window({"ms_per_step": 5.0})
    stopped = progress.Tally(8, json.loads(json.dumps(stopped.stored())))
  assert stopped.last == straight.last
  assert stopped.last["ms_per_step"] == 5.0 and stopped.last["bad_records"] == 3
  assert stopped.bad_records == straight.bad_records == 7
  row = stopped.close_window({})
  assert row == straight.close_window({})
  assert row["loss"] == pytest.approx(np.mean([1 / 4, 1 / 5, 1 / 6, 1 / 7]))
  assert row["bad_records"] == 7


class Clock(Watchdog):
  """Stands in for the speed and for the watchdog."""

  def __init__(self):
    self.calls = []

  def update(self, step):
    self.calls.append(step)

  def reset(self, times=1):
    self.calls.append(f"reset {times}")


@pytest.fixture
def made():
  """Steps in flight, with all they are made of."""
  tally, stop = progress.Tally(8, {}), preemption.Stop()
  speed, watchdog = Clock(), Clock()
  steps = progress.StepsInFlight(tally, 3, stop, speed, watchdog)
  return steps, tally, stop, speed, watchdog


def add(steps, step, **scalars):
  scalars = {"loss": 1.0, "valid": 1.0, "bad": 0.0, "stop": 0} | scalars
  ids = np.arange(10 * step, 10 * step + 8)
  steps.add(step, {k: jnp.asarray(v) for k, v in scalars.items()}, ids)


def test_two_steps_stay_in_flight_until_all_are_waited_for(made):
  steps, tally, _, speed, watchdog = made
  for step in range(1, 6):
    add(steps, step, loss=float(step))
    steps.wait(for_all=False)
  assert speed.calls == watchdog.calls == [1, 2, 3]
  steps.wait()
  assert speed.calls == watchdog.calls == [1, 2, 3, 4, 5]
  row = tally.close_window({})
  assert row["loss"] == 3.0 and "stop" not in row


def test_the_clocks_know_of_other_work(made):
  steps, _, _, speed, watchdog = made
  steps.pause()
  steps.resume()
  assert watchdog.calls == ["reset 6", "reset 1"]
  assert speed.calls == ["reset 1"]


def test_bad_steps_in_a_row_end_the_run(made):
  steps = made[0]
  for step, bad in enumerate((1, 1, 0, 1, 1), 1):
    add(steps, step, bad=float(bad), loss=float("nan"))
  steps.wait()  # three, but never in a row
  add(steps, 6, bad=1.0, loss=float("nan"))
  with pytest.raises(
    InputError, match="3 steps in a row up to step 6;.*60, 61"
  ):
    steps.wait()


def test_one_process_stops_when_it_is_asked(made):
  steps, _, stop, *_ = made
  assert not steps.must_stop() and steps.votes(3).tolist() == [0, 0, 0]
  stop.set()
  assert steps.must_stop() and steps.votes(3).tolist() == [1, 1, 1]


def test_several_processes_stop_at_the_same_step(made, monkeypatch):
  """That is when the vote comes back with a step, not when one is asked."""
  steps, _, stop, *_ = made
  monkeypatch.setattr(progress.jax, "process_count", lambda: 2)
  stop.set()
  assert not steps.must_stop() and steps.votes(1).tolist() == [1]
  add(steps, 1, stop=1)
  assert not steps.must_stop()
  steps.wait()
  assert steps.must_stop()
  add(steps, 2, stop=0)
  steps.wait()
  assert steps.must_stop()  # as agreed


def test_the_line_of_a_step():
  row = {"loss": 1.23456, "ms_per_step": 250.4, "images_per_second": 256.0}
  assert progress.line(5, 20, row, "3m20s") == (
    "step 5/20: loss 1.235, 250 ms/step, 256 images/s, 3m20s left"
  )
  assert progress.line(5, 20, {"loss": 2.0}, "?") == "step 5/20: loss 2.000"
