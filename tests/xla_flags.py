"""Flags of XLA under which tests compile in a third of the time.

Optimised less, the programs compute the same: nothing in the suite measures
their speed.
"""

import importlib.metadata
import json
import os
import pathlib
import subprocess
from typing import Any

import preloaded

_FAST = (
  "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=1"
  # A fifth less again: a program is cut into fewer pieces.
  " --xla_cpu_parallel_codegen_split_count=1 --xla_cpu_prefer_vector_width=128"
)
# Halves what is left. XLA ends a process that gives it a flag it does not know,
# and other versions of jaxlib do not know this one.
_EMITTERS = "--xla_cpu_use_fusion_emitters=false"
_KNOWN_BY = ((0, 7), (0, 11))  # from, and below


def _fast() -> str:
  version = importlib.metadata.version("jaxlib").split(".")
  known = _KNOWN_BY[0] <= (int(version[0]), int(version[1])) < _KNOWN_BY[1]
  return f"{_FAST} {_EMITTERS}" if known else _FAST


FAST = _fast()


def simulated_devices(count: int) -> str:
  """Returns the flags for a process with so many CPU devices."""
  return f"{FAST} --xla_force_host_platform_device_count={count}"


def without_cpu_only(flags: str) -> str:
  """Returns the flags that libtpu knows too."""
  return " ".join(x for x in flags.split() if not x.startswith("--xla_cpu_"))


def found_on(count: int, script: str) -> Any:
  """Runs a script that imports tests on so many simulated devices.

  Returns the JSON of the last line that it prints.
  """
  tests = pathlib.Path(__file__).parent
  done = subprocess.run(
    [preloaded.python(), "-c", script],
    env=os.environ
    | {
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": simulated_devices(count),
      "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])
