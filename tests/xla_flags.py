"""Flags of XLA under which tests compile in a third of the time, or less.

Optimised less, the programs compute the same: nothing in the suite measures
their speed.
"""

import importlib.metadata

FAST = (
  "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=1"
)
# The kernels of fusion emitters are written by way of MLIR, which takes as long
# as all the rest. An XLA that does not know a flag ends the process: jaxlib 0.7
# to 0.10 know this one, 0.12 does not.
_version = importlib.metadata.version("jaxlib").split(".")
if (0, 7) <= (int(_version[0]), int(_version[1])) < (0, 11):
  FAST += " --xla_cpu_use_fusion_emitters=false"


def simulated_devices(count: int) -> str:
  """Returns the flags for a process with so many CPU devices."""
  return f"{FAST} --xla_force_host_platform_device_count={count}"
