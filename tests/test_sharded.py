"""One step over four devices equals the same step on one."""

import functools
import json
import os
import subprocess
import sys

import pytest

COLLECTIVES = (
  "all-gather",
  "all-reduce",
  "all-to-all",
  "collective-permute",
  "reduce-scatter",
)

pytestmark = pytest.mark.slow

# Runs in a process of its own, since the number of devices is fixed when JAX
# starts. Takes the configuration, the initial state and the batch from
# test_train_step.py and prints what two steps come to on each mesh.
SCRIPT = """
import functools, json, sys
import jax, numpy as np
from conftest import _tiny_config
from test_train_step import BATCH, CLASSES
from sseg_jax import matching, sharding, train_step

sharding.MIN_SIZE = 256  # so that a tiny model is split as well

def run(data, fsdp):
  config = _tiny_config()
  config.optim.peak_lr = config.optim.start_lr = 1e-3
  # Some gradients are zero but for rounding (those of a key's bias): with the
  # default, Adam would make steps of full length of the rounding.
  config.optim.eps = 1e-3
  config.mesh.data, config.mesh.fsdp = data, fsdp
  mesh = sharding.make_mesh(config.mesh, jax.devices()[: data * fsdp])
  setup = train_step.make_setup(config, CLASSES)
  shardings = sharding.state_sharding(train_step.abstract_state(setup), mesh)
  state = jax.device_put(train_step.init_state(setup), shardings)
  replicated = sharding.replicated(mesh)
  step = jax.jit(
    functools.partial(train_step.train_step, setup),
    out_shardings=(shardings, replicated),
  )
  frozen = jax.device_put(setup.frozen, replicated)
  batch = sharding.global_batch(BATCH, mesh)
  losses = []
  for _ in range(2):
    state, metrics = step(state, frozen, batch)
    losses.append(float(metrics["loss"]))
  split = sum(
    not x.is_fully_replicated for x in jax.tree.leaves(state.params)
  )
  return losses, split, jax.device_get((state.params, state.model_state))

def difference(a, b):
  return max(jax.tree.leaves(jax.tree.map(
    lambda x, y: float(np.abs(x - y).max()), a, b)))

found = {}
one_losses, _, one = run(1, 1)
for data, fsdp in ((4, 1), (2, 2)):
  losses, split, state = run(data, fsdp)
  found[f"{data}x{fsdp}"] = {
    "losses": [one_losses, losses],
    "split": split,
    "difference": difference(one, state),
  }
mesh = sharding.make_mesh(_tiny_config().mesh)
by_example = sharding.batch_sharding(mesh)
found["match"] = jax.jit(
  matching.match, in_shardings=by_example, out_shardings=by_example
).lower(
  jax.ShapeDtypeStruct((16, 3, 5), "float32"),
  jax.ShapeDtypeStruct((16, 3), "bool"),
).compile().as_text()
print(json.dumps(found))
"""


@functools.cache
def found(tests_folder):
  environment = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    "PYTHONPATH": os.pathsep.join(
      [tests_folder, os.path.dirname(tests_folder)]
    ),
  }
  done = subprocess.run(
    [sys.executable, "-c", SCRIPT],
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def result():
  return found(os.path.dirname(os.path.abspath(__file__)))


@pytest.mark.parametrize("mesh", ["4x1", "2x2"])
def test_two_steps_equal_those_of_one_device(result, mesh):
  one, four = result[mesh]["losses"]
  assert four == pytest.approx(one, rel=1e-5)
  assert one[0] != one[1]  # the first step did something
  assert result[mesh]["difference"] < 1e-5


def test_parameters_are_split_along_fsdp_alone(result):
  assert result["4x1"]["split"] == 0
  assert result["2x2"]["split"] > 20


def test_matching_needs_no_message_between_devices(result):
  text = result["match"]
  assert "num_partitions=4" in text
  assert [name for name in COLLECTIVES if name in text] == []
