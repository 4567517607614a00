"""The short form of kill_trials.py, whose full form takes half an hour."""

import kill_trials
import pytest

pytestmark = pytest.mark.slow


def test_a_run_survives_a_kill_and_a_damaged_checkpoint(tmp_path):
  chosen = ("kill -9", "checkpoint flipped")
  misfortunes = [m for m in kill_trials.each(1, 0, 1) if m[0] in chosen]
  log = kill_trials.trials(tmp_path, steps=40, misfortunes=misfortunes, seed=0)
  assert len(log) == 2
