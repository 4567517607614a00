"""Normalised cut: its eigenvectors, and the masks that follow from them."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg

from sseg_jax import default_config
from sseg_jax.pseudo_masks import generator, spectral


def _build(**fields):
  config = default_config.get_config()
  config.pseudo_masks.update(generator="spectral", **fields)
  return generator.build(config)


def _quarters(side=16):
  colours = np.array(
    [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8
  )
  return jnp.asarray(colours.repeat(side // 2, 0).repeat(side // 2, 1))[None]


def test_eigenvectors_span_scipy_s(rng):
  centers = rng.random((5, 3))
  points = centers[rng.integers(0, 5, 200)] + rng.normal(0, 0.03, (200, 3))
  points = points.astype(np.float32)
  ours = np.asarray(spectral.eigenvectors(jnp.asarray(points), 4))
  distance = ((points[:, None] - points) ** 2).sum(-1)
  affinity = np.exp(-distance / (2 * 0.15**2))
  root = affinity.sum(1) ** -0.5
  values, vectors = linalg.eigh(affinity * root[:, None] * root)
  theirs = vectors[:, ::-1][:, :4]
  np.testing.assert_allclose(np.abs(np.diag(theirs.T @ ours)), 1, atol=1e-3)
  assert values[-1] > 0.999


def test_finds_the_coloured_quarters():
  masks = _build(k=4, stride=2)
  assert (masks.k, masks.stride, masks.frozen) == (4, 2, {})
  keys = jax.random.split(jax.random.key(0), 1)
  labels, valid = jax.jit(masks.generate)({}, _quarters(), keys)
  assert labels.shape == (1, 8, 8) and labels.dtype == jnp.int32
  assert valid.all()
  quarters = np.asarray(labels[0, ::4, ::4])
  assert len(set(quarters.ravel().tolist())) == 4
  np.testing.assert_array_equal(labels[0], quarters.repeat(4, 0).repeat(4, 1))


def test_fewer_cells_than_masks():
  masks = _build(k=8, stride=8)
  keys = jax.random.split(jax.random.key(0), 1)
  labels, valid = masks.generate({}, _quarters(), keys)
  assert labels.shape == (1, 2, 2)
  assert int(valid.sum()) == len(np.unique(labels)) <= 4
