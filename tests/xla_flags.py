"""Flags of XLA under which tests compile in half the time, or a third.

Optimised less, the programs compute the same: nothing in the suite measures
their speed.
"""

FAST = (
  "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=1"
)


def simulated_devices(count: int) -> str:
  """Returns the flags for a process with so many CPU devices."""
  return f"{FAST} --xla_force_host_platform_device_count={count}"
