import dataclasses
import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
import xla_flags
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from sseg_jax import sharding
from sseg_jax.errors import InputError

MESH = AbstractMesh((2, 4), sharding.AXES)


def _mesh_config(data=-1, fsdp=1):
  return types.SimpleNamespace(data=data, fsdp=fsdp)


@pytest.mark.parametrize(
  "path, shape, spec",
  [
    ("params/a/kernel", (256, 1024), PartitionSpec(None, "fsdp")),
    ("params/a/kernel", (1024, 256), PartitionSpec("fsdp")),
    ("params/a/kernel", (3, 3, 256, 256), PartitionSpec(*[None] * 3, "fsdp")),
    ("params/a/kernel", (1001, 256), PartitionSpec(None, "fsdp")),
    ("params/a/kernel", (1001, 255), PartitionSpec()),
    ("params/a/bias", (1024,), PartitionSpec()),  # too small
    ("step", (), PartitionSpec()),
    (
      "params/text/token_embedding/embedding",
      (49408, 256),
      PartitionSpec(None, "fsdp"),
    ),
  ],
)
def test_param_spec(path, shape, spec):
  assert sharding.param_spec(path, shape, MESH) == spec


def test_nothing_is_split_without_fsdp():
  mesh = AbstractMesh((8, 1), sharding.AXES)
  assert sharding.param_spec("a/kernel", (1024, 1024), mesh) == PartitionSpec()


def test_two_rules_for_one_path_raise():
  rules = (("embedding", 0), ("text", 1))
  with pytest.raises(ValueError, match="text/embedding matches 2 rules"):
    sharding.param_spec("text/embedding", (512, 512), MESH, rules)


@pytest.mark.parametrize(
  "data, fsdp, field",
  [(-1, 0, "mesh.fsdp"), (-1, 3, "mesh.fsdp"), (2, 1, "mesh.data")],
)
def test_mesh_that_does_not_fit_the_devices(data, fsdp, field):
  with pytest.raises(InputError, match=field):
    sharding.make_mesh(_mesh_config(data, fsdp), jax.devices()[:1])


# Run in a process of its own, where XLA shows eight devices.
EIGHT = """
import types
import jax, numpy as np, pytest
from jax.sharding import AxisType, PartitionSpec
from sseg_jax import sharding
from sseg_jax.errors import InputError

assert jax.device_count() == 8
mesh = sharding.make_mesh(types.SimpleNamespace(data=-1, fsdp=2))
assert dict(mesh.shape) == {"data": 4, "fsdp": 2}
assert mesh.axis_types == (AxisType.Auto,) * 2
for data, fsdp in ((4, 1), (-1, 3), (3, 2)):
  with pytest.raises(InputError, match="8 devices"):
    sharding.make_mesh(types.SimpleNamespace(data=data, fsdp=fsdp))

assert sharding.host_batch_size(16, mesh) == 16
with pytest.raises(InputError, match="batch_size is 12"):
  sharding.host_batch_size(12, mesh)

state = {
  "params": {"kernel": jax.ShapeDtypeStruct((256, 128), np.float32)},
  "step": jax.ShapeDtypeStruct((), np.int32),
}
shardings = sharding.state_sharding(state, mesh)
assert shardings["params"]["kernel"].spec == PartitionSpec("fsdp")
assert shardings["step"].is_fully_replicated
kernel = np.ones((256, 128), np.float32)
kernel = jax.device_put(kernel, shardings["params"]["kernel"])
assert {s.data.shape for s in kernel.addressable_shards} == {(128, 128)}

batch = {"image": np.arange(16 * 3, dtype=np.float32).reshape(16, 3)}
image = sharding.global_batch(batch, mesh)["image"]
assert {s.data.shape for s in image.addressable_shards} == {(2, 3)}
np.testing.assert_array_equal(image, batch["image"])
assert sharding.replicated(mesh).is_fully_replicated
"""


@pytest.mark.slow
def test_on_eight_devices():
  flags = xla_flags.simulated_devices(8)
  subprocess.run(
    [sys.executable, "-c", EIGHT],
    check=True,
    env={**os.environ, "XLA_FLAGS": flags},
  )


def test_global_batch_on_one_device():
  mesh = sharding.make_mesh(_mesh_config(), jax.devices()[:1])
  batch = {"text": np.arange(6, dtype=np.int32).reshape(2, 3)}
  result = sharding.global_batch(batch, mesh)["text"]
  assert isinstance(result, jax.Array) and result.dtype == np.int32
  np.testing.assert_array_equal(result, batch["text"])


@dataclasses.dataclass(frozen=True)
class _Chip:
  """What a mesh reads of a device."""

  id: int
  process_index: int
  platform: str = "tpu"
  device_kind: str = "TPU v5e"


def test_a_hosts_devices_may_be_scattered_over_the_mesh():
  # As on a pod, where a host has four chips in a square.
  chips = [
    _Chip(4 * y + x, 2 * (y // 2) + x // 2) for y in range(4) for x in range(4)
  ]
  mesh = Mesh(np.array(chips).reshape(16, 1), sharding.AXES)
  assert sharding.local_size(mesh) == 4
  assert sharding.host_batch_size(64, mesh) == 16
