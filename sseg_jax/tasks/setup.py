"""The static parts of a step: network, pseudo-masks, optimizer, mesh."""

from typing import Any

from jax.sharding import AbstractMesh, Mesh

from sseg_jax import errors, optim, sharding
from sseg_jax.models import query_embedding, sseg
from sseg_jax.pseudo_masks import generator
from sseg_jax.tasks import TASKS
from sseg_jax.tasks.task import Setup as Setup


def make_setup(
  config: Any,
  class_names: tuple[str, ...] = (),
  mesh: Mesh | AbstractMesh | None = None,
  *,
  abstract: bool = False,
) -> Setup:
  """Checks `config` and builds what `train_step` closes over.

  Args:
    config: fields as in `default_config.py`.
    class_names: names of the label classes, for the supervised task.
    mesh: the mesh over which batches are split; see `Setup`.
    abstract: whether to use shapes in place of the frozen network's weights;
      `sseg_jax.plan` does.

  Raises:
    InputError: if a field has a value that cannot work.
  """
  _check_mask_every(config, mesh)
  _check_mask_stride(config)
  _check_accumulation(config)
  _check_contrastive_block(config, mesh)
  graphdef, _, _ = sseg.build(config, sharding.mesh_of_kernels(config, mesh))
  made = generator.for_training(config, mesh, abstract=abstract)
  frozen = {"pseudo_masks": made.frozen}
  frozen |= TASKS[config.task].frozen(config, class_names)
  return Setup(config, graphdef, made, optim.build(config), frozen, mesh)


def _check_mask_every(config: Any, mesh: Any) -> None:
  every, model = config.loss.mask_every, config.model
  if every < 1 or config.batch_size % every:
    raise errors.InputError(
      f"loss.mask_every={every}: must be at least 1 and divide"
      f" batch_size={config.batch_size}"
    )
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
  by_regions = query_embedding.by_regions(model)
  if config.task == "supervised" and not by_regions:
    return  # every picture learns masks
  alone = by_regions and model.pool_feature == "stem"
  if every > 1 and not alone:
    raise errors.InputError(
      f"loss.mask_every={every}: words need every picture's masks or backbone;"
      " use 1, or model.query_embedding='mask_pooled' with"
      " model.pool_masks='pseudo' and model.pool_feature='stem'"
    )


def _check_mask_stride(config: Any) -> None:
  stride = config.loss.mask_stride
  if stride not in (1, 2, 4):
    raise errors.InputError(
      f"loss.mask_stride={stride}: must be 1, 2 or 4, the logits' own"
    )


def _check_accumulation(config: Any) -> None:
  steps, every = config.accumulate_steps, config.loss.mask_every
  if steps < 1 or config.batch_size % (steps * every):
    raise errors.InputError(
      f"accumulate_steps={steps}: must be at least 1 and, times"
      f" loss.mask_every={every}, divide batch_size={config.batch_size}"
    )
  if steps > 1 and TASKS[config.task].in_parts is None:
    raise errors.InputError(
      f"accumulate_steps={steps}: task={config.task!r} takes its batch in one"
      " piece; use 1"
    )


def _check_contrastive_block(config: Any, mesh: Any) -> None:
  block, devices = config.loss.contrastive_block, mesh.size if mesh else 1
  if block < 0 or (block and (config.batch_size % block or block % devices)):
    raise errors.InputError(
      f"loss.contrastive_block={block}: must divide batch_size="
      f"{config.batch_size} and be a multiple of the {devices} devices, or 0"
    )
