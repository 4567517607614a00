"""What a result came from: versions of packages, commit of the source."""

import functools
import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path

from sseg_jax import __version__

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
  """Returns the versions that a result depends on."""
  found = {"python": platform.python_version(), "sseg_jax": __version__}
  for name in PACKAGES:
    found[name] = importlib.metadata.version(name)
  return found


def git_commit() -> str | None:
  """Returns the checkout's commit, with "+changes"; None outside of one."""
  folder = Path(__file__).parents[1]  # the package, not its runtime/

  def git(*arguments: str) -> str:
    return subprocess.run(
      ["git", "-C", str(folder), *arguments],
      capture_output=True,
      text=True,
      check=True,
      timeout=10,
    ).stdout.strip()

  try:
    if Path(git("rev-parse", "--show-toplevel")) != folder.parent:
      return None
    dirty = "+changes" if git("status", "--porcelain") else ""
    return git("rev-parse", "HEAD") + dirty
  except (OSError, subprocess.SubprocessError):
    return None


@functools.cache
def code() -> str:
  """Returns a hash of the package's source: other code, other numbers."""
  folder = Path(__file__).parents[1]
  found = hashlib.sha256()
  for path in sorted(folder.rglob("*.py")):
    found.update(path.relative_to(folder).as_posix().encode())
    found.update(path.read_bytes())
  return found.hexdigest()
