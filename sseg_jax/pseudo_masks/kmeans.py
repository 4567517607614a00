"""K-means on the accelerator, separately for each example of a batch."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from sseg_jax.models.layers import unit

METRICS = ("euclidean", "cosine")
INITS = ("kmeans++", "farthest")
_CACHE = 2**21  # bytes of points that a core's second-level cache holds


class KMeans(NamedTuple):
  """A clustering per example."""

  labels: Int[Array, "b p"]  # nearest center of each point
  centers: Float[Array, "b k d"]
  valid: Bool[Array, "b k"]  # False: no point is nearest to this center
  inertia: Float[Array, "b"]  # sum of squared distances to the nearest center


@functools.partial(
  jax.jit, static_argnames=("k", "iterations", "metric", "init", "restarts")
)
def kmeans(
  points: Float[Array, "b p d"],
  keys: Key[Array, "b"],
  *,
  k: int,
  iterations: int = 10,
  metric: str = "euclidean",
  init: str = "kmeans++",
  restarts: int = 1,
  initial_centers: Float[Array, "b k d"] | None = None,
) -> KMeans:
  """Clusters each example's points by Lloyd's algorithm, in float32.

  An example's result depends only on its points and its key. "cosine" is
  spherical K-means: points and centers have unit length, and squared distances,
  hence the inertia, are twice one minus the cosine. "kmeans++" is the greedy
  form (best of 2 + log k draws, as scikit-learn); "farthest" starts at the
  point farthest from the mean and needs no randomness. `initial_centers`
  overrides both. Of several `restarts`, which differ by their keys, the one of
  least inertia is kept.

  An empty cluster moves to the point that is farthest from its center, one
  cluster per iteration. A cluster that is empty at the end (fewer distinct
  points than k) is not valid.
  """
  if metric not in METRICS:
    raise ValueError(f"metric={metric!r}; use one of {METRICS}")
  if init not in INITS:
    raise ValueError(f"init={init!r}; use one of {INITS}")
  together = functools.partial(
    _one, k=k, iterations=iterations, metric=metric, init=init
  )
  in_turn = functools.partial(together, stop_early=True)
  if restarts > 1:
    together = functools.partial(_best, together, restarts)
    in_turn = functools.partial(_best, in_turn, restarts)
  points = points.astype(jnp.float32)
  chunk = _chunk(points)
  # The loop is only used if one device holds the batch: with a split batch it
  # would gather the examples.
  if jax.device_count() > 1 or chunk == len(points):
    return jax.vmap(together)(points, keys, initial_centers)
  return lax.platform_dependent(
    points,
    keys,
    initial_centers,
    cpu=lambda *batch: lax.map(
      lambda example: in_turn(*example), batch, batch_size=chunk
    ),
    default=jax.vmap(together),
  )


def _chunk(points) -> int:
  """Returns how many examples a CPU takes at once, a divisor of the batch.

  All iterations of a chunk then read its points from the cache, not from
  memory.
  """
  b, p, d = points.shape
  fit = max(1, _CACHE // (p * d * points.dtype.itemsize))
  return next((n for n in range(min(b, fit), 0, -1) if b % n == 0), b)


def _best(run, restarts, points, key, centers) -> KMeans:
  """Returns the best of several runs on one example."""
  folded = [jax.random.fold_in(key, i) for i in range(1, restarts)]
  keys = jnp.stack([key, *folded])  # the first as without restarts
  found = jax.vmap(run, (None, 0, None))(points, keys, centers)
  best = jnp.argmin(found.inertia)
  return jax.tree.map(lambda x: x[best], found)


def _one(
  points, key, centers, *, k, iterations, metric, init, stop_early=False
) -> KMeans:
  """Clusters one example: points [p, d].

  With `stop_early` iterations that would change nothing are left out; without,
  the number of operations is known beforehand.
  """
  if metric == "cosine":
    points = unit(points)
    origin = jnp.zeros((1, points.shape[1]))
  else:
    # Distances are differences of squares. With the mean as origin, these lose
    # little precision.
    origin = points.mean(0, keepdims=True)
    points = points - origin
  square = (points * points).sum(-1)  # [p]

  if centers is not None:
    centers = centers.astype(jnp.float32)
    centers = unit(centers) if metric == "cosine" else centers - origin
  elif init == "kmeans++":
    centers = _plus_plus(points, square, key, k)
  else:
    centers = _farthest(points, square, k)

  def iterate(_, centers):
    distance = _distances(points, square, centers)  # [p, k]
    members = jax.nn.one_hot(jnp.argmin(distance, -1), k)  # [p, k]
    count = members.sum(0)
    total = matmul("pk,pd->kd", members, points)
    means = total / jnp.maximum(count, 1)[:, None]
    if metric == "cosine":
      means = unit(means)
    empty = count == 0
    restart = empty & (jnp.arange(k) == jnp.argmax(empty))
    lone = points[jnp.argmax(distance.min(-1))][None]
    means = jnp.where(empty[:, None], centers, means)
    return jnp.where(restart[:, None], lone, means)

  if stop_early:
    centers = _until_still(iterate, iterations, centers)
  else:
    centers = lax.fori_loop(0, iterations, iterate, centers)
  labels = jnp.argmin(_distances(points, square, centers), -1)
  members = jax.nn.one_hot(labels, k)
  offset = points - matmul("pk,kd->pd", members, centers)
  return KMeans(
    labels.astype(jnp.int32),
    centers + origin,
    members.any(0),
    (offset * offset).sum(),
  )


def _until_still(iterate, iterations, centers):
  """Iterates until no center moves, at most `iterations` times."""

  def again(state):
    i, centers, _ = state
    moved = iterate(i, centers)
    return i + 1, moved, (moved != centers).any()

  def wanted(state):
    i, _, moving = state
    return (i < iterations) & moving

  return lax.while_loop(wanted, again, (0, centers, True))[1]


def _plus_plus(points, square, key, k):
  """Greedy k-means++ (Arthur and Vassilvitskii, 2007, section 5)."""
  trials = 2 + int(math.log(k))  # scikit-learn, sklearn/cluster/_kmeans.py
  first_key, key = jax.random.split(key)
  first = points[jax.random.randint(first_key, (), 0, len(points))]
  draws = jax.random.uniform(key, (k, trials))

  def add(i, state):
    centers, nearest = state
    # Points drawn in proportion to their squared distance from the centers.
    mass = jnp.cumsum(nearest)
    drawn = (mass[None] <= (draws[i] * mass[-1])[:, None]).sum(-1)
    candidates = points[jnp.minimum(drawn, len(points) - 1)]  # [trials, d]
    distance = _distances(points, square, candidates)
    distance = jnp.minimum(nearest[:, None], distance)  # [p, trials]
    best = jnp.argmin(distance.sum(0))
    return centers.at[i].set(candidates[best]), distance[:, best]

  centers = jnp.zeros((k, points.shape[1])).at[0].set(first)
  nearest = _distances(points, square, first[None])[:, 0]
  return lax.fori_loop(1, k, add, (centers, nearest))[0]


def _farthest(points, square, k):
  """Each new center is the point farthest from all earlier centers."""

  def add(i, state):
    centers, nearest = state
    center = points[jnp.argmax(nearest)]
    distance = _distances(points, square, center[None])[:, 0]
    return centers.at[i].set(center), jnp.minimum(nearest, distance)

  # From the mean outwards; afterwards only distances to centers count.
  mean = points.mean(0)
  first = points[jnp.argmax(_distances(points, square, mean[None])[:, 0])]
  nearest = _distances(points, square, first[None])[:, 0]
  centers = jnp.zeros((k, points.shape[1])).at[0].set(first)
  return lax.fori_loop(1, k, add, (centers, nearest))[0]


def _distances(points, square, centers):
  """Returns squared distances [p, k]."""
  product = matmul("pd,kd->pk", points, centers)
  return jnp.maximum(
    square[:, None] - 2 * product + (centers * centers).sum(-1)[None], 0
  )


def assign(clusters: KMeans, points: Float[Array, "b p d"]) -> KMeans:
  """Returns a Euclidean clustering of other points by the centers found.

  Clusters that were not valid get no points. The inertia stays that of the
  points which were clustered.
  """
  square = (clusters.centers * clusters.centers).sum(-1)
  # The points' own squares are the same for every center.
  distance = square[:, None] - 2 * matmul(
    "bpd,bkd->bpk", points, clusters.centers
  )
  distance = jnp.where(clusters.valid[:, None], distance, jnp.inf)
  labels = jnp.argmin(distance, -1).astype(jnp.int32)
  k = clusters.centers.shape[1]
  valid = (labels[..., None] == jnp.arange(k)[None, None]).any(1)
  return clusters._replace(labels=labels, valid=valid)


def matmul(equation: str, *operands: Array) -> Array:
  """Takes `jnp.einsum` in full precision.

  The precision is given because TPUs round float32 factors to bfloat16.
  """
  return jnp.einsum(equation, *operands, precision=lax.Precision.HIGHEST)


def merge(clusters: KMeans, distance: float) -> KMeans:
  """Joins clusters with centers closer than `distance`, and chains of them.

  A picture then has as many masks as distinct regions, and a textured region is
  one mask instead of scattered fragments that no network could
  predict. The joined cluster keeps the lowest label of its parts, the others
  become invalid; centers and inertia stay those of the parts. Euclidean
  distance.
  """
  k = clusters.centers.shape[1]
  gap = clusters.centers[:, :, None] - clusters.centers[:, None]
  near = (gap * gap).sum(-1) < distance**2
  near &= clusters.valid[:, :, None] & clusters.valid[:, None]
  # Not `jnp.eye`: onnxruntime has none of booleans.
  linked = near | (jnp.arange(k)[:, None] == jnp.arange(k)[None])[None]
  # Squaring the relation doubles the length of the chains that it follows.
  for _ in range(max(1, (k - 1).bit_length())):
    linked = (linked[:, :, :, None] & linked[:, None]).any(2)
  first = jnp.argmax(linked, -1)  # [b, k], the lowest label linked to each
  kept = clusters.valid & (first == jnp.arange(k)[None])
  labels = jnp.take_along_axis(first, clusters.labels, axis=1)
  return clusters._replace(labels=labels.astype(jnp.int32), valid=kept)
