"""The training step on one fixed batch of a tiny model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from sseg_jax import sharding, tokenizer, train_step
from sseg_jax.errors import InputError
from sseg_jax.models import pooling

B, SIDE = 8, 32
CLASSES = ("cat", "dog", "grass", "sky", "sea")


def make_batch():
  """Pictures of two flat halves, a caption and a label map for each."""
  rng = np.random.default_rng(0)
  pairs = [rng.permutation(len(CLASSES))[:2] for _ in range(B)]
  colours = rng.integers(0, 256, (len(CLASSES), 3))
  labels = np.zeros((B, SIDE, SIDE), np.int32)
  for i, (left, right) in enumerate(pairs):
    labels[i, :, : SIDE // 2], labels[i, :, SIDE // 2 :] = left, right
  image = colours[labels] + rng.integers(-9, 10, (B, SIDE, SIDE, 3))
  texts = [f"a {CLASSES[a]} and a {CLASSES[b]}" for a, b in pairs]
  labels[:, 0] = 255
  return {
    "id": np.arange(100, 100 + B, dtype=np.uint32),
    "valid": np.ones(B, bool),
    "image": image.clip(0, 255).astype(np.uint8),
    "text": tokenizer.Tokenizer(16)(texts),
    "labels": labels,
  }


BATCH = make_batch()


class Run:
  """A configuration with its initial state and compiled step."""

  def __init__(self, config):
    config.optim.peak_lr = 3e-3
    config.optim.start_lr = 3e-3
    config.total_steps = 1000
    self.config = config
    self.setup = train_step.make_setup(config, CLASSES)
    self.state = train_step.init_state(self.setup)
    self._step = jax.jit(functools.partial(train_step.train_step, self.setup))

  def step(self, batch=BATCH, state=None):
    return self._step(state or self.state, self.setup.frozen, batch)

  def losses(self, steps):
    state, losses = self.state, []
    for _ in range(steps):
      state, metrics = self.step(state=state)
      assert not metrics["bad"]
      losses.append(float(metrics["loss"]))
    assert int(state.step) == steps
    return losses


@pytest.fixture(scope="module")
def run(make_tiny_config):
  """The paper's form, with its batch norm and dropout."""
  config = make_tiny_config()
  config.model.decoder_layers, config.text.layers = 2, 1
  return Run(config)


def assert_equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


pytestmark = pytest.mark.slow  # each form compiles for some ten seconds


def test_the_loss_falls_and_all_metrics_are_finite(run):
  losses = run.losses(12)
  assert losses[-1] < 0.8 * losses[0]
  state, metrics = run.step()
  assert all(
    np.isfinite(v) and v.dtype == jnp.float32 for v in metrics.values()
  )
  assert {"loss", "loss/mask", "loss/contrastive", "grad_norm"} <= set(metrics)
  assert metrics["valid"] == 1 and metrics["bad"] == 0
  assert metrics["logit_scale"] == pytest.approx(1 / 0.07, rel=1e-4)
  expected = metrics["loss/mask"] + metrics["loss/contrastive"]
  assert metrics["loss"] == pytest.approx(float(expected), rel=1e-5)
  # Every parameter moved but those whose gradient is zero by construction.
  moved = jax.tree.map(lambda a, b: (a != b).any(), run.state, state)
  assert moved.params["logit_scale"]
  assert all(jax.tree.leaves(moved.params["backbone"]))
  assert any(jax.tree.leaves(moved.model_state))


def test_a_step_is_a_function_of_its_arguments(run):
  assert_equal(run.step(), run.step())
  # Dropout differs from step to step: its key is folded with the number.
  later = run.state._replace(step=run.state.step + 1)
  first, second = run.step()[1], run.step(state=later)[1]
  assert first["loss"] != second["loss"]


def test_invalid_examples_change_nothing(run):
  valid = np.arange(B) % 3 != 1
  rng = np.random.default_rng(5)
  batch = BATCH | {"valid": valid}
  garbage = {k: np.array(v) for k, v in batch.items()}
  noise = rng.integers(0, 256, garbage["image"].shape)
  garbage["image"][~valid] = noise[~valid]
  garbage["text"][~valid] = BATCH["text"][::-1][~valid]
  state, metrics = run.step(batch)
  assert_equal((state, metrics), run.step(garbage))
  assert metrics["valid"] == pytest.approx(valid.mean())
  # They count where they are valid: the test can fail.
  whole = run.step(garbage | {"valid": np.ones(B, bool)})[1]
  assert whole["loss"] != metrics["loss"]


