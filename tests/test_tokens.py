"""Pseudo-masks from a ViT's tokens, with small random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_vit
from flax import nnx
from small_vit import config_of, keys, pictures

from sseg_jax.errors import InputError
from sseg_jax.pseudo_masks import generator, kmeans, tokens


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  return small_vit.write(tmp_path_factory.mktemp("weights") / "vit.npz")


@pytest.mark.slow
def test_labels_are_the_clusters_of_the_last_tokens(weights):
  masks = generator.build(config_of(weights, metric="cosine"))
  assert (masks.k, masks.stride) == (3, 4)
  image = pictures()
  labels, valid = jax.jit(masks.generate)(masks.frozen, image, keys())
  assert labels.shape == (2, 4, 6) and labels.dtype == jnp.int32
  assert valid.shape == (2, 3)
  cells = masks.features(masks.frozen, image).reshape(2, 24, 64)
  again = kmeans.kmeans(cells, keys(), k=3, metric="cosine")
  np.testing.assert_array_equal(labels.reshape(2, 24), again.labels)


@pytest.mark.slow
def test_an_example_does_not_depend_on_its_batch(weights):
  masks = generator.build(config_of(weights))
  both, _ = masks.generate(masks.frozen, pictures(), keys())
  second, _ = masks.generate(masks.frozen, pictures()[1:], keys()[1:])
  np.testing.assert_array_equal(both[1:], second)


@pytest.mark.slow
def test_parameters_are_an_argument(weights):
  masks = generator.build(config_of(weights))
  other = jax.tree.map(lambda x: x[..., ::-1] * 2, masks.frozen)
  compiled = jax.jit(masks.generate)
  first, _ = compiled(masks.frozen, pictures(), keys())
  second, _ = compiled(other, pictures(), keys())
  assert (first != second).any()
  # The program holds none of them.
  constants = jax.make_jaxpr(masks.generate)(
    masks.frozen, pictures(), keys()
  ).consts
  assert sum(np.size(c) for c in constants) < 1000


@pytest.mark.slow
@pytest.mark.parametrize(
  "feature, width",
  [("tokens", 64), ("keys", 64), ("values:0", 64), ("tokens+keys:1", 128)],
)
def test_features(weights, feature, width):
  masks = generator.build(config_of(weights, feature=feature))
  found = masks.features(masks.frozen, pictures())
  assert found.shape == (2, 4, 6, width)
  if "+" in feature:
    lengths = jnp.linalg.norm(found.reshape(-1, 2, 64), axis=-1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)


@pytest.mark.parametrize("feature", ["pixels", "tokens:3", "keys:x", "keys+"])
def test_features_that_do_not_exist(weights, feature):
  with pytest.raises(InputError, match="pseudo_masks.feature=.*0 to 2"):
    generator.build(config_of(weights, feature=feature))


def test_sides_that_the_patch_does_not_divide(weights):
  masks = generator.build(config_of(weights))
  with pytest.raises(InputError, match="18x16 pixels.*patch of 4"):
    masks.generate(masks.frozen, pictures(h=18, w=16), keys())


def test_a_rule_of_positions_that_does_not_exist(weights):
  with pytest.raises(InputError, match="position_rule='cubic'"):
    generator.build(config_of(weights, position_rule="cubic"))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "rule"),
  [("dino", "dino"), ("mae", "size"), ("imagenet_vit", "size")],
)
def test_a_file_has_the_rule_of_the_usual_network(
  weights, tiny_config, name, rule
):
  tiny_config.pseudo_masks.update(generator=name, weights=weights)
  for abstract in (False, True):
    made = generator.build(tiny_config, abstract=abstract)
    assert nnx.merge(made.graphdef, made.frozen).position_rule == rule
  tiny_config.pseudo_masks.position_rule = "antialias"
  made = generator.build(tiny_config)
  assert nnx.merge(made.graphdef, made.frozen).position_rule == "antialias"


def test_heads_of_a_file(weights, tiny_config):
  tiny_config.pseudo_masks.update(generator="dino", weights=weights)
  usual = generator.build(tiny_config)
  width = nnx.merge(usual.graphdef, usual.frozen).tokens.shape[-1]
  tiny_config.pseudo_masks.num_heads = width // 16
  for abstract in (False, True):
    made = generator.build(tiny_config, abstract=abstract)
    assert made.graphdef != usual.graphdef


@pytest.mark.parametrize(
  ("field", "value"), [("smooth_temperature", 0.0), ("smooth_radius", -4.0)]
)
def test_smoothing_that_cannot_be(weights, tiny_config, field, value):
  tiny_config.pseudo_masks.update({"generator": "dino", "weights": weights})
  tiny_config.pseudo_masks[field] = value
  with pytest.raises(InputError, match=f"{field}={value}"):
    generator.build(tiny_config)


def test_a_type_that_does_not_exist(weights, tiny_config):
  tiny_config.dtype = "float33"
  with pytest.raises(InputError, match="dtype='float33' does not exist"):
    generator.build(tiny_config)


def test_every_network_has_usual_weights():
  from sseg_jax.models.published import PUBLISHED

  assert set(tokens.USUAL_WEIGHTS.values()) <= PUBLISHED.keys()
  assert tokens.USUAL_WEIGHTS.keys() <= generator.GENERATORS.keys()


@pytest.mark.usefixtures("signs_of_gradients")
@pytest.mark.slow
def test_a_training_step_with_a_frozen_network(weights, tiny_config, rng):
  from sseg_jax import train_step

  tiny_config.pseudo_masks.update(generator="dino", weights=weights)
  setup = train_step.make_setup(tiny_config)
  state = train_step.init_state(setup)
  b = tiny_config.batch_size
  batch = {
    "id": np.arange(b, dtype=np.uint32),
    "valid": np.ones(b, bool),
    "image": rng.integers(0, 255, (b, 32, 32, 3), np.uint8),
    "text": rng.integers(1, 99, (b, 16)).astype(np.int32),
  }
  step = jax.jit(lambda s, f, b: train_step.train_step(setup, s, f, b))
  state, metrics = step(state, setup.frozen, batch)
  assert np.isfinite(float(metrics["loss"])) and not metrics["bad"]


@pytest.mark.slow
def test_a_network_sees_the_picture_at_its_scale(weights):
  plain = generator.build(config_of(weights))
  image = pictures()[:, :12, :18]
  doubled = jax.image.resize(
    image.astype(jnp.float32), (2, 24, 36, 3), "linear"
  )
  twice = generator.build(config_of(weights, scale=2.0))
  assert twice.stride == plain.stride / 2
  labels, valid = twice.generate(twice.frozen, image, keys())
  expected, _ = plain.generate(plain.frozen, doubled, keys())
  assert labels.shape == (2, 6, 9) and valid.shape == (2, 3)
  np.testing.assert_array_equal(labels, expected)


@pytest.mark.slow
def test_a_scaled_picture_has_whole_patches(weights):
  masks = generator.build(config_of(weights, scale=0.9))
  assert masks.features(masks.frozen, pictures()).shape == (2, 4, 5, 64)


def test_a_scale_of_nothing(weights):
  with pytest.raises(InputError, match="pseudo_masks.scale=0.0"):
    generator.build(config_of(weights, scale=0.0))
