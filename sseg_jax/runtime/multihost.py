"""Starts the processes of one run together, compares them, ends them together.

`jax.distributed` connects the processes. If one is missing, was started with
another command or was killed, JAX hangs or aborts without saying which. So each
process also holds a TCP connection to process 0, on the port below the
coordinator's. Before JAX connects, these connections serve to check that all
processes are there and were started alike (the roll call). Later they carry
messages: a process was asked to stop, has failed or is gone. A connection
closes as soon as its process dies, which is earlier than JAX notices a missing
heartbeat.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from sseg_jax.errors import InputError, Unavailable
from sseg_jax.runtime import connections, lease, provenance
from sseg_jax.runtime.preemption import Stop

# Time without a heartbeat after which JAX considers a process dead. It matters
# if the connection did not close, for example because the machine lost power.
_HEARTBEAT_SECONDS = 30
# The first process evaluates alone at the end; the others wait this long.
_SHUTDOWN_SECONDS = 24 * 3600
# A process that others depend on waits this long before it ends, so that its
# message reaches all.
_GRACE_SECONDS = 2.0
# Fields that may differ between hosts.
_OWN_FIELDS = ("data.threads",)

_AGAIN = "start again to go on from the newest checkpoint"


@contextlib.contextmanager
def joined(
  address: str,
  num_processes: int,
  process_id: int,
  *,
  config: Any,
  timeout: float,
  stop: Stop,
) -> Iterator[None]:
  """Connects this process to the run; an error inside ends all processes.

  Args:
    address: HOST:PORT of the coordinator, which process 0 opens.
    num_processes: number of processes of the run.
    process_id: number of this process, from 0.
    config: the configuration. It must be equal in all processes, like the code.
    timeout: seconds to wait for the others.
    stop: is set in all processes if one of them is asked to stop.

  Raises:
    InputError: in every process, if one was started with other settings.
    Unavailable: in every process that is there, if one is missing.
  """
  if timeout <= 0:
    raise InputError(f"--initialization_timeout={timeout}: must be above 0")
  if not 0 <= process_id < num_processes:
    raise InputError(
      f"--process_id={process_id} is not one of the --num_processes="
      f"{num_processes}; they count from 0"
    )
  peers = Peers(
    address, num_processes, process_id, facts(config), timeout, stop
  )
  import jax

  jax.distributed.initialize(
    address,
    num_processes,
    process_id,
    initialization_timeout=max(1, int(timeout)),
    heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
    shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
  )
  stop.listen()  # again, because JAX has set its own handler
  try:
    yield
  except InputError as error:
    peers.fail(str(error), 2)
  except Unavailable as error:
    peers.fail(str(error), 1)
  except BaseException as error:
    # If another process died, this may be a failed collective. The message that
    # names the dead process then arrives during this wait.
    time.sleep(_GRACE_SECONDS)
    traceback.print_exc()
    reason = str(error).strip().splitlines()
    peers.fail(f"{type(error).__name__}: {reason[0] if reason else ''}", 1)
  peers.finish()


def facts(config: Any) -> dict[str, str]:
  """Returns the values that must be equal in all processes, by name."""
  found: dict[str, str] = {}

  def collect(node: Mapping, prefix: str) -> None:
    for name, value in node.items():
      if isinstance(value, Mapping):
        collect(value, f"{prefix}{name}.")
      elif prefix + name not in _OWN_FIELDS:
        found[prefix + name] = json.dumps(value, default=str)

  collect(config.to_dict(), "")
  versions = provenance.versions()
  del versions["python"]
  found["the code's commit"] = str(provenance.git_commit())
  return found | {f"the version of {k}": v for k, v in versions.items()}


class Peers:
  """TCP connections between process 0 and the others.

  The constructor waits until all processes are there and agree (the roll call).
  If they do not, it raises as `joined` does.
  """

  def __init__(
    self,
    address: str,
    num_processes: int,
    process_id: int,
    known: dict[str, str],
    timeout: float,
    stop: Stop,
  ):
    self._id = process_id
    self._stop = stop
    self._connections: dict[int, socket.socket] = {}
    self._hosts: dict[int, str] = {}
    self._done: set[int] = set()
    self._news = threading.Condition()
    self._sending = threading.Lock()
    self._ending = threading.Lock()
    me: dict[str, Any] = {
      "run": "sseg_jax",
      "process": process_id,
      "processes": num_processes,
      "host": socket.gethostname(),
      "facts": known,
    }
    host, port = connections.split(address)
    deadline = time.monotonic() + timeout
    if process_id == 0:
      self._hosts = {0: me["host"]}
      self._call_roll(host, port, me, deadline, timeout)
    else:
      self._answer_roll(host, port, me, deadline, timeout)
    stop.on_signal = lambda: self._tell({"stop": True})
    for i, connection in self._connections.items():
      connections.keep_alive(connection)
      threading.Thread(
        target=self._read, args=(i, connection), daemon=True
      ).start()

  def fail(self, reason: str, code: int) -> NoReturn:
    """Sends all processes the reason why this one ends, and ends it."""
    host = socket.gethostname()
    text = f"process {self._id} ({host}): {reason}"
    self._tell({"failed": text, "code": code})
    self._end(text, code)

  def finish(self) -> None:
    """Waits until every process has finished."""
    if self._id:
      self._tell({"done": True})
    with self._news:
      self._news.wait_for(lambda: self._done >= self._connections.keys())
    if not self._id:
      self._tell({"done": True})

  # --- Roll call --------------------------------------------------------------

  def _call_roll(self, host, port, me, deadline, timeout) -> None:
    wrong, code = None, 2
    with connections.listen(host, port) as listener:
      while wrong is None and len(self._connections) + 1 < me["processes"]:
        connection, answer = connections.accept(listener, deadline)
        if connection is None:
          missing = set(range(me["processes"])) - self._hosts.keys()
          wrong = (
            f"{_several(missing)} of {me['processes']} did not come within"
            f" {timeout:.0f} s; start the missing, or correct --num_processes"
          )
          code = 1
        elif answer is not None:
          wrong = self._differs(me, answer)
          i = answer["process"]
          self._connections[-1 if wrong else i] = connection
          self._hosts.setdefault(i, answer["host"])
      no = {"failed": wrong, "code": code}
      self._tell(no if wrong else {"hosts": "all"})
      if wrong is not None:
        # Processes that connect late get the message as well.
        until = min(deadline, time.monotonic() + 5) if self._connections else 0
        while (
          connection := connections.accept(listener, until)[0]
        ) is not None:
          connections.send(connection, no)
        raise _refusal(no)

  def _differs(self, me: dict, answer: dict) -> str | None:
    """Returns why the process that answered does not belong to this run."""
    i, theirs = answer["process"], answer["facts"]
    name, mine = f"process {i} ({answer['host']})", f"process 0 ({me['host']})"
    if answer["processes"] != me["processes"]:
      return (
        f"{name} was started with --num_processes={answer['processes']}, {mine}"
        f" with {me['processes']}; give all the same number"
      )
    if i in self._hosts:
      return (
        f"two processes say --process_id={i}, on {self._hosts[i]} and on"
        f" {answer['host']}; give each its own"
      )
    keys = sorted(me["facts"].keys() | theirs.keys())
    differ = [k for k in keys if me["facts"].get(k) != theirs.get(k)]
    if not differ:
      return None
    few = "; ".join(
      f"{k} is {theirs.get(k)}, not {me['facts'].get(k)}" for k in differ[:3]
    )
    more = f"; and {len(differ) - 3} more" if len(differ) > 3 else ""
    return (
      f"{name} differs from {mine}: {few}{more}; start all from the same code"
      " with the same --config"
    )

  def _answer_roll(self, host, port, me, deadline, timeout) -> None:
    while time.monotonic() < deadline:
      try:
        connection = socket.create_connection((host, port), timeout=5)
      except OSError:
        time.sleep(0.2)  # not open yet
        continue
      connections.send(connection, me)
      connection.settimeout(max(0.1, deadline + 5 - time.monotonic()))
      answer = connections.receive(connection)
      if "failed" in answer:
        raise _refusal(answer)
      if "hosts" in answer:
        connection.settimeout(None)
        self._connections, self._hosts = {0: connection}, {0: host}
        return
      connection.close()
      time.sleep(0.2)  # closed by an earlier process that is about to end
    raise Unavailable(
      f"process {me['process']} ({me['host']}): no answer from process 0 at"
      f" {host}:{port} within {timeout:.0f} s; start it, or correct"
      " --coordinator_address (the port below its own must be free, too)"
    )

  # --- Messages after the roll call -------------------------------------------

  def _tell(self, message: dict, but: int | None = None) -> None:
    with self._sending:
      for i, connection in self._connections.items():
        if i != but:
          connections.send(connection, message)

  def _read(self, i: int, connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
      for row in connection.makefile("rb"):
        message = json.loads(row)
        if "done" in message:
          with self._news:
            self._done.add(i)
            self._news.notify()
          continue
        if not self._id:
          self._tell(message, but=i)
        if "failed" in message:
          self._end(message["failed"], message["code"])
        self._stop.set()
    if i not in self._done:
      text = f"process {i} ({self._hosts[i]}) is gone: killed, or disconnected"
      self._tell({"failed": text, "code": 1})
      self._end(text, 1)

  def _end(self, text: str, code: int) -> NoReturn:
    if self._ending.acquire(blocking=False):  # one reason is enough
      again = "" if code == 2 else f"; {_AGAIN}"
      print(f"error: {text}{again}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    # The others need time to read the reason: without process 0 they abort, and
    # closing a connection that has unread data may lose what was sent.
    time.sleep(_GRACE_SECONDS if not self._id else _GRACE_SECONDS / 4)
    lease.release_all()
    # sys.exit would wait until the others leave JAX as well.
    os._exit(code)


def _refusal(message: dict) -> Exception:
  """Returns the error to raise if the roll call ends with `message`."""
  kind = InputError if message["code"] == 2 else Unavailable
  return kind(message["failed"])


def _several(ids: set[int]) -> str:
  few = ", ".join(str(i) for i in sorted(ids)[:8])
  dots = " …" if len(ids) > 8 else ""
  return f"process{'es' if len(ids) > 1 else ''} {few}{dots}"
