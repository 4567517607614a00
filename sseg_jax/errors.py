"""The exceptions that commands print as one line, and the code that does it."""

import functools
import io
import sys
from collections.abc import Callable


class InputError(ValueError):
  """Something the user gave is wrong.

  The message is one line that names the field or file, its value and the
  remedy.
  """

  def _render_traceback_(self) -> list[str]:
    """Is what notebooks print in place of a traceback."""
    return [f"error: {self}"]


class Unavailable(RuntimeError):  # noqa: N818, says what it is
  """Something outside of this process was not available in time.

  The message is one line, as an `InputError`'s; but starting again may help.
  """


def reported(main: Callable[..., int | None]) -> Callable[..., int]:
  """Wraps a command's main: it prints these errors as one line.

  The exit code is 2 for an `InputError` and 1 for `Unavailable`.
  """

  @functools.wraps(main)
  def wrapper(*args, **kwargs) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
      # A name that is not text (or not in the terminal's letters) is printed
      # as \udce9, as standard error does it.
      sys.stdout.reconfigure(errors="backslashreplace")
    try:
      return main(*args, **kwargs) or 0
    except (InputError, Unavailable) as error:
      print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
      return 2 if isinstance(error, InputError) else 1

  return wrapper
