"""The plan of a step as a dictionary; `page` prints it.

On a first read, see `make`.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from sseg_jax.plan import networks, products
from sseg_jax.plan.chips import Chip, Topology, peak_flops
from sseg_jax.plan.profile import Profile
from sseg_jax.plan.step import Compiled, Step

# Two counts of a part that differ by a larger share are reported.
_TOLERANCE = 0.05


def make(
  step: Step,
  compiled: Compiled,
  profile: Profile,
  chip: Chip | None,
  topology: Topology | None = None,
  measured: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Builds the plan of a step.

  Args:
    step: the step.
    compiled: the compiled step.
    profile: the profile of its program.
    chip: the published figures; None if the device is not in the table.
    topology: the slice of the plan; None for this machine's devices.
    measured: the result of `local.measure`.

  Returns:
    Times in seconds, sizes in bytes, operations and bytes a chip a step.
  """
  config, chips = step.setup.config, step.mesh.size
  model = networks.training(config)
  traced = products.trace(step.function, *step.arguments)
  # Parts without a formula count as they were traced.
  whole = sum((traced | model).values())
  counts = {
    "closed_form": {part: value / chips for part, value in model.items()},
    "traced": {part: value / chips for part, value in traced.items()},
    "compiled": dict(profile.flops),
  }
  report: dict[str, Any] = {
    "topology": str(topology) if topology else None,
    "device": str(step.mesh.devices.flat[0].device_kind),
    "chips": chips,
    "slices": topology.slices if topology else 1,
    "mesh": dict(step.mesh.shape),
    "batch_size": config.batch_size,
    "per_chip": config.batch_size / chips,
    "image_size": config.image_size,
    "total_steps": config.total_steps,
    "compile_seconds": compiled.seconds,
    "memory": compiled.memory,
    "flops": counts,
    "model_flops": whole / chips,
    "compiled_over_traced": ratio(profile.total_flops, traced, chips),
    "compiled_over_closed_form": profile.total_flops * chips / whole,
    "differences": differences(counts),
    "bf16_products": profile.total_passes,
    "hbm_bytes": profile.total_bytes,
    "hbm_bytes_by_part": profile.bytes,
    "collectives": {
      kind: dataclasses.asdict(value)
      for kind, value in sorted(profile.collectives.items())
    },
    "loops_of_unknown_length": profile.unknown_loops,
    "kernels_not_counted": profile.kernels,
    "compiler_estimate_s": compiler_estimate(compiled.compiler),
    "top": {
      key: [dataclasses.asdict(work) for work in profile.top(key)]
      for key in ("bytes", "flops")
    },
    "largest_arrays": [dataclasses.asdict(a) for a in profile.largest],
    "measured": dict(measured) if measured else None,
    "projected": None,
  }
  if measured:
    # The model's operations at the measured speed over the peak.
    peak = peak_flops(report["device"])
    seconds = report["measured"]["step_s"]
    report["measured"]["mfu"] = peak and whole / chips / peak / seconds
  if chip is not None:
    report["chip"] = dataclasses.asdict(chip)
    report["fits"] = compiled.memory["total"] <= chip.hbm_bytes
    report["projected"] = project(config, profile, chip, chips, whole)
  return report


def ratio(
  compiled: float, traced: Mapping[str, float], chips: int
) -> float | None:
  """Returns compiled operations divided by traced ones, or None."""
  total = sum(traced.values())
  return compiled * chips / total if total else None


def project(
  config: Any, profile: Profile, chip: Chip, chips: int, model_flops: float
) -> dict[str, Any]:
  """Returns the least time of a step, what limits it, images/s, MFU and cost.

  Args:
    config: gives the batch size and the number of steps.
    profile: of one chip.
    chip: the published figures of that chip.
    chips: number of chips.
    model_flops: operations of a step on all chips, nothing counted twice.
  """
  limits = profile.roofline(chip)
  bound = max(limits, key=lambda name: limits[name])
  seconds = limits[bound]
  in_turn = profile.in_turn(chip)
  peak = chips * chip.flops
  hours = seconds * config.total_steps / 3600
  return {
    "limits_s": limits,
    "bound": bound,
    "step_s": seconds,
    "images_per_second": config.batch_size / seconds,
    "mfu": model_flops / (peak * seconds),
    "hours": hours,
    "chip_hours": hours * chips,
    "in_turn_s": in_turn,
    "in_turn_mfu": model_flops / (peak * in_turn),
  }


def compiler_estimate(analysis: Mapping[str, float]) -> float | None:
  """Returns XLA's own estimate of a step in seconds, or None.

  XLA's number can be negative, because an all-reduce may add about -1. Then the
  result is None.
  """
  seconds = analysis.get("optimal_seconds")
  if seconds is None or not math.isfinite(seconds) or seconds <= 0:
    return None
  return float(seconds)


def differences(counts: Mapping[str, Mapping[str, float]]) -> list[str]:
  """Names parts whose counts differ by over 5 %.

  Traced operations are compared with those in closed form, where a part has
  one, and with the compiled ones. Parts of less than a thousandth of the whole
  are left out.
  """
  traced, compiled = counts["traced"], counts["compiled"]
  total = max(sum(traced.values()), sum(compiled.values()))
  found = []
  for part, a in sorted(counts["closed_form"].items()):
    b = traced.get(part, 0.0)
    if max(a, b) >= total / 1000 and abs(a - b) > _TOLERANCE * max(a, b):
      found.append(
        f"{part}: {a / 1e9:.3f} GFLOP in closed form, {b / 1e9:.3f} traced"
      )
  for part in sorted(traced.keys() | compiled.keys()):
    a, b = traced.get(part, 0.0), compiled.get(part, 0.0)
    if max(a, b) < total / 1000 or abs(a - b) <= _TOLERANCE * max(a, b):
      continue
    found.append(
      f"{part}: {a / 1e9:.3f} GFLOP traced, {b / 1e9:.3f} compiled"
      + (": computed twice, or on several chips alike" if b > a else "")
    )
  return found
