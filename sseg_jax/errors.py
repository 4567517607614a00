"""The one exception that bad input raises, and how commands report it."""

import functools
import sys
from collections.abc import Callable


class InputError(ValueError):
  """Something the user gave is wrong.

  The message is one line that names the field or file, its value and the
  remedy.
  """


def reported(main: Callable[..., int | None]) -> Callable[..., int]:
  """Wraps a command's main: `InputError` becomes one line and exit code 2."""

  @functools.wraps(main)
  def wrapper(*args, **kwargs) -> int:
    try:
      return main(*args, **kwargs) or 0
    except InputError as error:
      print(f"error: {error}", file=sys.stderr)
      return 2

  return wrapper
