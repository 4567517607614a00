"""Which query is matched to which mask: the cost and the exact assignment.

On a first read, `cost_matrix` is MaskFormer's cost without its class term, and
`match` is an ordinary assignment solver, written for many small problems at
once.
"""

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
  # Distances and potentials are pairs: how many costs are not finite, and the
  # sum of the others. The first number is compared first, the second breaks
  # ties. A large number in place of infinity would make the sum imprecise.
  cost, row_least = _above_least(
    jnp.where(valid[..., None], cost.astype(jnp.float32), 0)
  )
  rows, columns = jnp.arange(k)[None], jnp.arange(n)[None]

  # Batched gathers: table [b, m, ...] and index [b] -> [b, ...].
  at = jax.vmap(lambda table, index: table[index])

  def add_row(r, state):
    row_potential, column_potential, row_of, column_of = state

    # Dijkstra over columns, from row r to the nearest column without a row.
    def step(_, search):
      row, distance, reached, previous, visited, sink = search
      searching = sink < 0
      of_row = at(cost, row)
      finite = of_row < jnp.inf
      of_row = (
        jnp.where(finite, 0.0, 1.0),
        jnp.where(finite, of_row, -at(row_least, row)[:, None]),
      )
      number, total = (
        so_far[:, None] + (c - at(u, row)[:, None]) - v
        for so_far, c, u, v in zip(
          reached, of_row, row_potential, column_potential, strict=True
        )
      )
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
      owner = at(row_of, nearest)
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
    _, distance, reached, previous, visited, sink = lax.fori_loop(
      0, r + 1, step, start
    )

    # New potentials keep reduced costs non-negative, and zero where assigned.
    owned = row_of[:, None, :] == rows[..., None]  # [b, k, n]

    def changes(reached, distance):
      change = jnp.where(visited, reached[:, None] - distance, 0)
      of_rows = jnp.where(owned, change[:, None, :], 0).sum(-1)
      return of_rows + jnp.where(rows == r, reached[:, None], 0), change

    row_change, column_change = zip(
      *map(changes, reached, distance), strict=True
    )

    # Follow the path back and move each row on it to its new column.
    def back(_, walk):
      row_of, column_of, column = walk
      row = at(previous, column)
      walking = column >= 0
      here = (columns == column[:, None]) & walking[:, None]
      row_of = jnp.where(here, row[:, None], row_of)
      old = at(column_of, row)
      here = (rows == row[:, None]) & walking[:, None]
      column_of = jnp.where(here, column[:, None], column_of)
      return row_of, column_of, jnp.where(walking & (row != r), old, -1)

    new_row_of, new_column_of, _ = lax.fori_loop(
      0, r + 1, back, (row_of, column_of, sink)
    )
    new = (
      jax.tree.map(jnp.add, row_potential, row_change),
      jax.tree.map(jnp.subtract, column_potential, column_change),
      new_row_of,
      new_column_of,
    )
    return jax.tree.map(
      lambda new, old: jnp.where(valid[:, r, None], new, old), new, state
    )

  state = (
    (jnp.zeros((b, k)), jnp.zeros((b, k))),
    (jnp.zeros((b, n)), jnp.zeros((b, n))),
    jnp.full((b, n), -1),
    jnp.full((b, k), -1),
  )
  _, _, row_of, column_of = lax.fori_loop(0, k, add_row, state)

  # The i-th row without a query takes the i-th query without a row.
  free = row_of < 0
  rank_of_free = jnp.cumsum(free, axis=-1)
  rank_of_row = jnp.cumsum(~valid, axis=-1)
  taken = free[:, None, :] & (
    rank_of_free[:, None, :] == rank_of_row[..., None]
  )
  left_over = jnp.argmax(taken, axis=-1)
  return jnp.where(valid, column_of, left_over).astype(jnp.int32)


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
