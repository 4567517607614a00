"""Every command starts, and explains itself."""

import pathlib
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
COMMANDS = sorted(
  path.stem
  for path in (ROOT / "sseg_jax").glob("*.py")
  if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
)


def _help(command: str) -> subprocess.CompletedProcess[str]:
  return subprocess.run(
    [sys.executable, "-m", f"sseg_jax.{command}", "--help"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command):
  result = _help(command)
  assert result.returncode == 0, result.stderr
  assert "--" in result.stdout


def test_the_commands_are_found():
  assert {"main", "prepare", "evaluate", "predict"} <= set(COMMANDS)


def test_predict_explains_itself_quickly():
  seconds = []
  for _ in range(3):
    start = time.perf_counter()
    assert _help("predict").returncode == 0
    seconds.append(time.perf_counter() - start)
  assert min(seconds) < 3, seconds
