"""Which query is matched to which mask: the cost and the exact assignment.

On a first read, `cost_matrix` is MaskFormer's cost without its class term, and
`match` is an ordinary assignment solver, written for many small problems at
once.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

FOCAL_ALPHA = 0.25  # MaskFormer, mask_former/modeling/{matcher,criterion}.py
FOCAL_GAMMA = 2


def cost_matrix(
  mask_logits: Float[Array, "*layers b n h w"],
  masks: Float[Array, "b k h w"],
  *,
  dice: float = 1.0,
  focal: float = 20.0,
) -> Float[Array, "*layers b k n"]:
  """Returns the cost of matching each mask with each query.

  `masks` are binary and serve all decoder layers. The cost is computed in
  float32 for every input type.
  Source: S-Seg §3.4; MaskFormer mask_former/modeling/matcher.py.
  """
  logits = mask_logits.astype(jnp.float32)
  logits = logits.reshape(*logits.shape[:-2], -1)  # [..., n, h*w]
  masks = masks.astype(jnp.float32)
  masks = masks.reshape(*masks.shape[:-2], -1)
  masks = lax.expand_dims(masks, range(logits.ndim - 3))  # [..., k, h*w]
  probs = jax.nn.sigmoid(logits)

  # What a pixel costs inside the mask and outside it. One product with the
  # masks is enough: inside·m + outside·(1 - m) = outside + (inside -
  # outside)·m.
  inside = (1 - probs) ** FOCAL_GAMMA * jax.nn.softplus(-logits) * FOCAL_ALPHA
  outside = probs**FOCAL_GAMMA * jax.nn.softplus(logits) * (1 - FOCAL_ALPHA)
  focal_cost = _over_pixels(masks, inside - outside)
  focal_cost += outside.sum(-1)[..., None, :]
  focal_cost /= logits.shape[-1]

  overlap = _over_pixels(masks, probs)
  area = masks.sum(-1)[..., :, None] + probs.sum(-1)[..., None, :]
  dice_cost = 1 - (2 * overlap + 1) / (area + 1)
  return dice * dice_cost + focal * focal_cost


def match(
  cost: Float[Array, "b k n"], valid: Bool[Array, "b k"]
) -> Int[Array, "b k"]:
  """Assigns a different query to each mask at the least total cost.

  The assignment is exact for the valid rows. Invalid rows then take queries
  that are left over, so that the k indices of a problem always differ. Ties are
  broken arbitrarily. The assignment uses as few NaN or infinite costs as
  possible; among such assignments, it has the least sum of the other costs.

  Exact means: computed in float64, the sum of the finite costs is the least
  one, up to a few float32 roundings of its excess over the sum of the rows'
  least costs. So the result does not depend on the scale of the costs, nor on
  large costs that the best assignment does not use. If it must use non-finite
  costs, the roundings are those of the largest finite cost.

  The method is shortest augmenting paths (Jonker and Volgenant, 1987), run on
  all problems at the same time. Row r needs at most r + 1 steps, so the number
  of iterations of every loop is known in advance. The problems are independent:
  split over chips along b, the solver needs no communication.

  Raises:
    ValueError: there are more masks than queries.
  """
  b, k, n = cost.shape
  if k > n:
    raise ValueError(f"{k} masks need as many queries, there are {n}")
  # A large number in place of infinity would make the sum imprecise.
  cost, row_least = _above_least(
    jnp.where(valid[..., None], cost.astype(jnp.float32), 0)
  )

  def add_row(r, state):
    path = _shortest_path(r, cost, row_least, state)
    return _augmented(r, path, valid, state)

  state = _Assignment(
    (jnp.zeros((b, k)), jnp.zeros((b, k))),
    (jnp.zeros((b, n)), jnp.zeros((b, n))),
    jnp.full((b, n), -1),
    jnp.full((b, k), -1),
  )
  state = lax.fori_loop(0, k, add_row, state)
  return _with_left_over(state, valid)


# A distance or potential is a pair: how many costs are not finite, and the sum
# of the others. The first number is compared first, the second breaks ties.
_Pair = tuple[Array, Array]


class _Assignment(NamedTuple):
  """The rows assigned so far, and the potentials that prove them optimal."""

  row_potential: _Pair  # [b, k] each
  column_potential: _Pair  # [b, n] each
  row_of: Array  # int [b, n]: the row of each column, -1 for none
  column_of: Array  # int [b, k]: the column of each row, -1 for none


class _Path(NamedTuple):
  """The shortest path from a new row to the nearest column without a row."""

  distance: _Pair  # [b, n] each: to every column seen
  reached: _Pair  # [b] each: to the column at the end
  previous: Array  # int [b, n]: the row before each column
  visited: Array  # bool [b, n]: columns whose distance is final
  sink: Array  # int [b]: the column at the end


# Batched gathers: table [b, m, ...] and index [b] -> [b, ...].
_at = jax.vmap(lambda table, index: table[index])


def _shortest_path(
  r: Array, cost: Array, row_least: Array, state: _Assignment
) -> _Path:
  """Runs Dijkstra's algorithm over columns, from row `r`."""
  b, _, n = cost.shape
  columns = jnp.arange(n)[None]

  def step(_, search):
    row, distance, reached, previous, visited, sink = search
    searching = sink < 0
    number, total = _through(row, reached, cost, row_least, state)
    better = (number < distance[0]) | (
      (number == distance[0]) & (total < distance[1])
    )
    better &= ~visited & searching[:, None]
    distance = (
      jnp.where(better, number, distance[0]),
      jnp.where(better, total, distance[1]),
    )
    previous = jnp.where(better, row[:, None], previous)
    number = jnp.where(visited, jnp.inf, distance[0])
    least = number.min(-1)
    total = jnp.where(number == least[:, None], distance[1], jnp.inf)
    smallest = total.min(-1)
    # This replaces argmin, which XLA runs slowly on a CPU.
    nearest = jnp.where(total == smallest[:, None], columns, n).min(-1)
    reached = (
      jnp.where(searching, least, reached[0]),
      jnp.where(searching, smallest, reached[1]),
    )
    owner = _at(state.row_of, nearest)
    sink = jnp.where(searching & (owner < 0), nearest, sink)
    searching &= owner >= 0
    visited |= (columns == nearest[:, None]) & searching[:, None]
    row = jnp.where(searching, owner, row)
    return row, distance, reached, previous, visited, sink

  start = (
    jnp.full(b, r),
    (jnp.full((b, n), jnp.inf), jnp.full((b, n), jnp.inf)),
    (jnp.zeros(b), jnp.zeros(b)),
    jnp.full((b, n), -1),
    jnp.zeros((b, n), bool),
    jnp.full(b, -1),
  )
  return _Path(*lax.fori_loop(0, r + 1, step, start)[1:])


