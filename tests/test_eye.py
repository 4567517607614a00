"""A frozen transformer as the eye: one forward, training, checkpoints."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_vit
from flax import nnx
from test_train_step import BATCH, CLASSES

from sseg_jax import region_words, train_step, word_bags
from sseg_jax.checkpoints import named_arrays
from sseg_jax.data import pipeline, records
from sseg_jax.errors import InputError
from sseg_jax.exporting import towers
from sseg_jax.inference import clusters, look
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.inference.segmenter import SSegSegmenter
from sseg_jax.models import teacher, vit_weights
from sseg_jax.models.layers import normalize_pixels, unit
from sseg_jax.models.vit_sizes import VIT_SIZES
from sseg_jax.plan import step
from sseg_jax.pseudo_masks import caching, eye, generator, region_features

pytestmark = pytest.mark.usefixtures("signs_of_gradients")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  return small_vit.write(tmp_path_factory.mktemp("weights") / "vit.npz")


def eye_config(c, weights):
  """Changes a config to one with a small eye, `VIT_SIZES["tiny"]`."""
  c.model.backbone = "teacher"
  c.model.teacher = "tiny"
  c.model.teacher_features = "tokens+keys:1"
  c.model.mean = "after"
  c.model.proj_norm = "none"
  c.model.proj_heads = 2
  c.model.region_dropout = 0.1
  c.text.layers = 0
  c.text.letter_groups = 50
  c.loss.contrastive_form = "words"
  c.pseudo_masks.generator = "dino"
  c.pseudo_masks.weights = weights
  c.pseudo_masks.k = 3


@pytest.fixture
def config(tiny_config, weights, monkeypatch):
  monkeypatch.setitem(VIT_SIZES, "tiny", small_vit.SIZES)
  eye_config(tiny_config, weights)
  return tiny_config


def images():
  return jnp.asarray(BATCH["image"][:4])


def keys(b=4):
  return jax.random.split(jax.random.key(0), b)


@pytest.mark.slow
def test_regions_have_the_means_of_the_features_under_them(config):
  config.model.teacher_more_k = (2,)
  seer = eye.build(config, load=True)
  labels, seen = jax.jit(seer.look)(seer.frozen, images(), keys())
  assert labels.shape == (4, 8, 8)
  assert seen.mask_logits.shape == (4, 5, 8, 8)
  # Regions of one clustering are a partition.
  inside = np.asarray(seen.mask_logits > 0)
  assert (inside[:, :3].sum(1) == 1).all() and (inside[:, 3:].sum(1) == 1).all()
  np.testing.assert_array_equal(inside[:, :3].argmax(1), labels)
  # The network itself, with the weights as they are stored.
  graphdef, _ = vit_weights.build(small_vit.SIZES)
  model = nnx.merge(graphdef, teacher.parameters(seer.frozen, jnp.float32))
  parts = model.features(
    normalize_pixels(images(), jnp.float32), [("tokens", -1), ("keys", 1)]
  )
  cells = np.concatenate([unit(x[:, 1:]) for x in parts], -1)
  for n in range(5):
    of_picture = inside[1, n].reshape(-1)
    np.testing.assert_allclose(
      seen.features[1, n], cells[1][of_picture].mean(0), atol=1e-5
    )
  # The labels are those of the generator of pseudo-masks, but for float16.
  config.model.backbone = "conv_tiny"
  usual = generator.build(config)
  wanted, _ = usual.generate(usual.frozen, images(), keys())
  assert (np.asarray(wanted) == labels).mean() > 0.9


@pytest.mark.slow
def test_a_run_learns_and_leaves_the_eye_as_it_was(config):
  setup = train_step.make_setup(config, CLASSES)
  state = train_step.init_state(setup)
  assert "teacher" not in state.params and "teacher" in state.model_state
  loaded = teacher.load(config)
  take = jax.jit(functools.partial(train_step.train_step, setup))
  losses = []
  for _ in range(30):
    state, metrics = take(state, setup.frozen, BATCH)
    losses.append(float(metrics["loss"]))
  assert losses[-1] < 0.8 * losses[0]
  after = state.model_state["teacher"]
  jax.tree.map(np.testing.assert_array_equal, after, loaded)
  assert jax.tree.leaves(after)[0].dtype == jnp.float16
  # No file is needed to segment: the state is all.
  config.pseudo_masks.weights = "nowhere.npz"
  segmenter = SSegSegmenter(state.params, state.model_state, config)
  scores = segmenter.scores(np.asarray(BATCH["image"][0]), ClassSet(CLASSES))
  assert scores.shape == (32, 32, len(CLASSES))
  np.testing.assert_allclose(scores.sum(-1), 1, atol=1e-4)
  found = clusters.Clusters(config, state.model_state)(
    np.asarray(BATCH["image"][0])
  )
  assert found.shape == (32, 32) and set(found.flat) <= {0, 1, 2}
  # Each region has one distribution over the words.
  assert len(np.unique(scores.round(4).reshape(-1, 5), axis=0)) >= 2


@pytest.mark.slow
def test_the_exponent_of_the_config_reaches_the_loss(config, monkeypatch):
  config.loss.region_words, config.loss.region_words_q = 1.0, 0.25
  seen = []
  loss = region_words.regions_to_words

  def noted(*arguments, q, **others):
    seen.append(q)
    return loss(*arguments, q=q, **others)

  monkeypatch.setattr(region_words, "regions_to_words", noted)
  setup = train_step.make_setup(config, CLASSES)
  state = train_step.init_state(setup)
  step = functools.partial(train_step.train_step, setup)
  jax.eval_shape(step, state, setup.frozen, dict(BATCH))
  assert set(seen) == {0.25}


@pytest.mark.slow
@pytest.mark.parametrize(("block", "asked"), [(0, 0.0), (2, 0.0), (2, 1.0)])
def test_words_are_embedded_once_where_few_are_different(
  config, monkeypatch, block, asked
):
  config.loss.contrastive_block = block
  config.loss.region_words, config.loss.region_words_q = asked, 0.5
  setup = train_step.make_setup(config, CLASSES)
  state = train_step.init_state(setup)
  batch = dict(BATCH)
  fits = []
  different = word_bags.different

  def counted(*arguments):
    result = different(*arguments)
    jax.debug.callback(lambda x: fits.append(bool(x)), result[2])
    return result

  def take(change):
    monkeypatch.setattr(word_bags, "different", change)
    new, metrics = jax.jit(functools.partial(train_step.train_step, setup))(
      state, setup.frozen, batch
    )
    return new.params, metrics["loss"]

  params, loss = take(counted)
  assert fits == [True]
  # As if there were too many of them: each word is embedded where it stands, or
  # room is made for all.
  wanted, wanted_loss = take(
    lambda *x: (*different(*x)[:2], jnp.asarray(False))
  )
  np.testing.assert_allclose(loss, wanted_loss, rtol=1e-5)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-6),
    params,
    wanted,
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"model.teacher": "dino_vits8"}, "model.teacher to 'tiny'"),
    ({"model.teacher": "eagle"}, "model.teacher='eagle'"),
    ({"model.teacher_features": "keys:7"}, "model.teacher_features='keys:7'"),
    ({"model.mean": "before"}, "needs model.mean='after'"),
    ({"model.weights": "swin_s"}, "weights='swin_s'.*pseudo_masks.weights"),
    ({"accumulate_steps": 2}, "accumulate_steps=2"),
    ({"task": "supervised"}, "task='supervised'"),
    (
      {"loss.region_words": 1.0, "model.proj_norm": "bn"},
      "loss.region_words=1.0: needs model.proj_norm='ln' or 'none'; set",
    ),
    (
      {
        "loss.region_words": 1.0,
        "text.layers": 1,
        "model.proj_norm": "bn",
        "loss.contrastive_form": "caption_attends",
      },
      "loss.contrastive_form='words' and text.layers=0 and model.proj_norm='ln'"
      " or 'none'",
    ),
  ],
)
def test_what_cannot_work_is_refused(config, fields, message):
  config.update_from_flattened_dict(fields)
  with pytest.raises(InputError, match=message):
    train_step.init_state(train_step.make_setup(config))


def test_regions_at_test_have_a_number_of_their_own(config):
  config.model.teacher_more_k = (5,)
  config.evaluate.regions = 2
  seer = eye.for_pictures(config, "none")
  frozen = teacher.load(config)
  seen = jax.eval_shape(seer.see, frozen, images(), keys())
  assert seen.features.shape == (4, 2, 128)
  config.evaluate.regions = 0
  seen = jax.eval_shape(
    eye.for_pictures(config, "none").see, frozen, images(), keys()
  )
  assert seen.features.shape == (4, 8, 128)


def test_masks_of_an_eye_are_not_refined(config):
  config.evaluate.refine = "pseudo_masks"
  with pytest.raises(InputError, match="evaluate.refine='pseudo_masks'"):
    SSegSegmenter({}, {}, config)


@pytest.mark.parametrize(
  ("patch", "scale", "multiple"), [(8, 1, 32), (14, 1, 14), (14, 0.5, 32)]
)
def test_sides_of_windows_are_multiples_of_the_patch(
  config, monkeypatch, patch, scale, multiple
):
  monkeypatch.setitem(VIT_SIZES, "tiny", small_vit.SIZES | {"patch": patch})
  config.pseudo_masks.scale = scale
  assert look.Look.build(config, "none").multiple == multiple


def test_masks_of_another_patch_need_sides_that_fit_both(
  tiny_config, monkeypatch, tmp_path
):
  tiny_config.model.backbone = "vit_s14"  # tokens alone
  assert look.Look.build(tiny_config, "none").multiple == 14
  tiny_config.model.backbone = "conv_tiny"
  assert look.Look.build(tiny_config, "pseudo_masks").multiple == 32
  monkeypatch.setitem(small_vit.SIZES, "patch", 14)
  tiny_config.pseudo_masks.generator = "dino"
  tiny_config.pseudo_masks.weights = small_vit.write(tmp_path / "vit.npz")
  assert look.Look.build(tiny_config, "pseudo_masks").multiple == 224
  with pytest.raises(InputError, match="multiple of 224; use 224"):
    SSegSegmenter({}, {}, tiny_config, image_size=256, refine="pseudo_masks")


@pytest.mark.slow
def test_a_panorama_is_padded_to_whole_patches(config, monkeypatch, tmp_path):
  monkeypatch.setitem(small_vit.SIZES, "patch", 7)
  config.pseudo_masks.weights = small_vit.write(tmp_path / "vit.npz")
  config.evaluate.image_size, config.evaluate.stride = 224, 112
  state = train_step.init_state(train_step.make_setup(config, CLASSES))
  segmenter = SSegSegmenter(state.params, state.model_state, config)
  # Its short side becomes 95, and is padded to 98.
  scores = segmenter.scores(
    np.zeros((60, 1300, 3), np.uint8), ClassSet(("a", "b"))
  )
  assert scores.shape == (60, 1300, 2)
  windows = np.zeros((1, 20, 30, 3), np.float32)
  assert segmenter.score_windows(windows, ClassSet(("a", "b"))).shape[1:3] == (
    20,
    30,
  )


def write_pictures(folder):
  """Writes six records with two captions; the last has no picture."""
  with records.RecordWriter(folder, shard_size=4) as writer:
    for i in range(6):
      picture = records.encode_png(BATCH["image"][i])
      writer.write(
        records.Record(
          key=b"%d" % i,
          image=b"no picture" if i == 5 else picture,
          captions=(b"a cat", b"a dog"),
        )
      )


@pytest.fixture
def stored(config, tmp_path):
  """A config that reads the features of six pictures from records."""
  config.image_size = 32
  config.batch_size = config.data.lanes = 2
  config.model.teacher_more_k = (2,)
  source, out = str(tmp_path / "source"), str(tmp_path / "out")
  write_pictures(source)
  report = caching.add_pseudo_masks(source, out, config, features=True)
  assert (report.records, report.unreadable) == (6, 1)
  config.data.train = out
  config.pseudo_masks.mode = "cached"
  return config


@pytest.mark.slow
def test_stored_features_are_those_that_the_eye_sees(stored):
  batches = pipeline.train_batches(stored)
  found = {}
  for _ in range(6):
    batch = next(batches)
    assert "image" not in batch and batch["valid"].all()
    found |= dict(zip(batch["id"], batch["region_features"], strict=True))
  batches.close()
  assert len(found) == 6
  seer = eye.build(stored, load=True)
  root = jax.random.key(stored.seed)
  ids = jnp.arange(4)
  seen = jax.jit(seer.see)(
    seer.frozen, images(), jax.vmap(lambda i: jax.random.fold_in(root, i))(ids)
  )
  for i in range(4):
    np.testing.assert_allclose(found[i], seen.features[i], atol=1e-3)
  assert not found[5].any()  # a picture that cannot be read has no region
  setup = train_step.make_setup(stored, CLASSES)
  state = train_step.init_state(setup)
  region_features.check_eye(stored, state.model_state)
  batch = {
    "id": np.arange(6, dtype=np.uint32),
    "valid": np.ones(6, bool),
    "text": BATCH["text"][:6],
    "region_features": np.stack([found[i] for i in range(6)]),
  }
  take = jax.jit(functools.partial(train_step.train_step, setup))
  _, metrics = take(state, setup.frozen, batch)
  assert np.isfinite(metrics["loss"]) and metrics["loss"] > 0


@pytest.mark.slow
def test_a_plan_reads_no_weights(stored):
  stored.pseudo_masks.weights = "nowhere.npz"
  built = step.build(stored, jax.devices()[:1])
  assert "image" not in built.arguments[2]
  built.function.lower(*built.arguments)
  train_step.init_state(built.setup, published=False)


@pytest.mark.slow
def test_features_that_do_not_fit_the_run_are_refused(stored, tmp_path):
  stored.model.teacher_features = "tokens"
  with pytest.raises(InputError, match=r"model\.teacher_features='tokens\+key"):
    pipeline.train_batches(stored)
  stored.model.teacher_features = "tokens+keys:1"
  state = train_step.init_state(train_step.make_setup(stored)).model_state
  state["teacher"]["tokens"] += 1
  with pytest.raises(InputError, match="other weights"):
    region_features.check_eye(stored, state)
  # Labels alone are no features.
  labels, source = str(tmp_path / "labels"), str(tmp_path / "source")
  caching.add_pseudo_masks(source, labels, stored)
  stored.data.train = labels
  with pytest.raises(InputError, match="holds no features of regions"):
    pipeline.train_batches(stored)
  stored.model.backbone = "conv_tiny"
  with pytest.raises(InputError, match="--add_region_features"):
    caching.add_pseudo_masks(source, str(tmp_path / "x"), stored, features=True)


@pytest.mark.slow
def test_an_exported_eye_sees_what_the_segmenter_sees(config):
  state = train_step.init_state(train_step.make_setup(config))
  # As a checkpoint is read: names of digits become numbers.
  params, model_state = (
    named_arrays.nested(named_arrays.flat(x), int_keys=True)
    for x in (state.params, state.model_state)
  )
  segmenter = SSegSegmenter(params, model_state, config)
  classes = ClassSet(CLASSES)
  wanted = segmenter.scores(np.asarray(BATCH["image"][0]), classes)
  exported = towers.build(params, model_state, config)
  assert not exported.refined
  scores, _ = jax.jit(exported.segment)(
    exported.weights,
    images()[:1].astype(jnp.float32),
    jax.jit(exported.embed_classes)(
      exported.weights, segmenter.tokens(classes)
    ),
    jnp.float32(0),
  )
  np.testing.assert_allclose(scores[0], wanted, atol=1e-4)
