"""Allows one run at a time in a folder, by a small file that names the run.

Two runs in one work directory would delete each other's checkpoints and write
into the same curves. So a run creates WORKDIR/lease.json at its start, writes
it again every half minute (a heartbeat), and deletes it at its end. All
processes of a run count as one: the first takes the lease.

A new run replaces the lease of a dead run: at once if the process ran on this
machine, otherwise when the last heartbeat is old. `epath` offers no file locks
on object stores. So a process that writes a lease reads it again after a while:
if two write at the same time, the last one holds the lease. A run that finds
another run's lease in place of its own must not write any more.

Nothing but `epath` is needed.
"""

import contextlib
import datetime
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from absl import logging
from etils import epath

from sseg_jax import files
from sseg_jax.errors import InputError, Unavailable

FILE = "lease.json"
RENEW_SECONDS = 30.0
# A run without a heartbeat for this long counts as dead. It is ten times the
# interval of heartbeats, because storage and clocks are not exact.
STALE_SECONDS = 300.0
# Time between writing a lease and reading it again, on file systems that cannot
# tell which process was first. It is longer than a write takes.
_SETTLE_SECONDS = 1.0
_SETTLE_SECONDS_REMOTE = 3.0

# Leases of this process; `release_all` releases them before `os._exit`.
_held: set["Lease"] = set()


class Lease:
  """The right to write into a folder, held until `release`.

  Args:
    folder: local or `gs://`; made where missing.
    name: name of the file; different names are different leases.
    field: what the folder is called in messages.

  Raises:
    InputError: if the folder cannot be made or written to.
    Unavailable: if another run holds the lease, or the disk is full.
  """

  def __init__(
    self,
    folder: str | epath.PathLike,
    name: str = FILE,
    *,
    field: str = "workdir",
  ):
    self._folder = epath.Path(folder)
    self._path = self._folder / name
    self._remote = "://" in os.fspath(self._folder)
    self._lost: dict[str, Any] | None = None
    self._lock = threading.Lock()
    self._ended = threading.Event()
    self._me = {
      "token": uuid.uuid4().hex,
      "host": socket.gethostname(),
      "process": os.getpid(),
      "machine": _machine(),
      "started": _start_of(os.getpid()),
      "since": _now(),
    }
    try:
      self._folder.mkdir(parents=True, exist_ok=True)
      _held.add(self)
      self._take()
    except OSError as error:
      _held.discard(self)
      raise files.unwritable(field, folder, error) from error
    except Unavailable:
      _held.discard(self)
      raise
    threading.Thread(target=self._renew, daemon=True).start()

  def check(self) -> None:
    """Raises Unavailable if another run has taken the lease meanwhile.

    Reads the file; call it before anything is written.
    """
    # An OSError is ignored: then no save works either.
    with self._lock, contextlib.suppress(OSError):
      self._look()
    if self._lost is not None:
      raise Unavailable(
        f"{os.fspath(self._folder)} was taken over by another run"
        f" ({_who(self._lost)}); this one stops without writing anything more:"
        " stop the other and start again, or choose another folder"
      )

  @property
  def lost(self) -> bool:
    """Whether another run was seen to have taken the lease; reads no file."""
    return self._lost is not None

  def release(self) -> None:
    """Deletes the lease, unless it belongs to another run by now."""
    with self._lock:
      if self._ended.is_set():
        return
      self._ended.set()
      _held.discard(self)
      with contextlib.suppress(OSError):
        if (_read(self._path) or {}).get("token") == self._me["token"]:
          self._path.unlink(missing_ok=True)

  def __enter__(self) -> "Lease":
    """Returns itself."""
    return self

  def __exit__(self, *_) -> None:
    """Releases the lease."""
    self.release()

  def _take(self) -> None:
    settle = _SETTLE_SECONDS_REMOTE if self._remote else _SETTLE_SECONDS
    other = _read(self._path)
    if other is None and self._path.exists():
      time.sleep(settle)  # another process is writing it
      other = _read(self._path)
    if other is None and not self._remote and self._create():
      return  # nobody else can have created it
    if other is None:
      other = _read(self._path)
    if other is not None:
      self._refuse_if_alive(other)
    self._write()
    time.sleep(settle)
    other = _read(self._path)
    if other is not None and other.get("token") != self._me["token"]:
      raise Unavailable(self._message(other))

  def _refuse_if_alive(self, other: dict[str, Any]) -> None:
    alive = _is_alive(other)
    if alive is None:
      alive = _age(other) < STALE_SECONDS
    if alive:
      raise Unavailable(self._message(other))
    logging.warning(
      "%s: its run is dead (%s); this one goes on", self._path, _who(other)
    )

  def _message(self, other: dict[str, Any]) -> str:
    return (
      f"{os.fspath(self._folder)} is in use by another run ({_who(other)});"
      " wait until it ends or stop it, or choose another folder (if it died on"
      f" another machine, the folder is free {STALE_SECONDS / 60:.0f} minutes"
      " after its last sign of life)"
    )

  def _create(self) -> bool:
    """Creates the file with its content; returns False if it exists."""
    path = pathlib.Path(os.fspath(self._path))
    new = path.with_name(f"{path.name}.{self._me['token']}")
    try:
      new.write_text(self._text())
      os.link(new, path)
      return True
    except FileExistsError:
      return False
    except OSError as error:
      # The file system has no links; the code below needs none.
      if not new.exists():
        raise
      logging.debug("%s: no links here (%s)", path, error)
      return False
    finally:
      new.unlink(missing_ok=True)

  def _text(self) -> str:
    return json.dumps(self._me | {"renewed": time.time()}) + "\n"

  def _write(self) -> None:
    if self._remote:  # an object store writes an object whole or not at all
      self._path.write_text(self._text())
    else:
      files.write_text(self._path, self._text())

  def _look(self) -> None:
    """Checks whether the file belongs to another run now."""
    if self._lost is not None:
      return
    other = _read(self._path)
    if other is not None and other.get("token") != self._me["token"]:
      self._lost = other

  def _renew(self) -> None:
    warned = False
    while not self._ended.wait(RENEW_SECONDS):
      with self._lock:
        if self._ended.is_set():
          return
        try:
          self._look()
          if self._lost is not None:
            logging.error(
              "%s was taken by another run (%s)", self._path, _who(self._lost)
            )
            return
          self._write()
          warned = False
        except OSError as error:  # a full disk, a network that is away
          if not warned:
            logging.warning("%s cannot be renewed: %s", self._path, error)
          warned = True


