"""Projects how long pseudo-masks take on a chip that need not be there.

This projects the column of Table 1 for that chip; `evaluate --oracle` measures
it on the device of this machine.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from sseg_jax.benchmarks.table1_rows import PAPER, config_of
from sseg_jax.errors import InputError
from sseg_jax.plan import page, profile
from sseg_jax.plan.chips import Chip
from sseg_jax.pseudo_masks import generator


def project(
  row: str,
  chip: Chip,
  device: jax.Device,
  *,
  image_size: int,
  batch_size: int,
  k: int,
) -> dict[str, Any]:
  """Compiles a generator in bfloat16 and returns the least time it can take.

  Networks are built by their shapes; nothing is downloaded.

  Args:
    row: of Table 1 or its study.
    chip: the published figures.
    device: one such chip, which need not be there.
    image_size: side of the pictures; rounded down to a multiple of the stride.
    batch_size: number of pictures at once.
    k: number of masks of a picture.

  Returns:
    `seconds_per_image`, `bound` ("compute" or "memory"), `in_turn_per_image`
    (if no two instructions overlap), `gflop_per_image`, `peak` (share of the
    chip's highest speed that the products then reach), `memory` in bytes, and
    `loops_of_unknown_length`, which were counted once.

  Raises:
    InputError: if there is no such row, or the memory does not suffice.
  """
  # As in a training step, on one device.
  made = generator.Sharded(
    generator.build(config_of(row, {"k": k}, "bfloat16"), abstract=True),
    Mesh(np.array([device]), ("data",)),
    kernels=device.platform == "tpu",
  )
  size = max(1, image_size // made.stride) * made.stride
  place = SingleDeviceSharding(device)
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    (
      made.frozen,
      jax.ShapeDtypeStruct((batch_size, size, size, 3), jnp.uint8),
      jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch_size)),
    ),
  )
  try:
    compiled: Any = jax.jit(made.generate).lower(*shapes).compile()
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise InputError(
      f"generators={row}: {batch_size} pictures of {size} pixels do not fit the"
      f" memory of a {chip.name}; use a smaller batch_size"
    ) from error
  try:
    text = compiled.as_text()
  except jax.errors.JaxRuntimeError as error:
    raise InputError(
      f"generators={row}: compiles for a {chip.name}, but this jaxlib cannot"
      " read libtpu's program; install a libtpu of the same age"
    ) from error
  found = profile.profile(text, 1)
  limits = found.roofline(chip)
  bound = max(limits, key=lambda name: limits[name])
  used = compiled.memory_analysis()
  return {
    "seconds_per_image": limits[bound] / batch_size,
    "bound": bound,
    "in_turn_per_image": found.in_turn(chip) / batch_size,
    "gflop_per_image": found.total_flops / batch_size / 1e9,
    "peak": found.total_flops / chip.flops / limits[bound],
    "memory": used.temp_size_in_bytes + used.argument_size_in_bytes,
    "loops_of_unknown_length": found.unknown_loops,
  }


def render(rows: Mapping[str, Mapping[str, Any]], title: str) -> str:
  """Returns a table of what `project` gave for each row."""
  cells: list[Sequence[str]] = []
  for name, row in rows.items():
    least = "at least " if row["loops_of_unknown_length"] else ""
    paper = PAPER.get(name, {}).get("seconds")
    cells.append(
      (
        name,
        f"{least}{row['seconds_per_image']:.2g}",
        f"{row['in_turn_per_image']:.2g}",
        row["bound"],
        f"{row['gflop_per_image']:.1f}",
        f"{row['peak']:.0%}",
        f"{row['memory'] / 1e9:.2f}",
        "-" if paper is None else f"{paper:g}",
      )
    )
  head = ("generator", "s/image", "in turn", "bound", "GFLOP", "of peak", "GB")
  lines = page.table((*head, "paper's s/image"), cells)
  return "\n".join([title, page.PROJECTED, "", *lines])
