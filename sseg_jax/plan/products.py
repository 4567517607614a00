"""Floating-point operations of matrix products and convolutions.

There are two independent counts of the same work: from the shapes in a compiled
program, and from a traced function. A multiply-add is two operations.
"""

import collections
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from sseg_jax.plan import parts
from sseg_jax.plan.hlo import Computation, Instruction


def taps(
  size: int,
  kernel: int,
  out: int,
  *,
  stride: int = 1,
  low: int = 0,
  dilation: int = 1,
  kernel_dilation: int = 1,
) -> int:
  """Counts pairs of an output and a cell of the kernel that read an input.

  Along one axis. Pairs that read padding, or a gap of a dilated input, are not
  counted: TPUs write batched products as convolutions that are mostly gaps.
  """
  place = np.arange(out)[:, None] * stride - low
  place = place + np.arange(kernel)[None] * kernel_dilation
  inside = (place >= 0) & (place < (size - 1) * dilation + 1)
  return int((inside & (place % dilation == 0)).sum())


def flops(instruction: Instruction, computation: Computation) -> float:
  """Returns the operations of one run of a `dot` or `convolution`, else 0.

  For a custom kernel, the operations that its author states.
  """
  if instruction.opcode == "custom-call":
    return kernel_flops(instruction) or 0
  if instruction.opcode not in ("dot", "convolution"):
    return 0
  left, right = (
    computation[name].shapes[0].dims for name in instruction.operands[:2]
  )
  out = instruction.shapes[0].dims
  if instruction.opcode == "dot":
    contracted = instruction.attribute("lhs_contracting_dims") or ""
    sizes = [left[int(i)] for i in contracted.split(",") if i]
    return 2.0 * math.prod(out) * math.prod(sizes)
  labels = instruction.attribute("dim_labels") or ""
  inputs, rest = labels.split("_")
  kernels, outputs = rest.split("->")
  window = _window(instruction)
  total = 2.0 * left[inputs.index("b")] * right[kernels.index("i")]
  total *= right[kernels.index("o")]
  total /= int(instruction.attribute("batch_group_count") or 1)
  for digit in (label for label in outputs if label.isdigit()):
    axis = int(digit)
    total *= taps(
      left[inputs.index(digit)],
      right[kernels.index(digit)],
      out[outputs.index(digit)],
      stride=window("stride", axis, 1),
      low=window("pad", axis, 0),
      dilation=window("lhs_dilate", axis, 1),
      kernel_dilation=window("rhs_dilate", axis, 1),
    )
  return total


def kernel_flops(instruction: Instruction) -> float | None:
  """Returns the operations that a custom kernel states; None if it has none.

  They are the `cost_estimate` of a `pallas_call`.
  """
  stated = re.search(
    r'"cost_estimate":\{"flops":"?(\d+)', instruction.attributes
  )
  return float(stated[1]) if stated else None


def passes(instruction: Instruction, computation: Computation) -> int:
  """Returns how many bf16 products a TPU takes for one product.

  In full precision, each float32 factor is split into three bf16 numbers, and
  six of the nine products are computed. Precision "high" computes three
  (jax.lax.Precision).
  """
  precision = instruction.attribute("operand_precision") or ""
  first = computation[instruction.operands[0]].shapes[0]
  if first.dtype != "f32":
    return 1
  names = precision.split(",")
  return 6 if "highest" in names else 3 if "high" in names else 1


def _window(instruction: Instruction) -> Callable[[str, int, int], int]:
  fields = {}
  for field in (instruction.attribute("window") or "").split():
    name, _, value = field.partition("=")
    fields[name] = value.split("x")

  def read(name: str, axis: int, default: int) -> int:
    if name not in fields:
      return default
    return int(fields[name][axis].split("_")[0])

  return read


def traced(closed: Any) -> dict[str, float]:
  """Counts the products of a jaxpr by part; loops count as often as they run.

  Operations that no output needs are left out, as the compiler does. A loop
  whose length depends on data counts once. Of several branches, the one with
  the most operations counts. Work mapped over the devices of a mesh counts once
  per device.
  """
  used = [True] * len(closed.jaxpr.outvars)
  return dict(_traced(closed.jaxpr, used))


def _traced(
  jaxpr: Any, used: Sequence[bool], around: str = parts.OTHER
) -> dict[str, float]:
  """Counts; `around` is the part for equations whose own part is unknown."""

  def part_of(eqn: Any) -> str:
    part = parts.of_traceback(eqn.source_info)
    return around if part == parts.OTHER else part

  total: dict[str, float] = collections.defaultdict(float)
  live = {
    v
    for v, wanted in zip(jaxpr.outvars, used, strict=True)
    if wanted and not isinstance(v, core.Literal)
  }
  for eqn in reversed(jaxpr.eqns):
    wanted = [v in live for v in eqn.outvars]
    if not any(wanted):
      continue
    live.update(v for v in eqn.invars if not isinstance(v, core.Literal))
    name, params = eqn.primitive.name, eqn.params
    if name in ("dot_general", "conv_general_dilated"):
      count = _dot if name == "dot_general" else _conv
      shapes = [v.aval.shape for v in (*eqn.invars, *eqn.outvars)]
      total[part_of(eqn)] += count(params, *shapes)
      continue
    if name == "pallas_call" and params.get("cost_estimate"):
      stated = params["cost_estimate"].flops
      total[part_of(eqn)] += stated
      continue
    inner = [
      sub.jaxpr if isinstance(sub, core.ClosedJaxpr) else sub
      for value in params.values()
      for sub in (value if isinstance(value, (tuple, list)) else (value,))
      if isinstance(sub, (core.Jaxpr, core.ClosedJaxpr))
    ]
    counts = []
    for sub in inner:
      same = len(sub.outvars) == len(wanted) and name != "scan"
      needed = wanted if same else [True] * len(sub.outvars)
      counts.append(_traced(sub, needed, part_of(eqn)))
    if name == "cond":
      counts = [max(counts, key=lambda c: sum(c.values()))]
    times = params.get("length", 1)
    if name == "shard_map":
      times = params["mesh"].size
    for found in counts:
      for part, value in found.items():
        total[part] += value * times
  return total


def _dot(params: dict, left: tuple, right: tuple, out: tuple) -> float:
  (contracted, _), _ = params["dimension_numbers"]
  return 2.0 * math.prod(out) * math.prod(left[i] for i in contracted)


def _conv(params: dict, left: tuple, right: tuple, out: tuple) -> float:
  numbers = params["dimension_numbers"]
  total = 2.0 * left[numbers.lhs_spec[0]]
  total *= right[numbers.rhs_spec[0]] * right[numbers.rhs_spec[1]]
  total /= params["batch_group_count"]
  for i in range(len(left) - 2):
    total *= taps(
      left[numbers.lhs_spec[2 + i]],
      right[numbers.rhs_spec[2 + i]],
      out[numbers.out_spec[2 + i]],
      stride=params["window_strides"][i],
      low=params["padding"][i][0],
      dilation=params["lhs_dilation"][i],
      kernel_dilation=params["rhs_dilation"][i],
    )
  return total


def trace(function: Callable, *shapes: Any) -> dict[str, float]:
  """Counts the products of `function` on arrays of these shapes, by part."""
  return traced(jax.make_jaxpr(function)(*shapes))
