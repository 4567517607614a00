"""Builds what stays the same in all steps of a run."""

from typing import Any

from jax.sharding import AbstractMesh, Mesh

from sseg_jax import errors, field_rules, optim, sharding
from sseg_jax.models import sseg
from sseg_jax.pseudo_masks import generator
from sseg_jax.tasks import TASKS, fields
from sseg_jax.tasks.task import Setup as Setup


def make_setup(
  config: Any,
  class_names: tuple[str, ...] = (),
  mesh: Mesh | AbstractMesh | None = None,
  *,
  abstract: bool = False,
) -> Setup:
  """Checks the fields of a step, and builds its static parts.

  Args:
    config: fields as in `default_config.py`.
    class_names: names of the label classes, for the supervised task.
    mesh: the mesh over which batches are split; see `Setup`.
    abstract: whether to take shapes instead of the weights of the frozen
      network, as `sseg_jax.plan` does.

  Raises:
    InputError: if a field has a value that cannot work.
  """
  field_rules.check(config, fields.RULES, fields.BETWEEN)
  _check_mesh(config, mesh)
  kernels = sharding.mesh_of_kernels(config, mesh)
  graphdef, params, statistics = sseg.build(config, kernels)
  made = generator.for_training(config, mesh, abstract=abstract)
  frozen = {"pseudo_masks": made.frozen}
  frozen |= TASKS[config.task].frozen(config, class_names)
  return Setup(
    config,
    graphdef,
    (params, statistics),
    made,
    optim.build(config),
    frozen,
    mesh,
  )


def _check_mesh(config: Any, mesh: Mesh | AbstractMesh | None) -> None:
  """Raises InputError if fields do not fit the number of devices."""
  if mesh is None:
    return
  every, block = config.loss.mask_every, config.loss.contrastive_block
  # The rows of a process may lie on devices that do not follow one another in
  # the mesh; each device must then hold whole groups of `mask_every` rows.
  if (
    isinstance(mesh, Mesh)
    and len({d.process_index for d in mesh.devices.flat}) > 1
  ):
    rows = config.batch_size // mesh.size
    if rows % every:
      raise errors.InputError(
        f"loss.mask_every={every}: must divide the {rows} pictures of a device"
        f" (batch_size={config.batch_size} on {mesh.size} devices)"
      )
  if block % mesh.size:
    raise errors.InputError(
      f"loss.contrastive_block={block}: must be a multiple of the {mesh.size}"
      " devices, or 0"
    )