def _through(
  row: Array,
  reached: _Pair,
  cost: Array,
  row_least: Array,
  state: _Assignment,
) -> list[Array]:
  """Returns the distances to all columns, [b, n] each, through a row.

  `reached` is the distance to the row. The costs of its edges are reduced by
  the potentials.
  """
  of_row = _at(cost, row)
  finite = of_row < jnp.inf
  edges = (
    jnp.where(finite, 0.0, 1.0),
    jnp.where(finite, of_row, -_at(row_least, row)[:, None]),
  )
  return [
    so_far[:, None] + (c - _at(u, row)[:, None]) - v
    for so_far, c, u, v in zip(
      reached, edges, state.row_potential, state.column_potential, strict=True
    )
  ]


def _augmented(
  r: Array, path: _Path, valid: Array, state: _Assignment
) -> _Assignment:
  """Returns the assignment with row `r` added, where it is valid."""
  (_, k), n = valid.shape, path.previous.shape[1]
  rows, columns = jnp.arange(k)[None], jnp.arange(n)[None]

  # New potentials keep reduced costs non-negative, and zero where assigned.
  owned = state.row_of[:, None, :] == rows[..., None]  # [b, k, n]

  def changes(reached, distance):
    change = jnp.where(path.visited, reached[:, None] - distance, 0)
    of_rows = jnp.where(owned, change[:, None, :], 0).sum(-1)
    return of_rows + jnp.where(rows == r, reached[:, None], 0), change

  row_change, column_change = zip(
    *map(changes, path.reached, path.distance), strict=True
  )

  # Follow the path back and move each row on it to its new column.
  def back(_, walk):
    row_of, column_of, column = walk
    row = _at(path.previous, column)
    walking = column >= 0
    here = (columns == column[:, None]) & walking[:, None]
    row_of = jnp.where(here, row[:, None], row_of)
    old = _at(column_of, row)
    here = (rows == row[:, None]) & walking[:, None]
    column_of = jnp.where(here, column[:, None], column_of)
    return row_of, column_of, jnp.where(walking & (row != r), old, -1)

  row_of, column_of, _ = lax.fori_loop(
    0, r + 1, back, (state.row_of, state.column_of, path.sink)
  )
  new = _Assignment(
    jax.tree.map(jnp.add, state.row_potential, row_change),
    jax.tree.map(jnp.subtract, state.column_potential, column_change),
    row_of,
    column_of,
  )
  return jax.tree.map(
    lambda new, old: jnp.where(valid[:, r, None], new, old), new, state
  )


def _with_left_over(state: _Assignment, valid: Array) -> Int[Array, "b k"]:
  """Gives the i-th row without a query the i-th query without a row."""
  free = state.row_of < 0
  rank_of_free = jnp.cumsum(free, axis=-1)
  rank_of_row = jnp.cumsum(~valid, axis=-1)
  taken = free[:, None, :] & (
    rank_of_free[:, None, :] == rank_of_row[..., None]
  )
  left_over = jnp.argmax(taken, axis=-1)
  return jnp.where(valid, state.column_of, left_over).astype(jnp.int32)


def _over_pixels(masks, values):
  # The precision is given because TPUs round float32 factors to bfloat16.
  return jnp.einsum(
    "...kp,...np->...kn", masks, values, precision=lax.Precision.HIGHEST
  )


def _above_least(
  cost: Float[Array, "b k n"],
) -> tuple[Float[Array, "b k n"], Float[Array, "b k"]]:
  """Returns costs minus the least cost of their row, and that least cost.

  Non-finite costs become infinity. Subtracting a number from a whole row does
  not change the best assignment, and sums of smaller numbers have smaller
  rounding errors. The result is scaled by a power of two if sums would overflow
  float32, or differences would underflow.
  """
  finite = jnp.isfinite(cost)
  largest = jnp.where(finite, jnp.abs(cost), 0).max((-2, -1), keepdims=True)
  scale = jnp.where(largest < 2.0**-20, 2.0**100, 1.0)
  cost = cost * jnp.where(largest > 2.0**110, 2.0**-20, scale)
  least = jnp.where(finite, cost, jnp.inf).min(-1)
  least = jnp.where(finite.any(-1), least, 0)
  return jnp.where(finite, cost - least[..., None], jnp.inf), least
