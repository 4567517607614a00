"""The last result of each visitor, as many as fit into some memory."""

import collections
import threading

from sseg_jax.inference.result import Segmentation


class Kept:
  """Keeps one result for each session; threads may share it.

  If the results take more than the limit, those that were used longest ago are
  dropped. The newest one is always kept.
  """

  def __init__(self, limit: int):
    """Keeps nothing yet.

    Args:
      limit: bytes of all results.
    """
    self._limit = limit
    self._lock = threading.Lock()
    self._results: collections.OrderedDict[str, Segmentation]
    self._results = collections.OrderedDict()

  def __len__(self) -> int:
    """Number of sessions that have a result."""
    return len(self._results)

  @property
  def nbytes(self) -> int:
    """Bytes of all results."""
    with self._lock:
      return self._bytes()

  def put(self, session: str, result: Segmentation) -> None:
    """Keeps a result instead of the session's last one."""
    with self._lock:
      self._results[session] = result
      self._results.move_to_end(session)
      self._shrink()

  def get(self, session: str) -> Segmentation | None:
    """Returns the session's result, if it is still there."""
    with self._lock:
      if session in self._results:
        self._results.move_to_end(session)
      return self._results.get(session)

  def measure(self) -> None:
    """Drops results, if those that are there have grown beyond the limit."""
    with self._lock:
      self._shrink()

  def drop(self, session: str) -> None:
    """Forgets the result of a session that has ended."""
    with self._lock:
      self._results.pop(session, None)

  def _bytes(self) -> int:
    return sum(result.nbytes for result in self._results.values())

  def _shrink(self) -> None:
    while len(self._results) > 1 and self._bytes() > self._limit:
      self._results.popitem(last=False)
