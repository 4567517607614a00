"""Starts the page's server, and stops it when it is asked to.

Import this module only where Gradio is installed.
"""

import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from sseg_jax.errors import InputError
from sseg_jax.inference.api import Model
from sseg_jax.page import examples, layout
from sseg_jax.page.handlers import Handlers
from sseg_jax.page.limits import Limits
from sseg_jax.page.pictures import SHORT_SIDE

_AGE = 3600  # seconds after which files are deleted
_EVERY = 60.0  # seconds between two looks for such files
_SESSIONS = 200  # of which Gradio keeps the state
# Pictures of these shapes need no compilation when they are given. Others take
# a few seconds once; after that, they are in the cache on disk.
_SHAPES = ((1, 1), (3, 4))


def serve(
  load: Callable[[], Model],
  *,
  host: str,
  port: int,
  share: bool,
  limits: Limits,
) -> NoReturn:
  """Runs the page until SIGINT or SIGTERM, which end the process at once.

  Args:
    load: returns the model.
    host: address to listen on.
    port: to listen on; 0 for any that is free.
    share: whether Gradio's public servers pass on the page.
    limits: what one visitor may ask for.

  Raises:
    InputError: the port is taken, or there is no model.
  """
  folder = Path(tempfile.mkdtemp(prefix="sseg_jax_page_"))
  stop = _Stop(folder)
  try:
    port = _free_port(host, port)
    # In a thread, because Python delays signals while XLA compiles.
    model = stop.run(lambda: warm(load()))
    handlers = Handlers(model, folder, limits)
    address = launch(handlers, folder, host=host, port=port, share=share)
    _clean_in_background(folder)
    print(f"ready: {address} (Ctrl-C ends it)", flush=True)
    stop.wait()
  except BaseException:
    shutil.rmtree(folder, ignore_errors=True)
    raise


def warm(model: Model) -> Model:
  """Compiles what most pictures need; returns the model."""
  for shape in _SHAPES:
    size = [side * SHORT_SIDE // min(shape) for side in shape]
    grey = np.full((*size, 3), 128, np.uint8)
    model.segment(grey, ["one", "two"]).heatmap("one")
  return model


def launch(
  handlers: Handlers, folder: Path, *, host: str, port: int, share: bool
) -> str:
  """Starts the server in a thread; returns its address."""
  # Read when parts of the page are made.
  os.environ["GRADIO_TEMP_DIR"] = str(folder / "gradio")
  drawn = examples.draw(folder / "examples")
  layout.gr.set_static_paths([folder / "examples"])
  page = layout.build(handlers, drawn)
  try:
    _, address, public = page.launch(
      server_name=host,
      server_port=port,
      share=share,
      prevent_thread_lock=True,
      quiet=True,
      inbrowser=False,
      ssr_mode=False,
      pwa=False,
      mcp_server=False,
      run_history=False,
      enable_monitoring=False,
      footer_links=[],
      max_file_size=handlers.limits.megabytes * 10**6,
      state_session_capacity=_SESSIONS,
      allowed_paths=[str(handlers.folder)],
      theme=layout.theme(),
      css_paths=[layout.STYLE],
    )
  except OSError as error:
    raise _taken(host, port) from error
  return public or address


def clean(folder: Path, age: float = _AGE) -> int:
  """Deletes files of visitors; returns their number.

  Args:
    folder: that holds them.
    age: seconds since they were last written.
  """
  before, deleted = time.time() - age, 0
  for path in folder.rglob("*"):
    if "examples" in path.relative_to(folder).parts:
      continue
    try:
      if path.is_dir():
        # A new folder may wait for its first file.
        if path.stat().st_mtime < before and path.parent != folder:
          path.rmdir()
      elif path.stat().st_mtime < before:
        path.unlink()
        deleted += 1
    except OSError:  # not empty, or deleted by someone else
      continue
  return deleted


def _clean_in_background(folder: Path) -> None:
  def forever():
    while True:
      time.sleep(_EVERY)
      clean(folder)

  threading.Thread(target=forever, daemon=True).start()


def _free_port(host: str, port: int) -> int:
  """Returns the port, or a free one for 0; InputError if it is taken."""
  try:
    kind, *_, address = socket.getaddrinfo(host, port)[0]
    with socket.socket(kind, socket.SOCK_STREAM) as listener:
      # As the server does it: a port is free once its last owner has ended.
      listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      listener.bind(address)
      return listener.getsockname()[1]
  except (socket.gaierror, UnicodeError) as error:
    raise InputError(
      f"host={host}: is no address of this machine; use 127.0.0.1, or 0.0.0.0"
      " for all its addresses"
    ) from error
  except (OSError, OverflowError) as error:
    raise _taken(host, port) from error


def _taken(host: str, port: int) -> InputError:
  return InputError(
    f"port={port}: cannot be listened on at {host}; another program may have"
    " it: give another --port, or 0 for any that is free"
  )


class _Stop:
  """Ends the process at SIGINT and SIGTERM, whatever its threads do."""

  def __init__(self, folder: Path):
    self._folder = folder
    self._never = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
      signal.signal(number, self._end)

  def _end(self, number: int, frame: Any) -> NoReturn:
    shutil.rmtree(self._folder, ignore_errors=True)
    sys.stdout.flush()
    # Without waiting for pictures that are being segmented. The code is the
    # one that shells give for a signal.
    os._exit(128 + number)

  def run(self, work: Callable[[], Model]) -> Model:
    """Runs something in a thread, so that a signal need not wait for it."""
    results: list[Model] = []
    errors: list[BaseException] = []

    def run():
      try:
        results.append(work())
      except BaseException as error:
        errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
      thread.join(0.2)
    if errors:
      raise errors[0]
    return results[0]

  def wait(self) -> NoReturn:
    """Waits for a signal."""
    while True:
      self._never.wait(3600)
