"""The training step of a config on given devices, compiled but not run."""

import dataclasses
import functools
import importlib.util
import math
import os
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from sseg_jax import config_check, sharding, train_step
from sseg_jax.data import fields, soft_labels
from sseg_jax.errors import InputError
from sseg_jax.models import teacher
from sseg_jax.plan.chips import Topology
from sseg_jax.plan.environment import COMPILE_ONLY


@dataclasses.dataclass
class Step:
  """A step and the shapes of its arguments, each with its sharding.

  Attributes:
    function: `train_step.train_step` of the setup, jitted as in training.
    setup: what it closes over.
    mesh: of the devices.
    arguments: state, frozen arrays, batch.
  """

  function: Any
  setup: train_step.Setup
  mesh: Mesh
  arguments: tuple[Any, Any, Any]


def devices_of(topology: Topology) -> list[jax.Device]:
  """Returns devices to compile for; they need not be present.

  Raises:
    InputError: without libtpu, or if there is no such slice.
  """
  from jax.experimental import topologies

  if importlib.util.find_spec("libtpu") is None:
    raise InputError(
      f"topology={topology}: the compiler for TPUs is missing; install it with"
      " `pip install 'sseg-jax[tpu]'` (or `pip install libtpu`)"
    )
  for name, value in COMPILE_ONLY.items():
    os.environ.setdefault(name, value)
  # Without it, each of the two cores of a v4 chip is a device.
  options: dict[str, Any] = {}
  if topology.chip.name == "v4":
    options["chip_config_name"] = "megacore"
  if topology.slices > 1:
    options["num_slices"] = topology.slices
  try:
    found = topologies.get_topology_desc(
      topology.one, platform="tpu", **options
    )
  except (RuntimeError, ValueError, NotImplementedError) as error:
    reason = str(error).splitlines()[0]
    raise InputError(f"topology={topology} does not exist: {reason}") from error
  if len(found.devices) != topology.count:
    raise InputError(
      f"topology={topology}: the compiler sees {len(found.devices)} devices in"
      f" {topology.count} chips"
    )
  return list(found.devices)


def build(config: Any, devices: Sequence[jax.Device]) -> Step:
  """Builds the step as `train.train` does, on shapes alone.

  Raises:
    InputError: if a field cannot work, or the batch does not divide.
  """
  config_check.check(config, data=False)
  mesh = sharding.make_mesh(config.mesh, devices)
  sharding.host_batch_size(config.batch_size, mesh, config.accumulate_steps)
  class_names: tuple[str, ...] = ()
  if config.task == "supervised":
    from sseg_jax.data import shapes

    class_names = tuple(config.data.classes) or shapes.CLASS_NAMES
  setup = train_step.make_setup(config, class_names, mesh, abstract=True)
  state = train_step.abstract_state(setup)
  state_sharding = sharding.state_sharding(state, mesh)
  replicated = sharding.replicated(mesh)
  function = jax.jit(
    functools.partial(train_step.train_step, setup),
    donate_argnums=0,
    out_shardings=(state_sharding, replicated),
  )
  state = jax.tree.map(_placed, state, state_sharding)
  frozen = jax.tree.map(lambda x: _placed(x, replicated), setup.frozen)
  placed = sharding.batch_sharding(mesh)
  batch = {k: _placed(v, placed) for k, v in abstract_batch(setup).items()}
  return Step(function, setup, mesh, (state, frozen, batch))


def _placed(x: Any, place: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)


def abstract_batch(
  setup: train_step.Setup,
) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of a global batch, as the pipeline makes it."""
  config = setup.config
  b, side = config.batch_size, config.image_size

  def array(dtype, *shape):
    return jax.ShapeDtypeStruct((b, *shape), dtype)

  batch = {
    "id": array(np.uint32),
    "valid": array(np.bool_),
    "image": array(np.uint8, side, side, 3),
    "text": array(np.int32, config.text.context_length),
  }
  if config.task == "supervised":
    batch["labels"] = array(np.int32, side, side)
  if soft_labels.wanted(config):
    planes = soft_labels.PLANES
    batch["soft_labels"] = array(np.uint8, planes, side, side)
  if fields.stored_regions(config):
    size = teacher.regions(config), teacher.width(config)
    batch["region_features"] = array(np.float16, *size)
    if not fields.learns_masks(config):
      del batch["image"]
      return batch
  if config.pseudo_masks.mode == "cached":
    cells = side // config.pseudo_masks.stride
    batch["pseudo_labels"] = array(np.int32, cells, cells)
  if config.data.photometric:
    batch["teacher_image"] = batch["image"]
  return batch


@dataclasses.dataclass
class Compiled:
  """A step for one kind of device.

  Attributes:
    text: the optimised program of one device.
    memory: bytes a device, by kind; see `memory`.
    compiler: the compiler's own estimates.
    seconds: how long the compilation took.
    executable: the program, called with arrays.
  """

  text: str
  memory: dict[str, float]
  compiler: dict[str, float]
  seconds: float
  executable: Any


def compile_step(step: Step) -> Compiled:
  """Compiles ahead of time; takes minutes for a large config.

  Raises:
    InputError: if the compiler finds that the step does not fit the memory.
  """
  start = time.monotonic()
  try:
    executable = step.function.lower(*step.arguments).compile()
  except jax.errors.JaxRuntimeError as error:
    used = re.search(r"Used (\S+) of (\S+) hbm", str(error))
    if "RESOURCE_EXHAUSTED" not in str(error) or not used:
      raise
    raise InputError(
      f"batch_size={step.setup.config.batch_size}: a step needs {used[1]} of"
      f" memory on each of the {step.mesh.size} chips, which have {used[2]};"
      " use a smaller batch, more chips or mesh.fsdp"
    ) from error
  seconds = time.monotonic() - start
  cost = executable.cost_analysis() or {}
  return Compiled(
    executable.as_text(),
    memory(step, executable.memory_analysis()),
    dict(cost),
    seconds,
    executable,
  )


def memory(step: Step, analysis: Any) -> dict[str, float]:
  """Returns bytes a device by kind; "total" is what must fit.

  Arguments are counted by their shards; what the device's layout adds to them
  is "padding". The state is donated: outputs that take its place are "aliased"
  and not counted again.
  """
  state, frozen, batch = step.arguments
  kinds = {
    "parameters": state.params,
    "optimizer": state.opt_state,
    "statistics": (state.step, state.model_state),
    "frozen": frozen,
    "batch": batch,
  }
  found = {kind: _shard_bytes(tree) for kind, tree in kinds.items()}
  arguments = analysis.argument_size_in_bytes
  found["padding"] = max(0.0, arguments - sum(found.values()))
  found["arguments"] = arguments
  found["outputs"] = analysis.output_size_in_bytes
  found["aliased"] = -analysis.alias_size_in_bytes
  found["temporaries"] = analysis.temp_size_in_bytes
  found["code"] = analysis.generated_code_size_in_bytes
  summed = ("arguments", "outputs", "aliased", "temporaries", "code")
  found["total"] = sum(found[kind] for kind in summed)
  return {kind: float(value) for kind, value in found.items()}


def _shard_bytes(tree: Any) -> float:
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )
