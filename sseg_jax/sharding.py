"""Defines which device holds which part of each array.

A mesh has two axes. Both split the batch; "fsdp" also splits the parameters and
the optimizer's moments. The model has some 90 million parameters, so tensor
parallelism is not needed.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import (
  AbstractMesh,
  AxisType,
  Mesh,
  NamedSharding,
  PartitionSpec,
)

from sseg_jax.errors import InputError

AXES = ("data", "fsdp")

# Arrays of fewer elements are replicated: splitting them would save some
# kilobytes and cost communication between devices in each step.
MIN_SIZE = 2**14

# (pattern, dimension): arrays whose path matches are split in this dimension,
# whatever their shape. At most one pattern may match a path.
RULES: tuple[tuple[str, int], ...] = (
  # Rows are looked up by index: splitting the features keeps the look-up local.
  (r"(^|/)token_embedding(/|$)", 1),
)


def make_mesh(
  mesh_config: Any, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Makes the mesh of axes ("data", "fsdp").

  Args:
    mesh_config: `config.mesh` with `data` (-1: the number of devices divided by
      `fsdp`) and `fsdp`.
    devices: devices of the mesh; by default all devices of all processes.

  Raises:
    InputError: if the two do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  data, fsdp, count = mesh_config.data, mesh_config.fsdp, len(devices)
  if fsdp < 1 or count % fsdp:
    raise InputError(
      f"mesh.fsdp is {fsdp}; choose a divisor of the {count} devices"
    )
  if data == -1:
    data = count // fsdp
  if data * fsdp != count:
    raise InputError(
      f"mesh.data is {data} and mesh.fsdp {fsdp}, not the {count} devices;"
      " set mesh.data to -1 to use them all"
    )
  # The types are given because the default is Explicit, under which rules by
  # path and shape do not apply.
  types = (AxisType.Auto,) * 2
  slices = len({getattr(d, "slice_index", None) for d in devices})
  if devices[0].platform != "tpu" or slices == 1:
    return jax.make_mesh((data, fsdp), AXES, axis_types=types, devices=devices)
  # The network between slices is slower, so only "data" extends over slices.
  if data % slices:
    raise InputError(
      f"mesh.fsdp is {fsdp}; choose a divisor of the {count // slices} devices"
      " of a slice"
    )
  placed = mesh_utils.create_hybrid_device_mesh(
    (data // slices, fsdp),
    (slices, 1),
    devices,
    allow_split_physical_axes=True,
  )
  return Mesh(placed, AXES, axis_types=types)


def param_spec(
  path: str, shape: Sequence[int], mesh: Mesh | AbstractMesh, rules=RULES
) -> PartitionSpec:
  """Returns how one array is split: over "fsdp" in one dimension, or not.

  The dimension is the one that a rule gives for the path. Without a rule, it is
  the largest that the axis size divides; among equals the last, which a matrix
  product reads contiguously.

  Args:
    path: names joined by "/", as "params/text/token_embedding/embedding".
    shape: shape of the whole array.
    mesh: the result of `make_mesh`.
    rules: (pattern, dimension) pairs searched in the path.

  Raises:
    ValueError: if two rules match the path.
  """
  matches = [(p, dimension) for p, dimension in rules if re.search(p, path)]
  if len(matches) > 1:
    raise ValueError(f"{path} matches {len(matches)} rules: {matches}")
  fsdp = mesh.shape["fsdp"]
  if fsdp == 1 or np.prod(shape) < MIN_SIZE:
    return PartitionSpec()
  candidates = list(range(len(shape)))
  if matches:
    candidates = [matches[0][1]]
  candidates = [i for i in candidates if shape[i] % fsdp == 0]
  if not candidates:
    return PartitionSpec()
  split = max(candidates, key=lambda i: (shape[i], i))
  return PartitionSpec(
    *("fsdp" if i == split else None for i in range(split + 1))
  )


def state_sharding(abstract_state: Any, mesh: Mesh | AbstractMesh) -> Any:
  """Returns a pytree of `NamedSharding`, one per leaf of `abstract_state`.

  The paths of the optimizer's moments end like those of the parameters, and the
  shapes are equal, so the moments get the sharding of the parameters.
  """

  def sharding(path: Any, leaf: Any) -> NamedSharding:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return NamedSharding(mesh, param_spec(name, leaf.shape, mesh))

  return jax.tree.map_with_path(sharding, abstract_state)


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of an array that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays [b, ...]: b is split over all devices."""
  return NamedSharding(mesh, PartitionSpec(AXES))


def mesh_of_kernels(
  config: Any, mesh: Mesh | AbstractMesh | None
) -> Mesh | None:
  """Returns `mesh` if its devices run Pallas kernels: only TPUs do."""
  if not config.pallas or not isinstance(mesh, Mesh):
    return None
  return mesh if mesh.devices.flat[0].platform == "tpu" else None


def constrain(tree: Any, mesh: Mesh | AbstractMesh | None, axis: int) -> Any:
  """Splits every array's `axis` over all devices; does nothing without a mesh.

  It is for arrays inside a compiled program, which have no path for a rule.
  """
  if mesh is None:
    return tree
  spec = PartitionSpec(*(None,) * axis, AXES)
  return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, spec))


def host_batch_size(
  batch_size: int, mesh: Mesh, accumulate_steps: int = 1
) -> int:
  """Returns this process's share of the global batch.

  Raises:
    InputError: if the number of devices does not divide the batch, or one of
      its `accumulate_steps` parts.
  """
  if batch_size < 1 or batch_size % (mesh.size * accumulate_steps):
    parts = ""
    if accumulate_steps > 1:
      parts = f" times accumulate_steps={accumulate_steps}"
    raise InputError(
      f"batch_size is {batch_size}; choose a multiple of the {mesh.size}"
      f" devices{parts}"
    )
  return batch_size * local_size(mesh) // mesh.size


def local_size(mesh: Mesh) -> int:
  """Returns how many devices of the mesh belong to this process."""
  # `Mesh.local_mesh` is not used because it accepts only contiguous devices. A
  # host's chips form a square of the pod, which is not contiguous in the mesh.
  process = jax.process_index()
  return sum(device.process_index == process for device in mesh.devices.flat)


def global_batch(
  host_batch: Mapping[str, np.ndarray], mesh: Mesh
) -> dict[str, jax.Array]:
  """Joins the arrays of each process, [b / processes, ...], to [b, ...].

  The rows of a process go to its devices in the order of the mesh. If these
  devices are not consecutive in the mesh, as on a pod, the rows of the global
  batch have another order.
  """
  sharding = batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, array)
    for name, array in host_batch.items()
  }
