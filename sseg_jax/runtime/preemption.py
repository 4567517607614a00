"""SIGTERM: seen at once, acted on between steps."""

import os
import signal
import sys
import threading
from collections.abc import Callable

# The state was saved, or there was nothing to save: start again to go on
# (EX_TEMPFAIL).
PREEMPTED = 75


class Stop:
  """Whether the run was asked to stop, by SIGTERM or by another process.

  Python runs a signal's handler between two of its instructions, which can be
  minutes later where XLA compiles. A thread therefore reads the signal's number
  from a pipe, to which it is written at once.

  Attributes:
    on_signal: is called, in that thread, when the signal arrives.
  """

  def __init__(self) -> None:
    self.on_signal: Callable[[], None] = lambda: None
    self._event = threading.Event()
    self._exit: Callable[[], None] | None = None
    self._pipe: tuple[int, int] | None = None

  def listen(self) -> "Stop":
    """Catches SIGTERM, where signals can be caught; returns itself.

    Call it again after a library that takes the signal for itself.
    """
    if threading.current_thread() is not threading.main_thread():
      return self
    if self._pipe is None:
      self._pipe = os.pipe()
      threading.Thread(target=self._read, daemon=True).start()
    os.set_blocking(self._pipe[1], False)
    signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)  # the thread acts
    return self

  def exit_until_working(self, wait_seconds: float) -> None:
    """From now until `working` is called, a stop ends the process at once.

    Nothing is lost: there are no new steps. For commands; where training is
    called as a library, its process is not ours to end.

    Args:
      wait_seconds: waited first, for other processes to read that they should
        end; process 0 waits longest, since without it they abort.
    """
    self._exit = lambda: _exit(wait_seconds)

  def working(self) -> None:
    """Says that steps were taken: a stop now waits until they are saved."""
    self._exit = None

  def is_set(self) -> bool:
    """Whether to stop."""
    return self._event.is_set()

  def check(self) -> None:
    """Raises `Stopped` where the run is to stop."""
    if self.is_set():
      raise Stopped

  def set(self) -> None:
    """Asks to stop; what a peer's signal comes to."""
    self._event.set()
    if leave := self._exit:
      leave()

  def _read(self) -> None:
    assert self._pipe is not None
    while number := os.read(self._pipe[0], 1):
      # Other signals with a handler in Python come this way as well.
      if number[0] == signal.SIGTERM:
        self.on_signal()
        self.set()


def _exit(wait_seconds: float) -> None:
  import multiprocessing
  import time

  print(
    "asked to stop before a step was taken: nothing to save, start again to go"
    " on",
    file=sys.stderr,
    flush=True,
  )
  for child in multiprocessing.active_children():
    child.kill()
  time.sleep(wait_seconds)
  # Not imported here: where nobody did, there is nothing to release.
  if lease := sys.modules.get("sseg_jax.runtime.lease"):
    lease.release_all()
  os._exit(PREEMPTED)


class Stopped(Exception):  # noqa: N818, not an error
  """Raised inside an evaluation that is left because of a `Stop`."""
