"""Warns about a step that does not end, and shows the stack of every thread."""

import collections
import faulthandler
import statistics
import tempfile
import threading
import time
from collections.abc import Callable

from absl import logging

# A step is far too long if it takes this many times the median.
_FACTOR = 10
# Work other than a step, such as a compilation or an evaluation, may take this
# many times as long as a step.
SLOW = 6


class Watchdog:
  """Warns once about a step that takes far longer than the recent median.

  It never ends the run: a collective over a slow network, or a host that is
  being replaced, may still come back.

  Args:
    minutes: no shorter step is warned about; 0 switches it off. The first may
      take `SLOW` times as long: it is compiled.
    start_step: the step before the first.
    clock: seconds; for tests.
    poll_seconds: how often it looks.
  """

  def __init__(
    self,
    minutes: float,
    start_step: int = 0,
    *,
    clock: Callable[[], float] = time.monotonic,
    poll_seconds: float = 5.0,
  ):
    self._least = 60 * minutes
    self._clock = clock
    self._poll = poll_seconds
    self._seconds: collections.deque[float] = collections.deque(maxlen=50)
    # When the current work began; None after the warning.
    self._last: float | None = clock()
    self._times = SLOW
    self._mere_step = False
    self._step = start_step
    self._lock = threading.Lock()
    self._closed = threading.Event()
    if minutes > 0:
      threading.Thread(target=self._watch, daemon=True).start()

  def update(self, step: int) -> None:
    """Records that `step` has ended."""
    with self._lock:
      now = self._clock()
      if self._last is not None and self._mere_step:
        self._seconds.append(now - self._last)
      self._last, self._step = now, step
      self._times, self._mere_step = 1, True

  def reset(self, times: int = 1) -> None:
    """Starts the clock again; call it before or after work other than a step.

    Args:
      times: how many times as long as a step the work may take.
    """
    with self._lock:
      self._last = self._clock()
      self._times, self._mere_step = times, False

  def close(self) -> None:
    """Ends the thread."""
    self._closed.set()

  def overdue(self) -> str | None:
    """Returns the warning that is due, once for each step."""
    with self._lock:
      if self._last is None:
        return None
      took = self._clock() - self._last
      median = statistics.median(self._seconds) if self._seconds else 0.0
      if took < self._times * max(self._least, _FACTOR * median):
        return None
      self._last = None
      usual = f", the median is {median:.2f} s" if self._seconds else ""
      return (
        f"what follows step {self._step} has taken {took:.0f} s so far{usual};"
        " the run goes on waiting. All threads:\n"
      )

  def _watch(self) -> None:
    while not self._closed.wait(self._poll):
      if message := self.overdue():
        logging.warning("%s", message + stacks())


def stacks() -> str:
  """Returns the stack of each thread of this process."""
  with tempfile.TemporaryFile("w+") as file:
    faulthandler.dump_traceback(file, all_threads=True)
    file.seek(0)
    return file.read()
