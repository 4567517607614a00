"""Compiled programs on disk, so that the next process need not compile them."""

import importlib.util
import logging
import os
from pathlib import Path
from typing import Any

import jax

_LARGEST = 2**30  # bytes; the programs used longest ago are deleted
_SECONDS = 0.1  # programs that compile faster are not kept
_log = logging.getLogger(__name__)


def default_folder() -> Path:
  """Returns `$XDG_CACHE_HOME/sseg_jax/compiled`, or that below `~/.cache`."""
  home = os.environ.get("XDG_CACHE_HOME", "")
  # The XDG base directory specification: relative values are ignored.
  base = Path(home) if os.path.isabs(home) else Path.home() / ".cache"
  return base / "sseg_jax" / "compiled"


def use(folder: str | os.PathLike | None = None) -> Path | None:
  """Keeps what JAX compiles from now on in a folder, and reads it from there.

  Call it before anything is compiled. JAX finds a program by its content, the
  versions of JAX and of the compiler, and the kind of device.

  Args:
    folder: instead of `default_folder`. Only its owner may enter it if it is
      made here, because what it holds is executed.

  Returns:
    The folder; None if there is none: `JAX_ENABLE_COMPILATION_CACHE=false` is
    set, or it cannot be written to. A folder that the user has named to JAX
    (`JAX_COMPILATION_CACHE_DIR`) is used instead.
  """
  settings: Any = jax.config  # whose attributes mypy does not know
  if not settings.jax_enable_compilation_cache:
    return None
  if settings.jax_compilation_cache_dir:
    return Path(settings.jax_compilation_cache_dir)
  try:
    path = Path(folder) if folder is not None else default_folder()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
      raise PermissionError(f"nothing may be written to {path}")
  except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
    _log.info("compiled programs are not kept: %s", error)
    return None
  jax.config.update("jax_compilation_cache_dir", str(path))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", _SECONDS)
  # JAX needs this package, of which `tokenizers` depends, to limit the size.
  if importlib.util.find_spec("filelock"):
    jax.config.update("jax_compilation_cache_max_size", _LARGEST)
  return path
