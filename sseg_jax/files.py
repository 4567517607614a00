"""Paths as a user gives them; small files that stay whole when killed.

Paths are of `pathlib` or `epath`. Nothing but the standard library is needed.
"""

import json
import logging
import os
from typing import Any


def expand(path: str | os.PathLike) -> str:
  """Returns a path with a leading `~` or `~user` replaced by that home folder.

  A shell does this only for a `~` that starts a word, so not in
  `--workdir=~/run`, and never in a config file. A path with a scheme
  (`gs://BUCKET/run`), "" and the name of an unknown user stay as they are.
  """
  text = os.fspath(path)
  return text if "://" in text else os.path.expanduser(text)


def write_text(path: Any, text: str) -> None:
  """Writes a file, whose old content stays until the new one is complete."""
  new = path.with_name(f"{path.name}.new")
  new.write_text(text)
  new.replace(path)


def read_json(path: Any) -> Any | None:
  """Returns a file's content; None without one, with a warning for none."""
  try:
    return json.loads(path.read_text())
  except FileNotFoundError:
    return None
  except ValueError as error:
    logging.getLogger(__name__).warning(
      "%s is not readable (%s): taken as missing", path, error
    )
    return None
