"""The registry of generators, and pixel K-means from pictures to label maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from sseg_jax import default_config
from sseg_jax.errors import InputError
from sseg_jax.pseudo_masks import generator, kmeans, pixels


def _config(**fields):
  config = default_config.get_config()
  config.pseudo_masks.update(fields)
  return config


def _keys(b):
  return jax.random.split(jax.random.key(0), b)


def _quarters(side=16):
  """Returns a picture whose four quarters have a colour each."""
  colours = np.array(
    [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8
  )
  return jnp.asarray(colours.repeat(side // 2, 0).repeat(side // 2, 1))[None]


def test_pixels_finds_the_coloured_quarters():
  masks = generator.build(_config(k=4, stride=4))
  assert (masks.k, masks.stride, masks.frozen) == (4, 4, {})
  generate = jax.jit(masks.generate)
  for image in (_quarters(), _quarters().astype(jnp.float32)):
    labels, valid = generate(masks.frozen, image, _keys(1))
    assert labels.shape == (1, 4, 4) and labels.dtype == jnp.int32
    assert valid.all()
    quarters = labels[0, ::2, ::2]
    assert len(set(quarters.ravel().tolist())) == 4
    whole = np.asarray(quarters).repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(labels[0], whole)


def test_pixels_of_one_colour_without_position_are_one_valid_mask():
  masks = generator.build(_config(k=3, stride=4, position_weight=0.0))
  image = jnp.full((2, 8, 16, 3), 77, jnp.uint8)
  labels, valid = masks.generate(masks.frozen, image, _keys(2))
  assert labels.shape == (2, 2, 4)
  np.testing.assert_array_equal(valid.sum(1), 1)


def test_features_are_mean_colour_and_weighted_position():
  image = np.zeros((1, 2, 4, 3), np.uint8)
  image[0, 0, 0] = 255  # a fourth of the first cell
  cells = pixels.features(jnp.asarray(image), stride=2, position_weight=0.5)
  np.testing.assert_allclose(
    cells[0, 0],
    [[0.25, 0.25, 0.25, 0.25, 0.125], [0, 0, 0, 0.25, 0.375]],
    rtol=1e-6,
  )


def test_image_that_the_stride_does_not_divide():
  masks = generator.build(_config(stride=8))
  with pytest.raises(InputError, match="12x16 pixels: pseudo_masks.stride=8"):
    masks.generate({}, jnp.zeros((1, 12, 16, 3)), _keys(1))


@pytest.mark.parametrize(
  "field, value, remedy",
  [
    ("generator", "dreams", "pixels"),
    ("metric", "manhattan", "euclidean, cosine"),
    ("init", "random", r"kmeans\+\+, farthest"),
    ("k", 0, "at least 1"),
    ("stride", -1, "at least 1"),
  ],
)
def test_wrong_fields_name_themselves_and_the_remedy(field, value, remedy):
  with pytest.raises(InputError, match=f"pseudo_masks.{field}=.*{remedy}"):
    generator.build(_config(**{field: value}))


def test_median_equals_scipy(rng):
  values = rng.random((2, 9, 7, 3), np.float32)
  ours = pixels.median_3x3(jnp.asarray(values))
  theirs = ndimage.median_filter(values, (1, 3, 3, 1), mode="nearest")
  np.testing.assert_array_equal(ours, theirs)


def test_majority_takes_away_specks_and_keeps_regions():
  labels = np.zeros((1, 8, 8), np.int32)
  labels[:, :, 4:] = 1
  speck = labels.copy()
  speck[0, 2, 1] = 2
  cleaned = pixels.majority_3x3(jnp.asarray(speck), 3)
  np.testing.assert_array_equal(cleaned, labels)


def test_merge_follows_chains_and_keeps_what_is_apart():
  # A chain from 0 to 0.4, and two that only a center of no points lies between.
  centers = jnp.asarray([0.0, 1.0, 0.3, 0.1, 0.4, 0.2, 1.1, 1.2])
  clusters = kmeans.KMeans(
    labels=jnp.asarray([[0, 1, 2, 3, 4, 5, 7]], jnp.int32),
    centers=centers[None, :, None],
    valid=jnp.arange(8)[None] != 6,
    inertia=jnp.zeros(1),
  )
  merged = kmeans.merge(clusters, 0.11)
  assert merged.labels.tolist() == [[0, 1, 0, 0, 0, 0, 7]]
  np.testing.assert_array_equal(np.flatnonzero(merged.valid), [0, 1, 7])
  apart = kmeans.merge(clusters, 0.05)
  assert apart.labels.tolist() == clusters.labels.tolist()
  assert apart.valid.tolist() == clusters.valid.tolist()


def test_medians_and_majorities_are_taken_as_often_as_asked(rng):
  image = jnp.asarray(rng.integers(0, 256, (1, 32, 32, 3), np.uint8))

  def made(**fields):
    fields = {"k": 4, "stride": 2, "position_weight": 0.0} | fields
    masks = generator.build(_config(**fields))
    return masks.generate(masks.frozen, image, _keys(1))[0]

  once = pixels.majority_3x3(made(), 4)
  np.testing.assert_array_equal(made(majority_passes=1), once)
  twice = made(majority_passes=2)
  np.testing.assert_array_equal(twice, pixels.majority_3x3(once, 4))
  assert (twice != once).any()
  colours = pixels.features(image, stride=2, position_weight=0.0)[..., :3]
  for passes in range(3):
    got = pixels.features(
      image, stride=2, position_weight=0.0, median_passes=passes
    )
    np.testing.assert_allclose(got[..., :3], colours, atol=1e-6)
    colours = pixels.median_3x3(colours)


@pytest.mark.slow
def test_merged_masks_are_fewer_and_consistent(tiny_config, rng):
  image = np.full((2, 32, 32, 3), 60.0, np.float32)
  image[:, 8:24, 8:24] = 200.0
  image += rng.normal(0, 8, image.shape).astype(np.float32)
  keys = jax.random.split(jax.random.key(0), 2)
  counts = {}
  for distance in (0.0, 0.3):
    tiny_config.pseudo_masks.merge_distance = distance
    tiny_config.pseudo_masks.majority_passes = 1
    tiny_config.pseudo_masks.position_weight = 0.0
    made = generator.build(tiny_config)
    labels, valid = made.generate({}, jnp.asarray(image), keys)
    for label, exists in zip(
      np.asarray(labels), np.asarray(valid), strict=True
    ):
      assert set(np.unique(label)) == set(np.flatnonzero(exists))
    counts[distance] = int(valid.sum())
  assert counts[0.3] == 4 < counts[0.0]


def test_median_of_bytes_stays_in_bytes(rng):
  values = rng.integers(0, 256, (1, 7, 5, 3)).astype(np.uint8)
  ours = pixels.median_3x3(jnp.asarray(values))
  assert ours.dtype == jnp.uint8
  theirs = ndimage.median_filter(values, (1, 3, 3, 1), mode="nearest")
  np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_centers_from_a_ninth_of_the_cells_find_the_same_regions():
  image = _quarters(24)
  every = _config(k=4, stride=1, init="farthest", position_weight=0.1)
  some = _config(k=4, stride=1, init="farthest", position_weight=0.1)
  some.pseudo_masks.fit_every = 3
  labels, valid = generator.build(some).generate({}, image, _keys(1))
  whole, _ = generator.build(every).generate({}, image, _keys(1))
  assert valid.all() and labels.shape == (1, 24, 24)
  pairs = set(zip(labels.ravel().tolist(), whole.ravel().tolist(), strict=True))
  assert len(pairs) == 4  # the same regions, whatever their numbers
  some.pseudo_masks.fit_every = 60
  with pytest.raises(InputError, match="fit_every=60: too many for 24 x 24"):
    generator.build(some).generate({}, image, _keys(1))
  some.pseudo_masks.fit_every = 0
  with pytest.raises(InputError, match="fit_every=0: must be at least 1"):
    generator.build(some)


def test_each_device_makes_the_masks_of_its_pictures(rng):
  """On one device here; tests/test_sharded.py has four."""
  made = generator.build(_config())
  image = jnp.asarray(rng.integers(256, size=(4, 16, 16, 3)), jnp.uint8)
  expected = made.generate({}, image, _keys(4))
  mesh = jax.make_mesh(
    (1, 1), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2
  )
  split = generator.Sharded(made, mesh)
  assert (split.k, split.stride) == (made.k, made.stride)
  found = jax.jit(split.generate)(split.frozen, image, _keys(4))
  jax.tree.map(np.testing.assert_array_equal, found, expected)
