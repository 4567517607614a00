"""K-means against scikit-learn: the same steps, and as good a start."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sseg_jax.pseudo_masks import kmeans

cluster = pytest.importorskip("sklearn.cluster")

K = 8


def _keys(b):
  return jax.random.split(jax.random.key(0), b)


def _images(b: int, side: int = 14):
  """Returns colour and position of smooth random pictures, [b, side², 5]."""
  rng = np.random.default_rng(0)
  y, x = np.mgrid[:side, :side] / side
  waves = rng.normal(size=(b, 3, 4, 2)) * 4
  phase = np.einsum("bcwa,ahv->bcwhv", waves, np.stack([y, x]))
  colour = np.sin(phase + rng.uniform(0, 6, (b, 3, 4, 1, 1))).mean(2) / 2 + 0.5
  position = np.broadcast_to(np.stack([y, x]) / 2, (b, 2, side, side))
  cells = np.concatenate([colour, position], 1).reshape(b, 5, -1)
  return cells.swapaxes(1, 2).astype(np.float32)


def _scikit(points, **kwargs):
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about threads and convergence
    return cluster.KMeans(K, n_init=1, tol=0, algorithm="lloyd", **kwargs).fit(
      points
    )


def test_the_same_labels_from_the_same_start():
  points = _images(8)
  start = points[:, :: len(points[0]) // K][:, :K]
  mine = kmeans.kmeans(
    jnp.asarray(points),
    _keys(8),
    k=K,
    iterations=10,
    initial_centers=jnp.asarray(start),
  )
  for i in range(8):
    theirs = _scikit(points[i], init=start[i], max_iter=10)
    np.testing.assert_array_equal(mine.labels[i], theirs.labels_)
    np.testing.assert_allclose(mine.inertia[i], theirs.inertia_, rtol=1e-4)
    np.testing.assert_allclose(
      mine.centers[i], theirs.cluster_centers_, atol=1e-4
    )


def test_kmeans_plus_plus_starts_as_well():
  points = _images(64)
  run = functools.partial(kmeans.kmeans, k=K, iterations=10, init="kmeans++")
  mine = run(jnp.asarray(points), _keys(64)).inertia
  theirs = [
    _scikit(p, max_iter=10, random_state=i).inertia_
    for i, p in enumerate(points)
  ]
  # A start drawn plainly, without the best of several, is worse by more.
  assert np.mean(mine) < 1.02 * np.mean(theirs)


@pytest.mark.slow
def test_kmeans_plus_plus_on_real_pictures(shared):
  from PIL import Image

  from sseg_jax.pseudo_masks import pixels

  files = sorted((shared / "data/coco_captions/images").glob("*.jpg"))[:200]
  pictures = []
  for file in files:
    with Image.open(file) as image:
      pictures.append(np.asarray(image.convert("RGB").resize((224, 224))))
  cells = pixels.features(
    jnp.asarray(np.stack(pictures)), stride=8, position_weight=0.5
  )
  points = np.asarray(cells).reshape(len(files), 28 * 28, 5)
  mine = kmeans.kmeans(jnp.asarray(points), _keys(len(files)), k=K).inertia
  theirs = [
    _scikit(p, max_iter=10, random_state=i).inertia_
    for i, p in enumerate(points)
  ]
  print(f"inertia: {np.mean(mine):.4f} here, {np.mean(theirs):.4f} there")
  # Means over 200 pictures; two seeds of either differ by about half a percent.
  assert len(files) == 200 and np.mean(mine) < 1.01 * np.mean(theirs)
