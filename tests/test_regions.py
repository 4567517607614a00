"""What a mask is embedded from: who owns a pixel, pooling, outlines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sseg_jax.models import pooling


def disk(size, y, x, radius):
  grid = np.mgrid[0:size, 0:size] + 0.5
  inside = (grid[0] - y) ** 2 + (grid[1] - x) ** 2 <= radius**2
  return inside.astype(np.float32)


def box(size, y, x, half):
  grid = np.mgrid[0:size, 0:size] + 0.5
  inside = np.maximum(abs(grid[0] - y), abs(grid[1] - x)) <= half
  return inside.astype(np.float32)


def test_owned_pixels_are_a_partition(rng):
  logits = jnp.asarray(rng.normal(size=(2, 5, 6, 4)).astype(np.float32))
  owned = np.asarray(pooling.owned_pixels(logits))
  np.testing.assert_allclose(owned.sum(1), 1)
  assert set(np.unique(owned)) <= {0, 0.25, 0.5, 0.75, 1}


def test_ownership_is_judged_between_the_cells():
  # At the four quarter points between 0 and 3 the first line has 0, 0.75, 2.25
  # and 3: over 1 at two of them.
  logits = jnp.asarray([[[[0.0, 3.0]], [[1.0, 1.0]]]])
  owned = pooling.owned_pixels(logits)
  np.testing.assert_allclose(owned[0, :, 0], [[0, 1], [1, 0]])
  owned = pooling.owned_pixels(logits.at[0, 1].set(0.5))
  np.testing.assert_allclose(owned[0, :, 0], [[0.5, 1], [0.5, 0]])


def test_a_mask_shows_where_no_smaller_one_has_the_pixel():
  logits = np.full((1, 3, 4, 4), -1.0, np.float32)
  logits[0, 0] = 2.0  # everything
  logits[0, 1, :2, :2] = 1.0  # a corner of it, weaker yet in front
  share = np.asarray(pooling.visible(jnp.asarray(logits), (4, 4)))
  np.testing.assert_allclose(share.sum(1), 1)
  assert share[0, 1, 0, 0] == 1 and share[0, 0, 0, 0] == 0
  assert share[0, 0, 3, 3] == 1 and share[0, 1, 3, 3] == 0
  assert (share[0, 2] == 0).all()


@pytest.mark.parametrize("side", [2, 3, 4, 6, 7, 8, 16])
def test_visible_at_any_resolution(side, rng):
  logits = jnp.asarray(rng.normal(size=(1, 3, 4, 4)).astype(np.float32))
  share = np.asarray(pooling.visible(logits, (side, side)))
  assert share.shape == (1, 3, side, side)
  np.testing.assert_allclose(share.sum(1), 1, rtol=1e-6)


def test_snapped_masks_have_no_rims():
  labels = np.zeros((1, 16, 16), np.int32)
  labels[:, 4:9, 3:8] = 1
  # The third query is nowhere strong; the ground's is below it on the thing.
  logits = np.zeros((1, 3, 4, 4), np.float32)
  logits[:, 0], logits[:, 1], logits[:, 2] = 4.0, -4.0, -1.0
  logits[:, 1, 1:2, 1:2], logits[:, 0, 1:2, 1:2] = 9.0, -5.0
  snapped = pooling.snap(jnp.asarray(logits), jnp.asarray(labels), 2)
  shares = np.asarray(pooling.visible(snapped, (16, 16)))[0]
  np.testing.assert_array_equal(shares[1], labels[0] == 1)
  np.testing.assert_array_equal(shares[0], labels[0] == 0)
  assert not shares[2].any()


@pytest.mark.slow
def test_outline_knows_neither_place_nor_size_but_in_the_last_number():
  small, large = disk(96, 20.0, 30.0, 8.0), disk(96, 60.0, 52.0, 20.0)
  square = box(96, 40.0, 40.0, 14.0)
  masks = jnp.asarray(np.stack([small, large, square])[None])
  one, same, other = np.asarray(pooling.outline(masks))[0]
  assert len(one) == pooling.OUTLINE_SIZE
  assert np.abs(one - same)[:-1].max() < 0.1
  assert np.abs(one - other)[:-1].max() > 0.3
  assert one[-1] == pytest.approx(np.log1p(8.0), abs=0.03)
  assert same[-1] == pytest.approx(np.log1p(20.0), abs=0.03)
  empty = pooling.outline(jnp.zeros((1, 1, 8, 8)))
  np.testing.assert_allclose(empty, 0, atol=1e-6)


@pytest.mark.slow
def test_outline_is_the_moments_it_says(rng):
  mask = (rng.random((9, 7)) < 0.4).astype(np.float64)
  y, x = np.nonzero(mask)
  radius = np.sqrt(len(y) / np.pi)
  places = [(v - v.mean()) / radius for v in (y, x)]
  waves = [0, *range(1, 7), *range(1, 7)]

  def functions(place):  # [13, cells]
    angles = np.pi / 2 * np.arange(1, 7)[:, None] * place
    return np.concatenate([place[None] * 0 + 1, np.cos(angles), np.sin(angles)])

  moments = functions(places[0]) @ functions(places[1]).T / len(y)
  moments *= 1 + np.hypot(*np.meshgrid(waves, waves))
  expected = [*moments.ravel(), np.log1p(radius)]
  got = pooling.outline(jnp.asarray(mask[None, None], jnp.float32))
  np.testing.assert_allclose(got[0, 0], expected, atol=1e-4)


def test_place_is_the_centroid_and_the_share_of_the_picture():
  masks = np.zeros((1, 3, 8, 16), np.float32)
  masks[0, 0, 2:4, 8:16] = 1  # rows 2 and 3 of 8, the right half
  masks[0, 1] = 1
  got = np.asarray(pooling.place(jnp.asarray(masks)))[0]
  assert got.shape == (3, pooling.PLACE_SIZE)
  waves = np.pi * np.arange(1, 5)
  for row, (y, x, share) in enumerate([(3 / 8, 0.75, 1 / 8), (0.5, 0.5, 1.0)]):
    parts = [f(v * waves) for v in (y, x) for f in (np.cos, np.sin)]
    expected = np.concatenate([*parts, [2 * np.sqrt(share)]])
    np.testing.assert_allclose(got[row], expected, atol=1e-5)
  assert not got[2].any()


@pytest.mark.parametrize("describe", [pooling.outline, pooling.place])
def test_an_empty_mask_has_a_finite_gradient(describe):
  masks = jnp.asarray(
    np.stack([np.zeros((8, 8)), disk(8, 4, 4, 2)])[None], jnp.float32
  )
  slope = jax.jit(jax.grad(lambda m: describe(m).sum()))(masks)
  assert np.isfinite(slope).all() and np.abs(slope[0, 1]).max() > 0


def test_pooling_averages_under_the_mask_at_every_level(rng):
  features = rng.normal(size=(1, 4, 4, 3)).astype(np.float32)
  masks = np.zeros((1, 2, 8, 8), np.float32)
  masks[0, 0, :4, :4] = 1.0  # the first two by two cells of the features
  pooled = pooling.pool_under_masks(jnp.asarray(features), jnp.asarray(masks))
  np.testing.assert_allclose(
    pooled[0, 0], features[0, :2, :2].mean((0, 1)), rtol=1e-4
  )
  np.testing.assert_allclose(pooled[0, 1], 0, atol=1e-6)


@pytest.mark.parametrize("side", [4, 8, 16])
def test_region_shares_at_any_stride(side):
  labels = np.zeros((1, side, side), np.int32)
  labels[:, :, side // 2 :] = 1
  present = jnp.asarray([[True, True, False]])
  shares = pooling.region_shares(jnp.asarray(labels), present, (32, 32))
  assert shares.shape == (1, 3, 8, 8)
  np.testing.assert_allclose(shares[0, 0, :, :4], 1)
  np.testing.assert_allclose(shares[0, 1, :, 4:], 1)
  np.testing.assert_allclose(shares.sum(1), 1)


def test_a_picture_without_masks_is_one_region():
  labels = jnp.zeros((3, 8, 8), jnp.int32).at[2].set(1)
  present = jnp.asarray([[False, False], [True, False], [True, False]])
  shares = pooling.region_shares(labels, present, (32, 32))
  np.testing.assert_allclose(shares[:2, 0], 1)
  np.testing.assert_allclose(shares[:2, 1], 0)
  np.testing.assert_allclose(shares[2], 0)  # its only label does not count


def test_snap_gives_regions_their_mean_probability(rng):
  logits = rng.normal(size=(1, 2, 4, 4)).astype(np.float32)
  labels = np.zeros((1, 4, 4), np.int32)
  labels[0, 2:] = 1
  labels[0, 0, 0] = -1  # belongs to none
  snapped = np.asarray(
    pooling.snap(jnp.asarray(logits), jnp.asarray(labels), 3)
  )
  probability = 1 / (1 + np.exp(-logits))
  got = 1 / (1 + np.exp(-np.asarray(snapped)))
  for region in (0, 1):
    inside = labels[0] == region
    for query in range(2):
      expected = probability[0, query][inside].mean()
      np.testing.assert_allclose(got[0, query][inside], expected, rtol=1e-4)
  assert (got[0, :, 0, 0] < 1e-5).all() and np.isfinite(snapped).all()


@pytest.mark.parametrize("side", [2, 8])
def test_snap_takes_the_finer_resolution(side):
  labels = np.zeros((1, side, side), np.int32)
  labels[:, :, side // 2 :] = 1
  logits = np.full((1, 1, 4, 4), -3.0, np.float32)
  logits[..., 2:] = 3.0
  snapped = pooling.snap(jnp.asarray(logits), jnp.asarray(labels), 2)
  assert snapped.shape == (1, 1, max(side, 4), max(side, 4))
  right = np.asarray(snapped)[0, 0] > 0
  np.testing.assert_array_equal(right[:, right.shape[1] // 2 :], True)
  np.testing.assert_array_equal(right[:, : right.shape[1] // 2], False)
