"""TCP connections between the processes of a run, and messages over them."""

import contextlib
import json
import socket
import time

from sseg_jax.errors import InputError, Unavailable


def split(address: str) -> tuple[str, int]:
  """Returns the host and our port, the one below the coordinator's."""
  host, _, port = address.rpartition(":")
  if not host or not port.isdigit() or not 1 < int(port) < 2**16:
    raise InputError(
      f"--coordinator_address={address!r}: give HOST:PORT, of process 0"
    )
  return host.strip("[]"), int(port) - 1


def listen(host: str, port: int) -> socket.socket:
  """Opens a port; Unavailable says so if another program holds it."""
  try:
    if host in ("localhost", "127.0.0.1"):
      return socket.create_server(("127.0.0.1", port), backlog=1024)
    if socket.has_dualstack_ipv6():
      return socket.create_server(
        ("::", port),
        family=socket.AF_INET6,
        dualstack_ipv6=True,
        backlog=1024,
      )
    return socket.create_server(("", port), backlog=1024)
  except OSError as error:
    raise Unavailable(
      f"port {port}, below the one of --coordinator_address, cannot be opened"
      f" ({error.strerror}); end what holds it, or choose another"
    ) from None


def accept(
  listener: socket.socket, deadline: float
) -> tuple[socket.socket | None, dict | None]:
  """Returns a new connection and its first message.

  Both are None at the deadline. The message is None if another program, such as
  a port scanner, has connected.
  """
  listener.settimeout(max(0.01, deadline - time.monotonic()))
  try:
    connection, _ = listener.accept()
  except TimeoutError:
    return None, None
  connection.settimeout(5)
  answer = receive(connection)
  connection.settimeout(None)
  if answer.get("run") != "sseg_jax":
    connection.close()
    return connection, None
  return connection, answer


def send(connection: socket.socket, message: dict) -> None:
  """Sends a message; does nothing if the connection is closed."""
  with contextlib.suppress(OSError):  # reading it will show that it closed
    connection.sendall(json.dumps(message).encode() + b"\n")


def receive(connection: socket.socket) -> dict:
  """Returns the next message; {} if it closed or sent no message."""
  text = b""
  try:
    # Byte by byte, because the bytes after this message are read later.
    while not text.endswith(b"\n") and (byte := connection.recv(1)):
      text += byte
    message = json.loads(text)
  except (OSError, ValueError):
    return {}
  return message if isinstance(message, dict) else {}


def keep_alive(connection: socket.socket) -> None:
  """Closes a connection within half a minute if its machine loses power."""
  connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  if hasattr(socket, "TCP_KEEPIDLE"):  # Linux
    for name, value in (("IDLE", 10), ("INTVL", 5), ("CNT", 4)):
      option = getattr(socket, f"TCP_KEEP{name}")
      connection.setsockopt(socket.IPPROTO_TCP, option, value)