@contextlib.contextmanager
def held_by_first(
  folder: str | epath.PathLike, first: bool, agree: Any
) -> Iterator[Lease | None]:
  """Holds the lease of a run of one or several processes.

  Args:
    folder: as for `Lease`.
    first: whether this is the process that takes it.
    agree: maps an int of the first process to the same int in every process.

  Yields:
    The lease in the first process, None in the others.

  Raises:
    InputError, Unavailable: as `Lease` in the first process; the other
      processes raise Unavailable.
  """
  lease: Lease | None = None
  error: InputError | Unavailable | None = None
  if first:
    try:
      lease = Lease(folder)
    except (InputError, Unavailable) as raised:
      error = raised
  failed = agree(int(error is not None))
  if error is not None:
    raise error
  if failed:
    raise Unavailable(f"{os.fspath(folder)} cannot be used; process 0 says why")
  try:
    yield lease
  finally:
    if lease is not None:
      lease.release()


def release_all() -> None:
  """Releases all leases of this process; call it before `os._exit`."""
  for lease in list(_held):
    lease.release()


def _read(path: Any) -> dict[str, Any] | None:
  """Returns the content of a lease; None if it is missing or unreadable."""
  try:
    found = json.loads(path.read_text())
  except FileNotFoundError:
    return None
  except ValueError:
    return None
  return found if isinstance(found, dict) else None


def _is_alive(lease: dict[str, Any]) -> bool | None:
  """Returns whether the process runs; None if it is on another machine."""
  if lease.get("machine") != _machine():
    return None
  pid = lease.get("process")
  if pid == os.getpid() and lease.get("started") == _start_of(os.getpid()):
    return any(held._me["token"] == lease.get("token") for held in _held)
  if not isinstance(pid, int):
    return None
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  except OSError:
    pass  # it runs and belongs to another user
  return lease.get("started") == _start_of(pid)


def _machine() -> str:
  """Identifies this machine since its last boot, and its PID namespace.

  Containers have their own process ids, and may share the host's name.
  """
  try:
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"
  except OSError:  # not Linux
    return socket.gethostname()


def _start_of(pid: int) -> str:
  """Returns the start time of a process: a later one may have the same id.

  Returns "" if the process has ended, or if the system does not tell.
  """
  try:
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    # The name in brackets may hold any character; field 3 comes after it.
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]
  except (OSError, IndexError):
    return ""


def _age(lease: dict[str, Any]) -> float:
  try:
    return max(0.0, time.time() - float(lease["renewed"]))
  except (KeyError, TypeError, ValueError):
    return float("inf")


def _who(lease: dict[str, Any]) -> str:
  return (
    f"process {lease.get('process')} on {lease.get('host')}, since"
    f" {lease.get('since')}, last sign of life {_age(lease):.0f} s ago"
  )


def _now() -> str:
  now = datetime.datetime.now(datetime.UTC)
  return now.strftime("%Y-%m-%d %H:%M:%S UTC")
