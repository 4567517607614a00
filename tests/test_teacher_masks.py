"""A MaskFormer that learns masks from the clusters of a frozen transformer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_vit
from flax import nnx
from test_eye import config, images, keys, weights, write_pictures
from test_train_step import BATCH, CLASSES

from sseg_jax import train_step
from sseg_jax.checkpoints import named_arrays
from sseg_jax.data import pipeline
from sseg_jax.errors import InputError
from sseg_jax.exporting import towers
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.inference.segmenter import SSegSegmenter
from sseg_jax.models import sseg, teacher, teacher_masks, vit_pyramid
from sseg_jax.models.keys import parameter_keys
from sseg_jax.models.layers import unit
from sseg_jax.plan import step
from sseg_jax.pseudo_masks import caching, eye

pytestmark = pytest.mark.usefixtures("signs_of_gradients")

__all__ = ["config", "weights"]  # fixtures


@pytest.fixture
def learning(config):
  """A config whose network learns masks."""
  config.model.teacher_masks = True
  config.loss.region_words = 1.0
  return config


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (4, 4)])
def test_a_pyramid_takes_any_number_of_tokens(height, width):
  pyramid = vit_pyramid.Pyramid(
    width=16, dtype=jnp.float32, rngs=parameter_keys(0)
  )
  tokens = jax.random.normal(jax.random.key(0), (2, height, width, 16))
  levels = pyramid.levels(tokens)
  assert {k: x.shape[1:] for k, x in levels.items()} == {
    "res2": (4 * height, 4 * width, 4),
    "res3": (2 * height, 2 * width, 8),
    "res4": (height, width, 16),
    "res5": (-(-height // 2), -(-width // 2), 16),
  }
  assert pyramid.channels == {k: x.shape[-1] for k, x in levels.items()}
  np.testing.assert_array_equal(
    levels["res5"][:, -1, -1],
    tokens[:, (height - 1) // 2 * 2 :, (width - 1) // 2 * 2 :].max((1, 2)),
  )


@pytest.fixture
def halves():
  """What an eye sees in two pictures whose halves differ, and logits."""
  rng = np.random.default_rng(0)
  cells = rng.normal(size=(2, 4, 4, 5)).astype(np.float32)
  labels = np.zeros((2, 8, 8), np.int32)
  labels[:, :, 4:] = 1
  # One mask has the left half and a column more, the other the rest. A third
  # is nowhere.
  logits = np.full((2, 3, 16, 16), -5.0, np.float32)
  logits[:, 0, :, :10] = logits[:, 1, :, 10:] = 5
  nothing = (
    jnp.zeros((2, 2, 1, 1)),
    jnp.zeros((2, 2, 5)),
    jnp.ones((2, 2), bool),
  )
  seen = teacher.Regions(*nothing, jnp.zeros((2, 4, 4, 8)), jnp.asarray(cells))
  return seen, jnp.asarray(labels), jnp.asarray(logits)


class Fixed(teacher_masks.TeacherMasks):
  """Decodes nothing, and gives the logits that it has."""

  def __init__(self, logits):
    self.logits, self.regions = nnx.data(logits), 2

  def __call__(self, tokens):
    return self.logits[None]


@pytest.mark.slow
def test_a_mask_has_the_features_under_it(halves):
  seen, labels, logits = halves
  own = Fixed(logits).regions_of(seen)
  np.testing.assert_array_equal(own.mask_logits[:, :2], logits[:, :2])
  assert (own.mask_logits[:, 2] < -10).all()
  np.testing.assert_array_equal(own.exist, [[True, True, False]] * 2)
  # Of the third column of cells half belongs to each.
  share = np.array([1, 1, 0.5, 0])
  for i, weight in enumerate([share, 1 - share]):
    wanted = np.average(seen.cells.mean(1), axis=1, weights=weight)
    np.testing.assert_allclose(own.features[:, i], wanted, rtol=1e-4)
  assert not own.features[:, 2].any()
  # Snapped, the masks end where the clusters do.
  snapped = Fixed(logits).regions_of(seen._replace(labels=labels))
  inside = np.asarray(snapped.mask_logits > 0)
  assert inside[:, 0, :, :8].all() and not inside[:, 0, :, 8:].any()
  assert inside[:, 1, :, 8:].all() and not inside[:, 1, :, :8].any()
  np.testing.assert_allclose(
    snapped.features[:, 0], seen.cells[:, :, :2].mean((1, 2)), rtol=1e-4
  )


@pytest.mark.slow
def test_masks_are_learned_beside_words_and_share_nothing(learning):
  learning.model.region_dropout = 0.0
  setup = train_step.make_setup(learning)
  state = train_step.init_state(setup)
  key = jax.random.key(1, impl="threefry2x32")
  batch = jax.tree.map(jnp.asarray, BATCH)

  @jax.jit
  def gradients(state):
    value, grads = train_step.value_and_grad(
      *(setup, state.params, state.model_state, setup.frozen, batch, key)
    )
    return value[1][0], grads

  _, grads = gradients(state)
  masks = grads.pop("teacher_masks")
  # Weights alone: no gradient passes where ReLU is closed for all.
  assert all(
    np.abs(x).max() > 0
    for name, x in named_arrays.flat(masks).items()
    if name.endswith("kernel") and "layers" not in name
  )
  # Words have the gradients that they have without masks.
  learning.model.teacher_masks = False
  plain = train_step.make_setup(learning)
  params = {k: v for k, v in state.params.items() if k != "teacher_masks"}
  _, wanted = jax.jit(functools.partial(train_step.value_and_grad, plain))(
    params, state.model_state, plain.frozen, batch, key
  )
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-7),
    *(grads, wanted),
  )


@pytest.mark.slow
def test_a_run_learns_masks(learning):
  learning.optim.peak_lr = learning.optim.start_lr = 3e-3
  setup = train_step.make_setup(learning)
  state = train_step.init_state(setup)
  take = jax.jit(functools.partial(train_step.train_step, setup))
  curve = []
  for _ in range(40):
    state, metrics = take(state, setup.frozen, BATCH)
    assert not metrics["bad"]
    curve.append(float(metrics["loss/mask"]))
  assert curve[-1] < 0.75 * curve[0]
  # The masks found are the clusters: most pixels of a cluster have one mask.
  seer = eye.build(learning)
  model = nnx.merge(setup.graphdef, state.params, state.model_state)
  frozen = state.model_state["teacher"]
  labels, seen = seer.look(frozen, images(), keys())
  winner = np.asarray(model.teacher_masks(seen.tokens)[-1].argmax(1))
  fine = np.repeat(np.repeat(labels, 4, 1), 4, 2)
  agree = np.mean(
    [
      max(
        (winner[i] == q)[fine[i] == c].mean() for q in range(winner.max() + 1)
      )
      for i in range(4)
      for c in np.unique(fine[i])
    ]
  )
  assert agree > 0.7


@pytest.mark.slow
def test_masks_at_test_are_its_own_or_snapped_or_clusters(learning):
  setup = train_step.make_setup(learning)
  state = train_step.init_state(setup)
  params, model_state = (
    named_arrays.nested(named_arrays.flat(x), int_keys=True)
    for x in (state.params, state.model_state)
  )
  image, classes = np.asarray(BATCH["image"][0]), ClassSet(CLASSES)
  scores = {}
  for refine in ("none", "pseudo_masks", "clusters"):
    how = dict(refine=refine, combiner="hard")
    segmenter = SSegSegmenter(params, model_state, learning, **how)
    scores[refine] = segmenter.scores(image, classes)
    exported = towers.build(params, model_state, learning, **how)
    assert exported.refine == refine
    found, _ = jax.jit(exported.segment)(
      exported.weights,
      images()[:1].astype(jnp.float32),
      segmenter.encode_classes(classes),
      jnp.float32(0),
    )
    np.testing.assert_allclose(found[0], scores[refine], atol=1e-4)
  assert np.abs(scores["none"] - scores["clusters"]).max() > 1e-3
  # A cluster has one mask, so one distribution over classes. Its edges are the
  # clusters'.
  labels, seen = eye.build(learning).look(
    state.model_state["teacher"], images()[:1], keys(1)
  )
  fine = np.repeat(np.repeat(labels[0], 4, 0), 4, 1)
  for cluster in np.unique(fine):
    rows = scores["pseudo_masks"][fine == cluster]
    assert len(np.unique(rows.round(5), axis=0)) <= 2  # pixels between clusters
  # With clusters for masks it is the network without masks.
  learning.model.teacher_masks = False
  bare = {k: v for k, v in params.items() if k != "teacher_masks"}
  plain = SSegSegmenter(bare, model_state, learning, combiner="hard")
  np.testing.assert_allclose(
    plain.scores(image, classes), scores["clusters"], atol=1e-5
  )


@pytest.mark.slow
def test_own_masks_are_named_by_the_features_under_them(learning):
  """The formula again: features under masks, centred, projected, compared."""
  setup = train_step.make_setup(learning)
  state = train_step.init_state(setup)
  model = nnx.merge(setup.graphdef, state.params, state.model_state)
  seer = eye.for_pictures(learning, "none")
  _, seen = seer.look(state.model_state["teacher"], images(), keys())
  out = model.encode_image(None, seen=seen)
  logits = np.asarray(model.teacher_masks(seen.tokens)[-1])
  own = model.teacher_masks.regions_of(seen)
  there = np.asarray(own.exist)
  np.testing.assert_array_equal(out.mask_logits[-1][there], logits[there])
  assert there.any(1).all() and (out.mask_logits[-1][~there] < -10).all()
  queries = model.image_projection(model.region_input(own.features, own.exist))
  np.testing.assert_allclose(out.query_embeddings, queries, atol=1e-5)
  # The picture is embedded from its clusters, as in training.
  parts = model.image_projection(model.region_input(seen.features, seen.exist))
  mean = np.where(seen.exist[..., None], unit(parts), 0).sum(1)
  mean = mean / np.asarray(seen.exist.sum(1))[:, None]
  np.testing.assert_allclose(out.image_embedding, mean, atol=1e-5)
  assert out.query_embeddings.shape[1] == learning.model.num_queries


@pytest.fixture
def stored(learning, tmp_path):
  """A config that reads features of six pictures from records."""
  learning.image_size = 32
  learning.batch_size = learning.data.lanes = 4
  learning.data.flip, learning.data.crop_scale = False, (1.0, 1.0)
  learning.data.crop_ratio = (1.0, 1.0)
  learning.loss.mask_every = 2
  learning.pseudo_masks.stride = 4
  source, out = str(tmp_path / "source"), str(tmp_path / "out")
  write_pictures(source)
  caching.add_pseudo_masks(source, out, learning, features=True)
  learning.data.train = out
  learning.pseudo_masks.mode = "cached"
  return learning


@pytest.mark.slow
def test_batches_hold_the_pictures_that_learn_masks(stored):
  batches = pipeline.train_batches(stored)
  found = [next(batches) for _ in range(6)]
  batches.close()
  ids = set()
  for batch in found:
    assert batch["image"].shape == (4, 32, 32, 3)
    assert batch["pseudo_labels"].shape == (4, 8, 8)
    assert batch["region_features"].shape == (4, 3, 128)
    for i, number in enumerate(batch["id"]):
      picture = batch["image"][i]
      if i % 2 or number == 5:  # learns no masks, or cannot be read
        assert not picture.any()
      else:
        np.testing.assert_array_equal(picture, BATCH["image"][number])
        ids.add(int(number))
      assert batch["valid"][i] == (number != 5 or bool(i % 2))
  assert len(ids) >= 3
  # What is stored gives the loss that the pictures themselves give.
  batch = next(b for b in found if 5 not in b["id"])
  setup = train_step.make_setup(stored)
  state = train_step.init_state(setup)
  take = jax.jit(functools.partial(train_step.train_step, setup))
  _, cached = take(state, setup.frozen, batch)
  stored.pseudo_masks.mode = "online"
  seen = {
    "id": batch["id"],
    "valid": batch["valid"],
    "text": batch["text"],
    "image": np.stack([BATCH["image"][i] for i in batch["id"]]),
  }
  setup = train_step.make_setup(stored)
  take = jax.jit(functools.partial(train_step.train_step, setup))
  _, online = take(state, setup.frozen, seen)
  for name in ("loss", "loss/mask", "loss/contrastive", "dice", "focal"):
    assert cached[name] == pytest.approx(float(online[name]), rel=2e-3), name


@pytest.mark.slow
def test_a_plan_knows_what_such_batches_hold(stored):
  stored.pseudo_masks.weights = "nowhere.npz"
  built = step.build(stored, jax.devices()[:1])
  batch = built.arguments[2]
  assert {"image", "pseudo_labels", "region_features"} <= set(batch)
  built.function.lower(*built.arguments)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"model.backbone": "conv_tiny"}, "has a MaskFormer already"),
    ({"loss.mask_every": 3}, "loss.mask_every=3: must divide"),
    (
      {"model.teacher_masks": False, "evaluate.refine": "clusters"},
      "are clusters already; use 'none', or model.teacher_masks=True",
    ),
    (
      {
        "model.teacher_masks": False,
        "model.backbone": "conv_tiny",
        "evaluate.refine": "clusters",
      },
      "evaluate.refine='clusters': only model.backbone='teacher'",
    ),
  ],
)
def test_what_cannot_work_is_refused(learning, fields, message):
  learning.update_from_flattened_dict(fields)
  with pytest.raises(InputError, match=message):
    train_step.make_setup(learning)


def test_clusters_are_the_masks_of_an_eye_alone(tiny_config):
  with pytest.raises(InputError, match="refine='clusters': only model.backb"):
    SSegSegmenter({}, {}, tiny_config, refine="clusters")


def test_sizes_of_a_small_eye(learning):
  """The decoder reads tokens alone, whatever regions are embedded from."""
  assert teacher.width(learning) == 2 * small_vit.SIZES["width"]
  shapes = sseg.build(learning)[1]["teacher_masks"]["pyramid"]
  assert shapes["once"]["linear"]["kernel"].shape[0] == small_vit.SIZES["width"]
