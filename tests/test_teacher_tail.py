"""Last blocks of the eye that are trained, for regions and not for clusters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_vit
from flax import nnx
from test_eye import config, images, keys, weights
from test_train_step import BATCH, CLASSES

from sseg_jax import optim, train_step
from sseg_jax.checkpoints import named_arrays
from sseg_jax.errors import InputError
from sseg_jax.exporting import towers
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.inference.segmenter import SSegSegmenter
from sseg_jax.models import teacher_tail, vit, vit_weights
from sseg_jax.models.keys import parameter_keys
from sseg_jax.pseudo_masks import eye

pytestmark = pytest.mark.usefixtures("signs_of_gradients")

__all__ = ["config", "weights"]  # fixtures


@pytest.fixture
def trained(config):
  """A config that trains the last of three blocks."""
  config.model.teacher_trained = 1
  config.model.teacher_features = "tokens+keys:2+values:1"
  config.optim.layer_decay = 0.1
  return config


@pytest.mark.slow
def test_blocks_give_what_the_network_gives(monkeypatch):
  model = vit.ViT(**small_vit.SIZES, rngs=parameter_keys(0))
  pixels = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
  wanted = [("tokens", 0), ("keys", 1), ("values", 2), ("tokens", 2)]
  parts = model.features(pixels, wanted)
  x, found = vit.read_blocks(
    *(model.embed(pixels), list(model.blocks)[:2], model.norm, wanted),
    to_end=True,
  )
  assert set(found) == {("tokens", 0), ("keys", 1)}
  later = list(model.blocks)[2:]
  found |= vit.read_blocks(x, later, model.norm, wanted[2:], 2)[1]
  for part, value in zip(wanted, parts, strict=True):
    np.testing.assert_allclose(found[part], value, atol=1e-5)
  # Only what is wanted is computed: no block after the first.
  calls, real = [], vit.Block.__call__
  monkeypatch.setattr(
    vit.Block, "__call__", lambda *a, **k: calls.append(1) or real(*a, **k)
  )
  vit.read_blocks(model.embed(pixels), model.blocks, model.norm, wanted[:1])
  assert len(calls) == 1


@pytest.mark.slow
def test_it_starts_as_the_frozen_network(trained):
  state = train_step.init_state(train_step.make_setup(trained))
  tail = named_arrays.flat(state.params["teacher_tail"])
  assert {x.dtype for x in tail.values()} == {np.dtype(np.float32)}
  _, whole = vit_weights.load(trained.pseudo_masks.weights)
  whole = named_arrays.flat(whole)
  assert len(tail) == sum(x.startswith("blocks/2/") for x in whole) + 2
  for name, array in tail.items():
    wanted = whole[name.replace("blocks/0/", "blocks/2/")]
    np.testing.assert_allclose(array, wanted, atol=2e-3)
  seer = eye.build(trained, load=True)
  plain = seer.look(seer.frozen, images(), keys())
  same = seer.look(seer.frozen, images(), keys(), state.params["teacher_tail"])
  np.testing.assert_array_equal(plain[0], same[0])
  np.testing.assert_allclose(plain[1].features, same[1].features, atol=2e-3)


@pytest.mark.slow
def test_it_is_trained_and_clusters_stay(trained):
  trained.optim.peak_lr = trained.optim.start_lr = 3e-3
  setup = train_step.make_setup(trained)
  start = state = train_step.init_state(setup)
  take = jax.jit(functools.partial(train_step.train_step, setup))
  losses = []
  for _ in range(25):
    state, metrics = take(state, setup.frozen, BATCH)
    assert not metrics["bad"]
    losses.append(float(metrics["loss"]))
  assert losses[-1] < 0.8 * losses[0]
  before, after = (
    named_arrays.flat(s.params["teacher_tail"]) for s in (start, state)
  )
  changed = {name: np.abs(before[name] - after[name]).max() for name in before}
  assert all(x > 0 for name, x in changed.items() if name.endswith("kernel"))
  # A tenth of the rate: a step of Adam is at most about as long as its rate.
  of_blocks = [x for name, x in changed.items() if name.startswith("blocks")]
  assert max(of_blocks) < 25 * 3e-4 * 1.5
  jax.tree.map(
    np.testing.assert_array_equal, start.model_state["teacher"],
    state.model_state["teacher"],
  )  # fmt: skip
  # Masks are the frozen network's, features the trained one's.
  seer = eye.for_pictures(trained, "none")
  frozen = state.model_state["teacher"]
  tail = state.params["teacher_tail"]
  plain = seer.see(frozen, images(), keys())
  learned = seer.see(frozen, images(), keys(), tail)
  np.testing.assert_array_equal(plain.mask_logits, learned.mask_logits)
  width = small_vit.SIZES["width"]
  moved = np.abs(plain.features - learned.features).max((0, 1))
  assert (moved[: 2 * width].reshape(2, -1).max(1) > 1e-3).all()
  np.testing.assert_array_equal(moved[2 * width :], 0)  # of a frozen block

  # Prediction and exports use it.
  params, model_state = (
    named_arrays.nested(named_arrays.flat(x), int_keys=True)
    for x in (state.params, state.model_state)
  )
  image, classes = np.asarray(BATCH["image"][0]), ClassSet(CLASSES)
  segmenter = SSegSegmenter(params, model_state, trained)
  scores = segmenter.scores(image, classes)
  exported = towers.build(params, model_state, trained)
  found, _ = jax.jit(exported.segment)(
    exported.weights,
    images()[:1].astype(jnp.float32),
    segmenter.encode_classes(classes),
    jnp.float32(0),
  )
  np.testing.assert_allclose(found[0], scores, atol=1e-4)
  params["teacher_tail"] = start.params["teacher_tail"]
  segmenter.set_weights(params, model_state)
  assert np.abs(segmenter.scores(image, classes) - scores).max() > 1e-3


def test_rates_fall_from_the_last_block(config):
  config.model.teacher_trained = 2
  shapes = nnx.to_pure_dict(
    nnx.state(
      nnx.eval_shape(lambda: teacher_tail.Tail(config, rngs=parameter_keys(0)))
    )
  )
  factors = optim.layer_factors({"teacher_tail": shapes, "text": shapes}, 0.1)
  found = named_arrays.flat(factors)
  assert found["teacher_tail/blocks/1/qkv/kernel"] == pytest.approx(0.1)
  assert found["teacher_tail/blocks/0/qkv/kernel"] == pytest.approx(0.01)
  assert found["teacher_tail/norm/scale"] == 1
  assert found["text/blocks/0/qkv/kernel"] == 1


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"model.teacher_trained": 3}, "'tiny' has 3 blocks; use fewer"),
    ({"model.teacher_features": "keys:1"}, "nothing of the blocks from 2 on"),
    ({"pseudo_masks.mode": "cached"}, "cannot be trained; use pseudo_masks"),
    ({"model.backbone": "conv_tiny"}, "only model.backbone='teacher' has"),
  ],
)
def test_what_cannot_work_is_refused(trained, fields, message):
  trained.update_from_flattened_dict(fields)
  with pytest.raises(InputError, match=message):
    train_step.make_setup(trained)
