"""Small files that stay whole when the process is killed.

Paths are of `pathlib` or `epath`. Nothing but the standard library is needed.
"""

import json
import logging
from typing import Any


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
