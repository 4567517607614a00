"""K-means: its result by property, in any batch, and its dead ends."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sseg_jax.pseudo_masks import kmeans

K = 4
_kmeans = functools.partial(kmeans.kmeans, k=K, iterations=8)


def _keys(b, seed=0):
  return jax.random.split(jax.random.key(seed), b)


def _blobs(b=3, each=12, d=3, seed=0):
  """Returns K well-separated clouds of points and which cloud each is from."""
  rng = np.random.default_rng(seed)
  centers = 10 * np.eye(K, d) + np.arange(K)[:, None]
  cloud = rng.permuted(np.arange(K).repeat(each)[None].repeat(b, 0), axis=1)
  points = centers[cloud] + 0.1 * rng.normal(size=(b, K * each, d))
  return jnp.asarray(points, jnp.float32), cloud


@pytest.mark.parametrize("metric", kmeans.METRICS)
@pytest.mark.parametrize("init", kmeans.INITS)
def test_separate_clouds_are_found(metric, init):
  rng = np.random.default_rng(1)
  points, cloud = _blobs(d=K)
  if metric == "cosine":  # directions alone count
    points = np.eye(K)[cloud] + 0.05 * rng.normal(size=points.shape)
    points = jnp.asarray(points * rng.uniform(0.1, 9, (*cloud.shape, 1)))
  result = _kmeans(points, _keys(3), metric=metric, init=init)
  assert result.valid.all()
  for found, true in zip(np.asarray(result.labels), cloud, strict=True):
    pairs = set(zip(found.tolist(), true.tolist(), strict=True))
    assert len(pairs) == K  # one to one
  if metric == "cosine":
    np.testing.assert_allclose(
      jnp.linalg.norm(result.centers, axis=-1), 1, rtol=1e-5
    )


@pytest.mark.parametrize("init", kmeans.INITS)
def test_labels_centers_and_inertia_agree(init):
  rng = np.random.default_rng(2)
  # Far from the origin: differences of squares would lose the clusters there.
  points = 1000 + rng.uniform(size=(2, 50, 5))
  result = _kmeans(jnp.asarray(points, jnp.float32), _keys(2), init=init)
  distance = ((points[:, :, None] - result.centers[:, None]) ** 2).sum(-1)
  np.testing.assert_array_equal(result.labels, distance.argmin(-1))
  np.testing.assert_allclose(
    result.inertia, distance.min(-1).sum(-1), rtol=1e-3
  )


@pytest.mark.slow
def test_an_example_depends_on_its_points_and_key_alone():
  points = jnp.asarray(np.random.default_rng(3).uniform(size=(5, 40, 6)))
  keys = _keys(5)
  together = _kmeans(points, keys)
  for i in (0, 3):
    alone = _kmeans(points[i][None], keys[i][None])
    jax.tree.map(
      lambda x, y, i=i: np.testing.assert_array_equal(x[0], y[i]),
      alone,
      together,
    )


def test_kmeans_plus_plus_depends_on_the_key_and_farthest_does_not():
  points = jnp.asarray(np.random.default_rng(4).uniform(size=(4, 60, 2)))
  changed = {}
  for init in kmeans.INITS:
    one, other = (_kmeans(points, _keys(4, seed), init=init) for seed in (0, 1))
    changed[init] = bool((one.labels != other.labels).any())
  assert changed == {"kmeans++": True, "farthest": False}


@pytest.mark.slow
def test_fewer_distinct_points_than_clusters_leave_invalid_clusters():
  rng = np.random.default_rng(5)
  values = rng.uniform(size=(3, 3)).astype(np.float32)
  points = values[rng.integers(0, 3, (2, 30))]
  points[1] = values[0]  # a picture of one colour
  for init in kmeans.INITS:
    for metric in kmeans.METRICS:
      result = _kmeans(jnp.asarray(points), _keys(2), init=init, metric=metric)
      np.testing.assert_array_equal(result.valid.sum(1), [3, 1])
      used = [set(row) for row in result.labels.tolist()]
      valid = [set(np.flatnonzero(row).tolist()) for row in result.valid]
      assert used == valid
      np.testing.assert_allclose(result.inertia, 0, atol=1e-8)


def test_an_empty_cluster_restarts_at_the_farthest_point():
  points = jnp.array([[[0.0], [1.0], [2.0], [30.0], [31.0]]])
  start = jnp.array([[[1.0], [500.0]]])  # nothing is nearest to the second
  result = kmeans.kmeans(
    points, _keys(1), k=2, iterations=4, initial_centers=start
  )
  np.testing.assert_array_equal(result.labels, [[0, 0, 0, 1, 1]])
  np.testing.assert_allclose(result.centers, [[[1.0], [30.5]]])


def test_points_of_zeros_have_a_finite_cosine():
  result = _kmeans(jnp.zeros((1, 6, 3)), _keys(1), metric="cosine")
  assert np.isfinite(result.centers).all() and result.valid.sum() == 1


@pytest.mark.parametrize("field", ["metric", "init"])
def test_unknown_names_are_errors(field):
  with pytest.raises(ValueError, match=f"{field}='other'"):
    _kmeans(jnp.zeros((1, 6, 3)), _keys(1), **{field: "other"})


@pytest.mark.slow
def test_restarts_keep_the_best(rng):
  points = jnp.asarray(rng.random((3, 60, 2), np.float32))
  keys = jax.random.split(jax.random.key(3), 3)
  run = functools.partial(kmeans.kmeans, points, k=6, iterations=3)
  one, best = run(keys), run(keys, restarts=5)
  assert (best.inertia <= one.inertia).all()
  assert (best.inertia < one.inertia).any()
  runs = [one.inertia]
  for i in range(1, 5):
    folded = jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys)
    runs.append(run(folded).inertia)
  np.testing.assert_allclose(best.inertia, np.min(runs, 0), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [1, 2])
def test_chunks_that_fit_a_cache_give_what_the_batch_gives(
  rng, monkeypatch, restarts
):
  points = jnp.asarray(rng.normal(size=(6, 40, 5)), jnp.float32)
  keys = jax.random.split(jax.random.key(0), 6)
  found = []
  for examples in (6, 2, 1):
    monkeypatch.setattr(kmeans, "_CACHE", examples * 40 * 5 * 4)
    # Not its own jit, which would not look at _CACHE again.
    run = jax.jit(
      functools.partial(
        kmeans.kmeans.__wrapped__, k=4, iterations=20, restarts=restarts
      )
    )
    assert ("while" in str(jax.make_jaxpr(run)(points, keys))) == (examples < 6)
    found.append(run(points, keys))
  for chunked in found[1:]:
    np.testing.assert_array_equal(found[0].labels, chunked.labels)
    np.testing.assert_allclose(found[0].inertia, chunked.inertia, rtol=1e-5)


def test_assign_takes_the_nearest_valid_center():
  found = kmeans.KMeans(
    labels=jnp.zeros((1, 2), jnp.int32),
    centers=jnp.asarray([[[0.0, 0.0], [1.0, 0.0], [0.4, 0.0]]]),
    valid=jnp.asarray([[True, True, False]]),
    inertia=jnp.zeros(1),
  )
  points = jnp.asarray([[[0.1, 5.0], [0.4, 0.0], [0.45, -1.0]]])
  got = kmeans.assign(found, points)
  assert got.labels.tolist() == [[0, 0, 0]]  # the third center has no points
  assert got.valid.tolist() == [[True, False, False]]