def test_a_batch_without_a_valid_example_is_no_error(run):
  state, metrics = run.step(BATCH | {"valid": np.zeros(B, bool)})
  assert metrics["bad"] == 0 and metrics["loss"] == 0
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


def test_a_step_that_is_not_finite_is_skipped_and_counted(run):
  broken = run.state._replace(
    params=run.state.params | {"logit_scale": jnp.float32(np.nan)}
  )
  after, metrics = run.step(state=broken)
  assert metrics["bad"] == 1 and not np.isfinite(metrics["loss"])
  assert after.step == 1
  assert_equal(after._replace(step=broken.step), broken)
  # A good one is not.
  assert run.step()[1]["bad"] == 0


def test_pseudo_masks_depend_on_the_picture_and_its_id_alone(run):
  make = jax.jit(functools.partial(train_step.pseudo_mask_labels, run.setup))
  labels, present = make(run.setup.frozen, BATCH)
  assert labels.shape == (B, 8, 8) and present.shape == (B, 4)
  order = np.random.default_rng(0).permutation(B)
  shuffled = {k: v[order] for k, v in BATCH.items()}
  moved = make(run.setup.frozen, shuffled)
  assert_equal(moved, (labels[order], present[order]))
  # Another id draws other starts.
  other = make(run.setup.frozen, BATCH | {"id": BATCH["id"] + 50})[0]
  assert (np.asarray(other) != labels).any()


def test_pseudo_masks_come_from_the_teachers_view(run):
  make = jax.jit(functools.partial(train_step.pseudo_mask_labels, run.setup))
  labels, _ = make(run.setup.frozen, BATCH)
  altered = {"teacher_image": BATCH["image"], "image": BATCH["image"] // 2}
  assert_equal(make(run.setup.frozen, BATCH | altered)[0], labels)


def test_cached_pseudo_masks_are_taken_as_they_are(run):
  config = run.config.copy_and_resolve_references()
  config.pseudo_masks.mode = "cached"
  cached = np.array([[[0, 2], [2, 255]]], np.int32)
  labels, present = train_step.pseudo_mask_labels(
    train_step.make_setup(config), {}, {"pseudo_labels": jnp.asarray(cached)}
  )
  np.testing.assert_array_equal(labels, cached)
  assert present.tolist() == [[True, False, True, False]]


def test_bfloat16_keeps_a_float32_state(make_tiny_config):
  config = make_tiny_config()
  config.dtype = "bfloat16"
  setup = train_step.make_setup(config)
  state, metrics = jax.eval_shape(
    functools.partial(train_step.train_step, setup),
    train_step.abstract_state(setup),
    setup.frozen,
    BATCH,
  )
  types = {leaf.dtype for leaf in jax.tree.leaves((state, metrics))}
  assert types == {jnp.dtype("float32"), jnp.dtype("int32")}


def test_abstract_state_is_the_state_without_its_values(run):
  abstract = train_step.abstract_state(run.setup)
  jax.tree.map(
    lambda a, b: np.testing.assert_equal(
      (a.shape, a.dtype), (b.shape, b.dtype)
    ),
    abstract,
    run.state,
  )


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_region_shares_are_what_a_mask_covers_of_each_cell(stride):
  rng = np.random.default_rng(stride)
  side = 32 // stride
  labels = rng.integers(0, 5, (3, side, side)).astype(np.int32)
  present = np.ones((3, 4), bool)
  present[1, 2] = present[2] = False  # the last picture has no mask
  got = pooling.region_shares(
    jnp.asarray(labels), jnp.asarray(present), (32, 32)
  )
  pixels = labels.repeat(stride, 1).repeat(stride, 2)
  masks = pixels[:, None] == np.arange(4)[None, :, None, None]
  masks &= present[:, :, None, None]
  expected = masks.reshape(3, 4, 8, 4, 8, 4).mean((3, 5))
  expected[2, 0] = 1  # then it is one region
  np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize(
  ("block", "devices", "wanted"),
  [
    (-1, 1, "at least 0"),
    (3, 1, "divide batch_size=8, or be 0"),
    (16, 1, "divide batch_size=8, or be 0"),
    (4, 8, "be a multiple of the 8 devices, or 0"),
  ],
)
def test_contrastive_block_must_divide_the_batch(
  tiny_config, block, devices, wanted
):
  tiny_config.loss.contrastive_block = block
  mesh = AbstractMesh((devices, 1), sharding.AXES)
  message = f"loss.contrastive_block={block}: must (be )?{wanted}"
  with pytest.raises(InputError, match=message):
    train_step.make_setup(tiny_config, mesh=mesh)
