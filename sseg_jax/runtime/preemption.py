"""SIGTERM: noticed at once, handled between steps."""

import os
import signal
import sys
import threading
from collections.abc import Callable

# Exit code (EX_TEMPFAIL): the state was saved, or there was nothing to save.
# The run resumes when it is started again.
PREEMPTED = 75


class Stop:
  """Whether the run was asked to stop, by SIGTERM or by another process.

  Python runs a signal handler between two of its instructions, which can be
  minutes later while XLA compiles. So the signal's number is written to a pipe,
  which happens at once, and a thread reads it there.

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

    Nothing is lost: there are no new steps. Only commands call it: if training
    is called as a library, this package must not end the caller's process.

    Args:
      wait_seconds: time to wait first, so that other processes read that they
        should end. Process 0 waits longest, because without it they abort.
    """
    self._exit = lambda: _exit(wait_seconds)

  def working(self) -> None:
    """Records that there are new steps: a stop now waits for their save."""
    self._exit = None

  def is_set(self) -> bool:
    """Whether to stop."""
    return self._event.is_set()

  def check(self) -> None:
    """Raises `Stopped` where the run is to stop."""
    if self.is_set():
      raise Stopped

  def set(self) -> None:
    """Asks to stop; called when another process got the signal."""
    self._event.set()
    if leave := self._exit:
      leave()

  def _read(self) -> None:
    assert self._pipe is not None
    while number := os.read(self._pipe[0], 1):
      # Other signals with a Python handler are written to the pipe as well.
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
  # If the module was never imported, there is no lease to release.
  if lease := sys.modules.get("sseg_jax.runtime.lease"):
    lease.release_all()
  os._exit(PREEMPTED)


class Stopped(Exception):
  """Raised inside an evaluation that is left because of a `Stop`."""
