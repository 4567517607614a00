"""Plans a step without a compiler: in a minute, for TPUs and GPUs.

Products are counted in the traced step, and memory is estimated: weights,
optimizer, gradients, and what the backward pass reads of the forward one. A
compiler joins operations, so it keeps less, and needs memory of its own; what
`planner.plan` compiles is the better plan.
"""

import collections
import copy
import math
from collections.abc import Mapping
from typing import Any

import jax

from sseg_jax import train_step
from sseg_jax.errors import InputError
from sseg_jax.plan import chips, page, products, step

# Devices of the table: the peak of bf16 products, and bytes of memory.
_V5E, _H100 = chips.CHIPS["v5e"], "NVIDIA H100 80GB HBM3"
DEVICES: dict[str, tuple[float, float]] = {
  "v5e": (_V5E.flops, _V5E.hbm_bytes),
  "H100": (chips.GPU_FLOPS[_H100], 80e9),
}


def plan(config: Any, count: int) -> dict[str, Any]:
  """Traces a config's training step and reports on it.

  Args:
    config: a whole config.
    count: devices that share the batch; each has all weights.

  Returns:
    Bytes and operations a device a step, and for each of `DEVICES` whether it
    fits (`fits`) and the least `hours` of the run on `count` of them.

  Raises:
    InputError: if the batch does not divide, or a field cannot work.
  """
  if config.batch_size % count:
    raise InputError(
      f"chips={count}: must divide batch_size={config.batch_size}"
    )
  own = copy.deepcopy(config)
  own.batch_size = own.data.lanes = config.batch_size // count
  built = step.build(own, jax.devices()[:1])
  state, frozen, batch = built.arguments
  flops = products.trace(built.function, *built.arguments)
  found = {
    "state": _bytes((state, frozen, batch)),
    "gradients": _bytes(state.params),
    "kept": kept(built.setup, state, frozen, batch),
  }
  total = sum(found.values())
  work = sum(flops.values())
  return {
    "devices": count,
    "batch_size": config.batch_size,
    "image_size": config.image_size,
    "total_steps": config.total_steps,
    "memory": found | {"total": total},
    "flops": flops,
    "projected": {
      name: {
        "fits": total <= memory,
        "hours": work / peak * config.total_steps / 3600,
      }
      for name, (peak, memory) in DEVICES.items()
    },
  }


def kept(
  setup: train_step.Setup, state: Any, frozen: Any, batch: Mapping[str, Any]
) -> float:
  """Returns the bytes that the backward pass reads of the forward one.

  Weights that it reads as they are do not count.
  """
  key = jax.eval_shape(lambda: jax.random.key(0, impl="threefry2x32"))

  def backward(params, model_state, frozen, batch, key):
    def loss(params):
      return train_step.whole_loss(
        setup, params, model_state, frozen, batch, key
      )[0]

    return jax.vjp(loss, params)[1]

  found = jax.eval_shape(
    backward, state.params, state.model_state, frozen, batch, key
  )
  left = collections.Counter(_kinds(found))
  left -= collections.Counter(_kinds(state.params))
  return float(
    sum(
      math.prod(shape) * dtype.itemsize * n
      for (shape, dtype), n in left.items()
    )
  )


def _kinds(tree: Any) -> list[tuple[tuple[int, ...], Any]]:
  return [
    (x.shape, x.dtype)
    for x in jax.tree.leaves(tree)
    if hasattr(x.dtype, "itemsize")
    and not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
  ]


def _bytes(tree: Any) -> float:
  return float(
    sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))
  )


def render(report: Mapping[str, Any]) -> str:
  """Returns the plan as a page of text."""
  memory, count = report["memory"], report["devices"]
  each = report["batch_size"] // count
  lines = [
    f"{count} devices, batch {report['batch_size']} ({each} a device),"
    f" {report['image_size']} px, {report['total_steps']} steps",
    "traced, neither compiled nor measured: memory is an estimate, and hours"
    " are the least that products take",
    "",
    *page.table(
      ("a device a step", "GB"),
      [(name, f"{value / 1e9:.2f}") for name, value in memory.items()],
    ),
    "",
    *page.table(
      ("a device a step", "GFLOP"),
      [
        (part, f"{value / 1e9:.1f}")
        for part, value in sorted(
          report["flops"].items(), key=lambda item: -item[1]
        )
      ],
    ),
    "",
    *page.table(
      (f"{count} of", "fits", "hours at least", "device-hours"),
      [
        (
          name,
          "yes" if row["fits"] else "no",
          f"{row['hours']:.2f}",
          f"{row['hours'] * count:.2f}",
        )
        for name, row in report["projected"].items()
      ],
    ),
  ]
  return "\n".join(lines)
