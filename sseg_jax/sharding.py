"""The one place that says which device holds what.

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

# Arrays of fewer elements stay whole everywhere: splitting them saves some
# kilobytes and costs a message between devices each step.
MIN_SIZE = 2**14

# Paths whose split dimension is not left to the shape, as (pattern, dimension).
# At most one may match a path.
RULES: tuple[tuple[str, int], ...] = (
  # Rows are looked up by index: splitting the features keeps the look-up local.
  (r"(^|/)token_embedding(/|$)", 1),
)


def make_mesh(
  mesh_config: Any, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Makes the mesh of axes ("data", "fsdp").

  Args:
    mesh_config: `config.mesh` with `data` (-1: all that `fsdp` leaves) and
      `fsdp`.
    devices: all devices of all processes by default.

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
  # Written out, since the default is Explicit, under which rules by path and
  # shape do not apply.
  types = (AxisType.Auto,) * 2
  slices = len({getattr(d, "slice_index", None) for d in devices})
  if devices[0].platform != "tpu" or slices == 1:
    return jax.make_mesh((data, fsdp), AXES, axis_types=types, devices=devices)
  # Between slices is a slower network: "data" alone crosses it.
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
  """Says how one array is split: along "fsdp" in one dimension, or not at all.

  The dimension is the one a rule names for the path, else the largest that the
  axis divides (the last of equals, which a matrix product reads contiguously).

  Args:
    path: names joined by "/", as "params/text/token_embedding/embedding".
    shape: of the whole array.
    mesh: of `make_mesh`.
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

  The optimizer's moments have the paths' ends and the shapes of the parameters,
  and so their sharding.
  """

  def sharding(path: Any, leaf: Any) -> NamedSharding:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return NamedSharding(mesh, param_spec(name, leaf.shape, mesh))

  return jax.tree.map_with_path(sharding, abstract_state)


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of an array that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays [b, ...]: b over all devices."""
  return NamedSharding(mesh, PartitionSpec(AXES))


def mesh_of_kernels(
  config: Any, mesh: Mesh | AbstractMesh | None
) -> Mesh | None:
  """Returns `mesh` if its devices are to run Pallas kernels, which is TPUs."""
  if not config.pallas or not isinstance(mesh, Mesh):
    return None
  return mesh if mesh.devices.flat[0].platform == "tpu" else None


def constrain(tree: Any, mesh: Mesh | AbstractMesh | None, axis: int) -> Any:
  """Splits every array's `axis` over all devices; does nothing without a mesh.

  For arrays inside a compiled program, where rules by path do not reach.
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
    InputError: if the batch, or one of the `accumulate_steps` parts that it is
      taken in, does not divide over the devices.
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
  """Returns how many of the mesh's devices are this process's."""
  # Counted one by one: a host's chips, a square of the pod, are scattered over
  # the mesh's rows, and `Mesh.local_mesh` accepts contiguous ones only.
  process = jax.process_index()
  return sum(device.process_index == process for device in mesh.devices.flat)


def global_batch(
  host_batch: Mapping[str, np.ndarray], mesh: Mesh
) -> dict[str, jax.Array]:
  """Joins what each process read, [b / processes, ...], to arrays [b, ...].

  A process's rows go to its devices in their order in the mesh. Where these do
  not follow one another, as a pod's, the same rows stand in another order.
  """
  sharding = batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, array)
    for name, array in host_batch.items()
  }
