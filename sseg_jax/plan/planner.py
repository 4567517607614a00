"""Plans the training step of a config on a slice of TPUs."""

from typing import Any

import jax

from sseg_jax.plan import chips, local, profile, report, step


def plan(config: Any, topology: chips.Topology | None) -> dict[str, Any]:
  """Compiles a config's training step and reports on it.

  Args:
    config: a whole config.
    topology: to compile for; None for this machine's devices, on which a few
      steps are run as well.

  Returns:
    What `report.make` returns.

  Raises:
    InputError: if a field cannot work, the batch does not divide, the slice
      does not exist, or the step does not fit its memory.
  """
  devices = step.devices_of(topology) if topology else jax.devices()
  built = step.build(config, devices)
  compiled = step.compile_step(built)
  if topology:
    chip: chips.Chip | None = topology.chip
  else:
    chip = chips.of_device(devices[0].device_kind)
  return report.make(
    built,
    compiled,
    profile.profile(compiled.text, len(devices)),
    chip,
    topology,
    None if topology else local.measure(built, compiled),
  )
