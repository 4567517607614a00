"""What is done to tokens before K-means and to masks after it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_vit
from small_vit import config_of, keys, pictures

from sseg_jax.pseudo_masks import generator, refine


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  return small_vit.write(tmp_path_factory.mktemp("weights") / "vit.npz")


def test_smoothing_is_the_weighted_mean_it_says(rng):
  cells = rng.normal(size=(1, 3, 4, 5)).astype(np.float32)
  ours = refine.smooth(jnp.asarray(cells), radius=1.5, temperature=0.2)
  points = cells.reshape(12, 5)
  points = points / np.linalg.norm(points, axis=1, keepdims=True)
  place = np.stack(np.mgrid[:3, :4], -1).reshape(12, 2)
  apart = ((place[:, None] - place) ** 2).sum(-1)
  weights = np.exp(points @ points.T / 0.2 - apart / (2 * 1.5**2))
  mean = weights / weights.sum(1, keepdims=True) @ points
  mean = mean / np.linalg.norm(mean, axis=1, keepdims=True)
  np.testing.assert_allclose(ours.reshape(12, 5), mean, atol=1e-5)


def test_smoothing_takes_out_noise_and_leaves_edges(rng):
  clean = np.zeros((1, 8, 8, 2), np.float32)
  clean[:, :, :4, 0], clean[:, :, 4:, 1] = 1, 1
  noisy = clean + rng.normal(0, 0.2, clean.shape).astype(np.float32)
  smoothed = refine.smooth(jnp.asarray(noisy), radius=3.0, temperature=0.05)
  assert np.abs(smoothed - clean).mean() < 0.5 * np.abs(noisy - clean).mean()
  assert (np.argmax(smoothed, -1) == np.argmax(clean, -1)).all()


def test_upsampling_interpolates():
  values = jnp.asarray([[[[0.0], [1.0]]]])
  finer = refine.upsample(values, 2)
  np.testing.assert_allclose(finer[0, :, :, 0], [[0, 0.25, 0.75, 1]] * 2)


def test_following_colours_is_the_weighted_mean_it_says(rng):
  h, w, k = 5, 6, 2
  shares = rng.random((h, w, k), np.float32)
  colours = rng.random((h, w, 3), np.float32)
  steps = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]
  places = [(d * y, d * x) for d in (1, 2, 4) for y, x in steps]

  def around(values, y, x):  # edges are repeated
    rows = [min(max(y + dy, 0), h - 1) for dy, _ in places]
    columns = [min(max(x + dx, 0), w - 1) for _, dx in places]
    return values[rows, columns]  # [24, …]

  expected = shares
  for _ in range(3):
    moved = np.empty_like(shares)
    for y, x in np.ndindex(h, w):
      near = around(colours, y, x)
      contrast = np.abs(near - colours[y, x]) / (near.std(0) + 1e-3) / 0.3
      weights = np.exp(-contrast.mean(-1))
      moved[y, x] = weights / weights.sum() @ around(expected, y, x)
    expected = moved
  got = refine.follow_colours(
    jnp.asarray(shares)[None], jnp.asarray(colours)[None], 3
  )
  np.testing.assert_allclose(got[0], expected, rtol=1e-4)


def test_masks_follow_colours(rng):
  # The picture's edge is at column 9, the mask's at column 8.
  colours = np.zeros((1, 16, 16, 3), np.float32)
  colours[:, :, 9:] = 1
  colours += rng.normal(0, 0.01, colours.shape).astype(np.float32)
  shares = np.zeros((1, 16, 16, 2), np.float32)
  shares[:, :, :8, 0], shares[:, :, 8:, 1] = 1, 1
  moved = refine.follow_colours(jnp.asarray(shares), jnp.asarray(colours), 5)
  np.testing.assert_allclose(moved.sum(-1), 1, atol=1e-5)
  found = np.argmax(moved, -1)[0]
  assert (found[:, :9] == 0).all() and (found[:, 9:] == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize(
  "fields",
  [
    {"restarts": 3},
    {"smooth_radius": 2.0},
    {"upsample": 2},
    {"upsample": 2, "metric": "euclidean"},
    {"colour_steps": 2},
    {"upsample": 4, "colour_steps": 3, "smooth_radius": 2.0, "restarts": 2},
  ],
  ids=str,
)
def test_switches_of_the_generator(weights, fields):
  fields = {"metric": "cosine"} | fields
  masks = generator.build(config_of(weights, **fields))
  generate = jax.jit(masks.generate)
  labels, valid = generate(masks.frozen, pictures(), keys())
  factor = fields.get("upsample", 1)
  assert labels.shape == (2, 4 * factor, 6 * factor)
  for found, exists in zip(labels, valid, strict=True):
    assert set(np.unique(found)) == set(np.flatnonzero(exists))
  second, _ = generate(masks.frozen, pictures()[1:], keys()[1:])
  np.testing.assert_array_equal(labels[1:], second)


@pytest.mark.slow
def test_finer_labels_without_colours_agree_at_the_cells(weights):
  plain = generator.build(config_of(weights, metric="cosine"))
  finer = generator.build(config_of(weights, metric="cosine", upsample=3))
  coarse, _ = plain.generate(plain.frozen, pictures(), keys())
  fine, _ = finer.generate(finer.frozen, pictures(), keys())
  # The middle of three is the cell's own center.
  np.testing.assert_array_equal(fine[:, 1::3, 1::3], coarse)
