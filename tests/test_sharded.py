"""One step over four devices equals the same step on one."""

import pytest
import xla_flags

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
import test_train_step
from sseg_jax import losses, matching, sharding, train_step

sharding.MIN_SIZE = 256  # so that a tiny model is split as well
CLASSES = test_train_step.CLASSES
# 40 pairs, a number that no array of the model has.
BATCH = {k: np.concatenate([x] * 5) for k, x in test_train_step.BATCH.items()}
BATCH["id"] = np.arange(40, dtype=np.uint32)

def run(data, fsdp, block):
  config = _tiny_config()
  config.batch_size, config.loss.contrastive_block = 40, block
  config.optim.clip_norm = 5.0
  config.optim.peak_lr = config.optim.start_lr = 1e-3
  # Some gradients are zero but for rounding (those of a key's bias): with the
  # default, Adam would make steps of full length of the rounding.
  config.optim.eps = 1e-3
  config.mesh.data, config.mesh.fsdp = data, fsdp
  mesh = sharding.make_mesh(config.mesh, jax.devices()[: data * fsdp])
  setup = train_step.make_setup(config, CLASSES, mesh)
  shardings = sharding.state_sharding(train_step.abstract_state(setup), mesh)
  state = jax.device_put(train_step.init_state(setup), shardings)
  replicated = sharding.replicated(mesh)
  step = jax.jit(
    functools.partial(train_step.train_step, setup),
    out_shardings=(shardings, replicated),
  )
  frozen = jax.device_put(setup.frozen, replicated)
  batch = sharding.global_batch(BATCH, mesh)
  step = step.lower(state, frozen, batch).compile()
  curve = []
  for _ in range(2):
    state, metrics = step(state, frozen, batch)
    curve.append(float(metrics["loss"]))
  split = sum(
    not x.is_fully_replicated for x in jax.tree.leaves(state.params)
  )
  text = step.as_text()
  logits = [n for n in (5, 10, 20, 40) if f"f32[{n},40]" in text]
  state = jax.device_get((state.params, state.model_state))
  return {"curve": curve, "split": split, "logits": logits}, state

def difference(a, b):
  return max(jax.tree.leaves(jax.tree.map(
    lambda x, y: float(np.abs(x - y).max()), a, b)))

found = {}
found["1x1"], one = run(1, 1, block=0)
for data, fsdp, block in ((4, 1, 0), (2, 2, 20)):
  result, state = run(data, fsdp, block)
  result["difference"] = difference(one, state)
  found[f"{data}x{fsdp}"] = result
mesh = sharding.make_mesh(_tiny_config().mesh)
by_example = sharding.batch_sharding(mesh)
found["match"] = jax.jit(
  matching.match, in_shardings=by_example, out_shardings=by_example
).lower(
  jax.ShapeDtypeStruct((16, 3, 5), "float32"),
  jax.ShapeDtypeStruct((16, 3), "bool"),
).compile().as_text()

def contrastive(image, text, scale, valid, mesh):
  return losses.contrastive(
    image, text, scale, valid, max_logit_scale=100.0, block=32, mesh=mesh
  )[0]

rng = np.random.default_rng(0)
image, text = rng.normal(size=(2, 128, 8)).astype(np.float32)
arguments = image, text, np.float32(2), np.arange(128) % 7 != 0
gradient = jax.value_and_grad(contrastive, argnums=(0, 1, 2))
everywhere = sharding.replicated(mesh)
compiled = jax.jit(
  functools.partial(gradient, mesh=mesh),
  in_shardings=(by_example, by_example, everywhere, by_example),
  out_shardings=(everywhere, (by_example, by_example, everywhere)),
).lower(*arguments).compile()
found["contrastive"] = {
  "text": compiled.as_text(),
  "difference": difference(
    jax.jit(functools.partial(gradient, mesh=None))(*arguments),
    compiled(*jax.device_put(arguments, compiled.input_shardings[0])),
  ),
}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def result():
  return xla_flags.found_on(4, SCRIPT)


@pytest.mark.parametrize("mesh", ["4x1", "2x2"])
def test_two_steps_equal_those_of_one_device(result, mesh):
  one, four = result["1x1"]["curve"], result[mesh]["curve"]
  assert four == pytest.approx(one, rel=1e-5)
  assert one[0] != one[1]  # the first step did something
  # A tenth of a step's length: what is at the kink of a ReLU may fall to either
  # side.
  assert result[mesh]["difference"] < 1e-4


def test_parameters_are_split_along_fsdp_alone(result):
  assert result["4x1"]["split"] == 0
  assert result["2x2"]["split"] > 20


def test_matching_needs_no_message_between_devices(result):
  text = result["match"]
  assert "num_partitions=4" in text
  assert [name for name in COLLECTIVES if name in text] == []


def test_a_step_in_blocks_never_holds_all_logits(result):
  # Rows of logits on one device: all; its own; a block's share.
  assert result["1x1"]["logits"] == [40]
  assert result["4x1"]["logits"] == [10]
  assert result["2x2"]["logits"] == [5]


def test_contrastive_blocks_pass_no_message_inside_the_loop(result):
  assert result["contrastive"]["difference"] < 1e-5
  text = result["contrastive"]["text"]
  assert "num_partitions=4" in text and "while(" in text
  # Before the entry come the bodies of loops and what they call.
  inside, entry = text.split("\nENTRY ")
  assert [name for name in COLLECTIVES if name in inside] == []
  assert "all-gather" in entry and "reduce-scatter" in entry
