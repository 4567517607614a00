"""Which records make up which batch: a pure function of (seed, step).

The records 0 … total-1 are cut into `lanes` contiguous ranges whose sizes
differ by one at most, for any number of shards. Every batch takes
batch/lanes records from each lane, lane after lane, so a batch mixes all parts
of the data, and data sets that lie one after the other are mixed in proportion
to their size. With `data.weights` each data set gets lanes of its own instead,
in proportion to its weight (`weighted_bounds`).
A lane's range is cut into windows of at most `window` records. Each epoch of a
lane visits its windows in a new order and the records of each window in a new
order; reads stay within one window per lane at a time. An epoch of a lane may
end inside a batch.

With `loss.mask_every` above 1, only the pictures at the indices 0, mask_every,
2 * mask_every, … of a batch learn masks. Every record is at such an index
exactly once in `mask_every` epochs of its lane.
"""

import functools
from collections.abc import Sequence

import numpy as np

# Purposes of random numbers: the last part of the key.
WINDOWS, RECORDS, CAPTION, AUGMENT, MASK_WINDOWS, MASK_RECORDS = range(6)


def mix(*parts: int | np.ndarray) -> np.ndarray:
  """Hashes integers to uint64, elementwise over broadcast arrays.

  SplitMix64's finaliser, chained (Steele, Lea & Flood, OOPSLA 2014). Written
  out because the streams of numpy's generators may change between its versions,
  and a resumed run must see the same batches.
  """
  h = np.zeros(1, np.uint64)
  for part in parts:
    h = h ^ np.asarray(part).astype(np.uint64)
    h += np.uint64(0x9E3779B97F4A7C15)
    h ^= h >> np.uint64(30)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    h ^= h >> np.uint64(27)
    h *= np.uint64(0x94D049BB133111EB)
    h ^= h >> np.uint64(31)
  return h


def lanes_of(weights: Sequence[float], lanes: int) -> list[int]:
  """Shares lanes out in proportion to weights, one at least to each.

  A batch takes equally many records from every lane, so the share of a data set
  in each batch is its share of the lanes: a multiple of 1 / `lanes`.
  """
  total = sum(weights)
  exact = [lanes * weight / total for weight in weights]
  shared = [max(1, int(share)) for share in exact]
  while sum(shared) != lanes:
    step = 1 if sum(shared) < lanes else -1
    # The one that is furthest from its exact share; of several the first.
    able = [i for i, n in enumerate(shared) if n + step >= 1]
    best = max(able, key=lambda i: (step * (exact[i] - shared[i]), -i))
    shared[best] += step
  return shared


