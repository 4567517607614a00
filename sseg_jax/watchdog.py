"""A step that does not end: warned about, with where every thread stands."""

import collections
import faulthandler
import statistics
import tempfile
import threading
import time
from collections.abc import Callable

from absl import logging

# A step is far longer than usual when it takes so many times the median.
_FACTOR = 10


class Watchdog:
  """Warns once of a step that takes far longer than the median of the last.

  It never ends the run: a collective over a slow network, or a host that is
  being replaced, may still come back.

  Args:
    minutes: no shorter step is warned about; 0 switches it off.
    clock: seconds; for tests.
    poll_seconds: how often it looks.
  """

  def __init__(
    self,
    minutes: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    poll_seconds: float = 5.0,
  ):
    self._least = 60 * minutes
    self._clock = clock
    self._poll = poll_seconds
    self._seconds: collections.deque[float] = collections.deque(maxlen=50)
    # End of the last step; None while what runs is no step, or was told of.
    self._last: float | None = None
    self._step = 0
    self._lock = threading.Lock()
    self._closed = threading.Event()
    if minutes > 0:
      threading.Thread(target=self._watch, daemon=True).start()

  def update(self, step: int) -> None:
    """Notes that `step` has ended."""
    with self._lock:
      now = self._clock()
      if self._last is not None:
        self._seconds.append(now - self._last)
      self._last, self._step = now, step

  def reset(self) -> None:
    """Says that what follows until the next `update` is not a mere step."""
    with self._lock:
      self._last = None

  def close(self) -> None:
    """Ends the thread."""
    self._closed.set()

  def overdue(self) -> str | None:
    """Returns the warning that is due, once for each step."""
    with self._lock:
      if self._last is None or not self._seconds:
        return None
      took = self._clock() - self._last
      median = statistics.median(self._seconds)
      if took < max(self._least, _FACTOR * median):
        return None
      self._last = None
      return (
        f"the step after {self._step} has taken {took:.0f} s so far, the"
        f" median is {median:.2f} s; the run goes on waiting. All threads:\n"
      )

  def _watch(self) -> None:
    while not self._closed.wait(self._poll):
      if message := self.overdue():
        logging.warning("%s", message + stacks())


def stacks() -> str:
  """Returns where each thread of this process stands."""
  with tempfile.TemporaryFile("w+") as file:
    faulthandler.dump_traceback(file, all_threads=True)
    file.seek(0)
    return file.read()
