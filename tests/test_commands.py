"""Every command explains itself quickly, with examples that are valid."""

import importlib
import pathlib
import resource
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
COMMANDS = sorted(
  [
    path.stem
    for path in (ROOT / "sseg_jax").glob("*.py")
    if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
  ]
  + [path.parent.name for path in (ROOT / "sseg_jax").glob("*/__main__.py")]
)
WITH_EXAMPLES = (
  "ablations",
  "bench",
  "curves",
  "demo",
  "evaluate",
  "export",
  "plan",
  "predict",
  "prepare_benchmark",
  "study",
)
_HELP = """
import runpy, sys
sys.argv = ["x", "--help"]
try:
  runpy.run_module("sseg_jax.{}", run_name="__main__")
finally:
  assert not {{"jax", "tensorflow", "torch"}} & sys.modules.keys()
"""


def _seconds() -> float:
  """Time on a processor: unlike a clock's, it does not depend on the load."""
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_quick_and_loads_no_jax(command):
  before = _seconds()
  result = subprocess.run(
    [sys.executable, "-c", _HELP.format(command)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert _seconds() - before < 2
  assert result.returncode == 0, result.stderr
  assert "--" in result.stdout
  if command in WITH_EXAMPLES:
    assert "\nexamples:\n" in result.stdout


@pytest.mark.parametrize("command", WITH_EXAMPLES)
def test_at_least_two_examples_and_each_can_be_parsed(command):
  name = f"sseg_jax.{command}"
  if (ROOT / "sseg_jax" / command).is_dir():
    name += ".__main__"
  parser = importlib.import_module(name)._parser()
  text = parser.format_help().partition("\nexamples:\n")[2]
  assert max(map(len, text.splitlines())) <= 80
  start = f"python -m sseg_jax.{command} "
  examples = text.replace("\\\n", "").strip().split("\n")
  assert len(examples) >= 2
  for example in examples:
    assert example.strip().startswith(start)
    parser.parse_args(shlex.split(example.strip().removeprefix(start)))


def test_the_commands_are_found():
  assert {"main", "prepare", "evaluate", "predict", "plan"} <= set(COMMANDS)
