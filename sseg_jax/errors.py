"""The exceptions that commands print as one line, and the code that does it."""

import functools
import io
import sys
from collections.abc import Callable

_LONGEST = 4000  # letters of a message


class InputError(ValueError):
  """Something the user gave is wrong.

  The message is one line that names the field or file, its value and the
  remedy. Line breaks in what a user gave are taken out here, and what is
  long is cut.
  """

  def __init__(self, message: str):
    """Takes the message; it is made one line of bounded length."""
    text = " ".join(message.splitlines())
    if len(text) > _LONGEST:
      text = f"{text[: _LONGEST - 400]} … {text[-400:]}"
    super().__init__(text)

  def _render_traceback_(self) -> list[str]:
    """Is what notebooks print in place of a traceback."""
    return [f"error: {self}"]


class Unavailable(RuntimeError):
  """Something outside of this process was not available in time.

  The message is one line, as an `InputError`'s; but starting again may help.
  """


def brief(error: BaseException) -> str:
  """Returns kind and text of any error, short and without line breaks."""
  text = " ".join(str(error).split())[:160]
  return f"{type(error).__name__}: {text}" if text else type(error).__name__


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
