"""K-means without loops or random keys, for files that other runtimes read.

The same clustering as `kmeans.kmeans`, for a batch whose size need not be known
when the program is traced. Loops over clusters and iterations are written out,
because converters to ONNX do not take loops over a batch.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sseg_jax.models.layers import unit
from sseg_jax.pseudo_masks.kmeans import KMeans, matmul


def kmeans(
  points: Float[Array, "b p d"],
  keys: Array | None,
  *,
  k: int,
  iterations: int = 10,
  metric: str = "euclidean",
  init: str = "kmeans++",
  restarts: int = 1,
  folded: int | None = None,
) -> KMeans:
  """Clusters as `kmeans.kmeans` does if every key is `jax.random.key(0)`.

  Takes its arguments, but `keys` are not read: the numbers that "kmeans++"
  draws become constants of the program.

  Args:
    points: of each picture.
    keys: not read.
    k: clusters a picture.
    iterations: of Lloyd's algorithm.
    metric: "euclidean" or "cosine".
    init: "kmeans++" or "farthest".
    restarts: of which the one of least inertia is kept.
    folded: a number that is folded into the key first (`jax.random.fold_in`).
  """
  del keys
  points = points.astype(jnp.float32)
  if metric == "cosine":
    points = unit(points)
    origin = jnp.zeros((1, 1, points.shape[2]))
  else:
    origin = points.mean(1, keepdims=True)
    points = points - origin
  square = (points * points).sum(-1)  # [b, p]
  found = []
  for restart in range(restarts):
    if init == "kmeans++":
      folds = [n for n in (folded, restart or None) if n is not None]
      centers = _plus_plus(points, square, k, folds)
    else:
      centers = _farthest(points, square, k)
    for _ in range(iterations):
      centers = _moved(points, square, centers, metric)
    found.append(_clusters(points, square, centers))
  best = functools.reduce(_better, found)
  return best._replace(centers=best.centers + origin)


def _clusters(points, square, centers) -> KMeans:
  """Returns what the centers give, as `kmeans._one` does at its end."""
  labels = jnp.argmin(_distances(points, square, centers), -1)
  members = labels[..., None] == jnp.arange(centers.shape[1])[None, None]
  own = matmul("bpk,bkd->bpd", members.astype(jnp.float32), centers)
  offset = points - own
  return KMeans(
    labels.astype(jnp.int32),
    centers,
    members.any(1),
    (offset * offset).sum((1, 2)),
  )


def _better(first: KMeans, second: KMeans) -> KMeans:
  """Returns, of each picture, the clustering of less inertia."""
  wins = second.inertia < first.inertia

  def chosen(one, two):
    return jnp.where(wins.reshape(-1, *[1] * (one.ndim - 1)), two, one)

  return KMeans(*map(chosen, first, second))


def _moved(points, square, centers, metric):
  """One iteration of Lloyd's algorithm, as `kmeans` has it."""
  k = centers.shape[1]
  distance = _distances(points, square, centers)  # [b, p, k]
  nearest = jnp.argmin(distance, -1)
  members = (nearest[..., None] == jnp.arange(k)[None, None]).astype(
    jnp.float32
  )
  count = members.sum(1)  # [b, k]
  means = matmul("bpk,bpd->bkd", members, points)
  means = means / jnp.maximum(count, 1)[..., None]
  if metric == "cosine":
    means = unit(means)
  empty = count == 0
  first = jnp.argmax(empty.astype(jnp.int32), -1)
  restart = empty & (jnp.arange(k)[None] == first[:, None])
  lone = _row(points, jnp.argmax(distance.min(-1), -1))
  means = jnp.where(empty[..., None], centers, means)
  return jnp.where(restart[..., None], lone, means)


def _farthest(points, square, k):
  """As `kmeans._farthest`."""
  mean = points.mean(1, keepdims=True)
  far = jnp.argmax(_distances(points, square, mean)[..., 0], -1)
  centers = [_row(points, far)]
  nearest = _distances(points, square, centers[0])[..., 0]
  for _ in range(1, k):
    center = _row(points, jnp.argmax(nearest, -1))
    distance = _distances(points, square, center)[..., 0]
    centers.append(center)
    nearest = jnp.minimum(nearest, distance)
  return jnp.concatenate(centers, 1)


def _plus_plus(points, square, k, folds: Sequence[int]):
  """As `kmeans._plus_plus`, with the key 0 into which numbers are folded."""
  trials = 2 + int(math.log(k))
  count = points.shape[1]
  with jax.ensure_compile_time_eval():
    key = functools.reduce(jax.random.fold_in, folds, jax.random.key(0))
    first_key, key = jax.random.split(key)
    first = int(jax.random.randint(first_key, (), 0, count))
    draws = np.asarray(jax.random.uniform(key, (k, trials)))
  centers = [points[:, first : first + 1]]
  nearest = _distances(points, square, centers[0])[..., 0]
  for i in range(1, k):
    mass = jnp.cumsum(nearest, -1)  # [b, p]
    wanted = mass[:, -1:] * draws[i][None]  # [b, trials]
    drawn = (mass[:, None] <= wanted[..., None]).sum(-1)
    drawn = jnp.minimum(drawn, count - 1)
    candidates = jnp.take_along_axis(points, drawn[..., None], axis=1)
    distance = _distances(points, square, candidates)
    distance = jnp.minimum(nearest[..., None], distance)  # [b, p, trials]
    best = jnp.argmin(distance.sum(1), -1)
    centers.append(_row(candidates, best))
    nearest = jnp.take_along_axis(distance, best[:, None, None], axis=2)[..., 0]
  return jnp.concatenate(centers, 1)


def _row(
  rows: Float[Array, "b p d"], index: Int[Array, "b"]
) -> Float[Array, "b 1 d"]:
  return jnp.take_along_axis(rows, index[:, None, None], axis=1)


def _distances(points, square, centers):
  """Returns squared distances [b, p, k]."""
  product = matmul("bpd,bkd->bpk", points, centers)
  squares = (centers * centers).sum(-1)[:, None]
  return jnp.maximum(square[..., None] - 2 * product + squares, 0)
