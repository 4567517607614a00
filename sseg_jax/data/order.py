"""Which records make up which batch: a pure function of (seed, step).

The records 0 … total-1 are cut into `lanes` contiguous ranges whose sizes
differ by one at most, whatever the number of shards. Every batch takes
batch/lanes records from each lane, lane after lane, so a batch mixes all parts
of the data, and data sets that lie one after the other are mixed in proportion.
A lane's range is cut into windows of at most `window` records. Each epoch of a
lane visits its windows in a new order and the records of each window in a new
order; reads stay within one window per lane at a time. An epoch of a lane may
end inside a batch.
"""

import functools

import numpy as np

# What a draw is for: the last part of the key.
WINDOWS, RECORDS, CAPTION, AUGMENT = range(4)


def mix(*parts: int | np.ndarray) -> np.ndarray:
  """Hashes integers to uint64, elementwise over broadcast arrays.

  SplitMix64's finaliser, chained (Steele, Lea & Flood, OOPSLA 2014). Written
  out because the streams of numpy's generators may change between its versions,
  and a resumed run must see the same batches.
  """
  h = np.zeros(1, np.uint64)
  for part in parts:
    h = (h ^ np.asarray(part).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    h = h ^ (h >> np.uint64(31))
  return h


class LaneOrder:
  """The order of `total` records in `lanes` lanes.

  Args:
    total: records in the data set.
    lanes: parts of the order; divides `batch_size`.
    batch_size: of the global batch.
    window: records permuted together, at most.
    seed: of the whole order.
  """

  def __init__(
    self, total: int, *, lanes: int, batch_size: int, window: int, seed: int
  ):
    self.lanes = lanes
    self.per_lane = batch_size // lanes
    self._bounds = [lane * total // lanes for lane in range(lanes + 1)]
    self._window = window
    self._seed = seed
    # Two epochs of each lane: batches cross the ends of epochs.
    self._order = functools.lru_cache(2 * lanes)(self._lane_epoch)

  def batch(
    self, step: int, first_lane: int, last_lane: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns records and their lanes' epochs, int64 [b], for a range of lanes.

    The global batch is the concatenation over all lanes in order.
    """
    indices, epochs = [], []
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
    return np.concatenate(indices), np.concatenate(epochs)

  def _lane_epoch(self, lane: int, epoch: int) -> np.ndarray:
    """Returns one epoch of a lane: a permutation of its records, uint32."""
    size = self._bounds[lane + 1] - self._bounds[lane]
    windows = -(-size // self._window)
    window = np.arange(size) * windows // size
    place = mix(self._seed, lane, epoch, np.arange(windows), WINDOWS)
    within = mix(self._seed, lane, epoch, window, np.arange(size), RECORDS)
    return np.lexsort((within, place[window])).astype(np.uint32)
