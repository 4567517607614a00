"""What is told of a step that does not end."""

import logging
import threading
import time

from absl import logging as absl_logging

from sseg_jax.runtime.watchdog import SLOW, Watchdog

MINUTES = 2.0


class Clock:
  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


def make(start_step=0):
  clock = Clock()
  # It is asked here, not by its own thread.
  return Watchdog(MINUTES, start_step, clock=clock, poll_seconds=1e6), clock


def told_after(dog, clock, seconds):
  """Returns what it says once so much time has passed, and not before."""
  clock.now += seconds - 0.5
  assert dog.overdue() is None
  clock.now += 1.0
  said = dog.overdue()
  assert said is not None and dog.overdue() is None  # once
  return said


def test_a_step_far_longer_than_the_others():
  dog, clock = make()
  for step in range(1, 31):
    clock.now += 20.0
    dog.update(step)
  # Ten times the median, which is more than two minutes.
  said = told_after(dog, clock, 200)
  assert "what follows step 30 has taken 200 s" in said and "20.00 s" in said


def test_short_steps_have_some_minutes():
  dog, clock = make()
  for step in range(1, 31):
    clock.now += 0.1
    dog.update(step)
  told_after(dog, clock, 60 * MINUTES)


def test_the_first_step_is_compiled():
  dog, clock = make(start_step=500)
  said = told_after(dog, clock, SLOW * 60 * MINUTES)
  assert "what follows step 500 has taken" in said and "median" not in said


def test_after_a_checkpoint_and_in_an_evaluation():
  dog, clock = make()
  for step in range(1, 31):
    clock.now += 20.0
    dog.update(step)
  dog.reset()
  told_after(dog, clock, 200)
  dog.reset(SLOW)
  told_after(dog, clock, SLOW * 200)
  # Neither counts as a step.
  dog.update(31)
  told_after(dog, clock, 200)


def test_its_thread_shows_where_the_others_stand(caplog):
  absl_logging.use_absl_handler()
  clock = Clock()
  dog = Watchdog(MINUTES, clock=clock, poll_seconds=0.01)
  with caplog.at_level(logging.WARNING):
    clock.now += 1e6
    for _ in range(1000):
      if caplog.records:
        break
      time.sleep(0.01)
  dog.close()
  (record,) = caplog.records
  assert "test_its_thread_shows" in record.getMessage()


def test_zero_switches_it_off():
  before = threading.active_count()
  Watchdog(0.0)
  assert threading.active_count() == before
