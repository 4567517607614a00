"""Flags of XLA under which tests compile in a third of the time, or less.

Optimised less, the programs compute the same: nothing in the suite measures
their speed. An XLA that does not know a flag says so and ends the process.
"""

FAST = (
  "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=1"
  # Its kernels are written by way of MLIR, which takes as long as all the rest.
  " --xla_cpu_use_fusion_emitters=false"
)


def simulated_devices(count: int) -> str:
  """Returns the flags for a process with so many CPU devices."""
  return f"{FAST} --xla_force_host_platform_device_count={count}"
