"""The short form of kill_trials.py, whose full form takes half an hour."""

import kill_trials
import pytest

pytestmark = pytest.mark.slow


def test_a_run_survives_a_kill_and_a_damaged_checkpoint(tmp_path):
  misfortunes = kill_trials.each(kills=2, terms=0, damages=1)
  chosen = ("kill -9 evaluating", "kill -9 saving", "checkpoint flipped")
  misfortunes = [m for m in misfortunes if m[0] in chosen]
  log = kill_trials.trials(tmp_path, steps=30, misfortunes=misfortunes, seed=0)
  assert len(log) == 3