def weighted_bounds(
  counts: Sequence[int], weights: Sequence[float], lanes: int
) -> list[int]:
  """Returns the bounds of lanes, of which each holds one data set's records.

  Args:
    counts: records of each data set, which lie one after the other.
    weights: of each data set, over 0.
    lanes: at least as many as data sets.
  """
  bounds, start = [0], 0
  for count, own in zip(counts, lanes_of(weights, lanes), strict=True):
    bounds += [start + lane * count // own for lane in range(1, own + 1)]
    start += count
  return bounds


class LaneOrder:
  """The order of `total` records in `lanes` lanes.

  Args:
    total: records in the data set.
    lanes: parts of the order; divides `batch_size`.
    batch_size: size of the global batch.
    window: largest number of records permuted together.
    seed: seed of the whole order.
    mask_every: every `mask_every`-th record of a batch learns masks. It must
      divide the number of records that a range of lanes gives to a batch.
    bounds: first record of each lane, and `total`; None cuts the records into
      lanes of equal size. See `weighted_bounds`.
  """

  def __init__(
    self,
    total: int,
    *,
    lanes: int,
    batch_size: int,
    window: int,
    seed: int,
    mask_every: int = 1,
    bounds: Sequence[int] | None = None,
  ):
    self.lanes = lanes
    self._mask_every = mask_every
    self.per_lane = batch_size // lanes
    if bounds is None:
      bounds = [lane * total // lanes for lane in range(lanes + 1)]
    self._bounds = list(bounds)
    self._window = window
    self._seed = seed
    # Two epochs of each lane are cached, because a batch may span two epochs.
    self._order = functools.lru_cache(2 * lanes)(self._lane_epoch)

  def batch(
    self, step: int, first_lane: int, last_lane: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns records and their lanes' epochs, int64 [b], for a range of lanes.

    The global batch is the concatenation over all ranges in order. Within a
    range the records stand lane after lane, but for those that learn masks.
    """
    indices, epochs, learns = [], [], []
    for lane in range(first_lane, last_lane):
      size = self._bounds[lane + 1] - self._bounds[lane]
      position = step * self.per_lane + np.arange(self.per_lane)
      epoch, row = position // size, position % size
      index = np.empty_like(position)
      for e in np.unique(epoch):
        here = epoch == e
        index[here] = self._order(lane, int(e))[row[here]]
      indices.append(index + self._bounds[lane])
      epochs.append(epoch)
      learns.append(self._learns_masks(lane, position))
    index, epoch = np.concatenate(indices), np.concatenate(epochs)
    if self._mask_every > 1:
      order = self._arranged(np.concatenate(learns))
      index, epoch = index[order], epoch[order]
    return index, epoch

  def forget(self) -> None:
    """Frees the epochs in memory; they are made again where they are needed."""
    self._order.cache_clear()

  def _learns_masks(self, lane: int, position: np.ndarray) -> np.ndarray:
    """Returns which positions of a lane, counted over all epochs, learn masks.

    They are `mask_every` apart. Their offset moves with the lane, so that each
    range of lanes has equally many of them in every step.
    """
    return (position - lane * self.per_lane) % self._mask_every == 0

  def _arranged(self, learns: np.ndarray) -> np.ndarray:
    """Returns the places in a batch; those that learn masks are every n-th."""
    places = np.empty(len(learns), np.int64)
    first = np.arange(len(learns)) % self._mask_every == 0
    places[first] = np.flatnonzero(learns)
    places[~first] = np.flatnonzero(~learns)
    return places

  def _lane_epoch(self, lane: int, epoch: int) -> np.ndarray:
    """Returns one epoch of a lane: a permutation of its records, uint32."""
    order = self._shuffled(lane, epoch, WINDOWS, RECORDS)
    every = self._mask_every
    if every == 1:
      return order
    # In a cycle of `mask_every` epochs, as many positions learn masks as the
    # lane has records. Each record gets one of them, in a separate order.
    size = len(order)
    first, cycle = epoch * size, epoch // every
    learns = self._learns_masks(lane, first + np.arange(size))

    def learners_before(position: int) -> int:
      return (position - lane * self.per_lane - 1) // every

    start = learners_before(first) - learners_before(cycle * every * size)
    own = self._shuffled(lane, cycle, MASK_WINDOWS, MASK_RECORDS)
    learners = own[start : start + int(learns.sum())]
    mixed = np.empty_like(order)
    mixed[learns] = learners
    mixed[~learns] = order[~np.isin(order, learners)]
    return mixed

  def _shuffled(
    self, lane: int, epoch: int, of_windows: int, of_records: int
  ) -> np.ndarray:
    """Returns a lane's records, windows and within them permuted, uint32."""
    size = self._bounds[lane + 1] - self._bounds[lane]
    windows = -(-size // self._window)
    starts = -(-np.arange(windows + 1) * size // windows)
    counts = np.diff(starts)  # differ by one at most
    window = np.repeat(np.arange(windows), counts)
    place = mix(self._seed, lane, epoch, np.arange(windows), of_windows)
    within = mix(self._seed, lane, epoch, window, np.arange(size), of_records)
    # A window is one row. To sort the rows takes about half as long as to sort
    # all records by both keys.
    exists = np.arange(counts.max()) < counts[:, None]
    keys = np.full(exists.shape, np.iinfo(np.uint64).max)
    keys[exists] = within
    rows = np.argsort(place, kind="stable")
    columns = np.argsort(keys, axis=1, kind="stable")[rows]
    records = starts[rows, None] + columns
    return records[columns < counts[rows, None]].astype(np.uint32)
