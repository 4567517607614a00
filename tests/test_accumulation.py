"""A batch in parts has the gradients of the whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xla_flags
from test_sharded import COLLECTIVES
from test_train_step import BATCH, B

from sseg_jax import accumulation, train_step
from sseg_jax.errors import InputError
from sseg_jax.models import sseg


def test_parts_keep_groups_together_and_are_joined_again():
  cut = accumulation.Parts(steps=3, group=2)
  x = {"a": jnp.arange(24).reshape(12, 2), "b": jnp.arange(12)}
  parts = cut.split(x)
  assert parts["b"].tolist() == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
  assert parts["a"].shape == (3, 4, 2)
  jax.tree.map(np.testing.assert_array_equal, cut.join(parts), x)


EMBEDDINGS = {
  "decoder": {"model.mean": "before", "model.counted_queries": "owners"},
  # Every second picture learns masks, and words come from pseudo-masks.
  "stem": {
    "model.query_embedding": "mask_pooled",
    "model.pool_feature": "stem",
    "model.pool_masks": "pseudo",
    "model.mean": "after",
    "loss.mask_every": 2,
  },
}


def random_variables(config):
  """Parameters and statistics without the compilation of an initialiser."""
  _, *shapes = sseg.build(config)
  rng = np.random.default_rng(0)

  def draw(x):
    if x.ndim < 2:
      return rng.normal(1, 0.1, x.shape)
    # Tables of tokens, thousands of rows long, are no matrices.
    return rng.normal(0, max(np.prod(x.shape[:-1]) ** -0.5, 0.1), x.shape)

  params, model_state = shapes
  params = jax.tree.map(lambda x: jnp.asarray(draw(x), jnp.float32), params)
  return params, jax.tree.map(lambda x: jnp.ones(x.shape), model_state)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("embedding", "norm", "steps"),
  [
    ("decoder", "ln", 2),
    ("stem", "bn", 4),
  ],
)
def test_parts_have_the_gradients_of_the_whole(
  tiny_config, embedding, norm, steps
):
  config = tiny_config
  config.text.layers = 1
  config.model.proj_norm = norm
  config.model.dropout = 0.2
  config.text.dropout = 0.1
  config.update_from_flattened_dict(EMBEDDINGS[embedding])
  # One picture is invalid, and its pixels and words must not matter.
  batch = BATCH | {"valid": np.arange(B) != 3}
  params, model_state = random_variables(config)

  def run(steps):
    config.accumulate_steps = steps
    setup = train_step.make_setup(config)
    f = jax.jit(functools.partial(train_step.value_and_grad, setup))
    return f(params, model_state, setup.frozen, batch, jax.random.key(1))

  whole, in_parts = run(1), run(steps)
  (loss, (metrics, new_state)), grads = in_parts
  (expected, (expected_metrics, expected_state)), expected_grads = whole
  assert loss == pytest.approx(float(expected), rel=1e-6)
  assert metrics.keys() == expected_metrics.keys()
  for name, value in expected_metrics.items():
    assert metrics[name] == pytest.approx(float(value), rel=1e-5), name
  assert (norm == "bn") == bool(jax.tree.leaves(new_state))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    new_state,
    expected_state,
  )
  # Of each part's own largest: that of words is a thousandth of that of masks.
  for name, part in expected_grads.items():
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(part))
    differences = jax.tree.map(
      lambda a, b: float(jnp.abs(a - b).max()), grads[name], part
    )
    # A temperature's gradient is a sum whose terms nearly cancel.
    limit = 1e-4 if name == "logit_scale" else 1e-5
    assert max(jax.tree.leaves(differences)) < limit * largest, name
  for name in ("backbone", "maskformer", "text", "image_projection"):
    assert any(np.abs(x).max() > 0 for x in jax.tree.leaves(grads[name])), name


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"accumulate_steps": 0}, "accumulate_steps=0: must be at least 1"),
    ({"accumulate_steps": 3}, "accumulate_steps=3: .*divide batch_size=8"),
    ({"accumulate_steps": 2, "task": "supervised"}, "in one piece; use 1"),
  ],
)
def test_fields_that_cannot_work_are_named(tiny_config, fields, message):
  tiny_config.update(fields)
  with pytest.raises(InputError, match=message):
    train_step.make_setup(tiny_config)


# In a process of its own with four devices: the gradients of two parts over a
# mesh, those of the whole on one device, and the program that cuts a batch.
SCRIPT = """
import functools, json
import jax, numpy as np
from conftest import _tiny_config
from test_accumulation import random_variables
from test_train_step import BATCH
from sseg_jax import accumulation, sharding, train_step

sharding.MIN_SIZE = 256  # so that a tiny model is split as well

def run(data, fsdp, steps):
  config = _tiny_config()
  config.text.layers = 1
  config.accumulate_steps = steps
  config.mesh.data, config.mesh.fsdp = data, fsdp
  mesh = sharding.make_mesh(config.mesh, jax.devices()[: data * fsdp])
  setup = train_step.make_setup(config, mesh=mesh)
  state = random_variables(config)
  state = jax.device_put(state, sharding.state_sharding(state, mesh))
  step = jax.jit(functools.partial(train_step.value_and_grad, setup))
  (loss, _), grads = step(
    *state, {"pseudo_masks": {}}, sharding.global_batch(BATCH, mesh),
    jax.random.key(0))
  split = sum(not x.is_fully_replicated for x in jax.tree.leaves(grads))
  return float(loss), split, jax.device_get(grads)

loss, _, whole = run(1, 1, 1)
loss_of_parts, split, parts = run(2, 2, 2)
largest = max(np.abs(x).max() for x in jax.tree.leaves(whole))
difference = jax.tree.map(
  lambda a, b: float(np.abs(a - b).max() / largest), whole, parts)
mesh = sharding.make_mesh(_tiny_config().mesh)
cut = accumulation.Parts(steps=2, group=2, mesh=mesh)
rows = sharding.batch_sharding(mesh)
x = jax.ShapeDtypeStruct((32, 3), "float32", sharding=rows)
program = jax.jit(
  lambda x: (cut.split(x), cut.join(cut.split(x) + 1))).lower(x).compile()
print(json.dumps({
  "losses": [loss, loss_of_parts],
  "split": split,
  "difference": max(jax.tree.leaves(difference)),
  "part": program.output_shardings[0].shard_shape((2, 16, 3)),
  "program": program.as_text(),
}))
"""


@pytest.mark.slow
def test_every_part_lies_on_all_devices():
  found = xla_flags.found_on(4, SCRIPT)
  assert found["losses"][1] == pytest.approx(found["losses"][0], rel=1e-6)
  assert found["difference"] < 1e-5
  assert found["split"] > 20  # gradients lie as parameters do
  assert found["part"] == [2, 4, 3]
  assert "num_partitions=4" in found["program"]
  assert [name for name in COLLECTIVES if name in found["program"]] == []
