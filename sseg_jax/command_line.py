"""The parser of flags that all commands share: its help ends with examples."""

import argparse
from collections.abc import Sequence


class Parser(argparse.ArgumentParser):
  """An `ArgumentParser` whose `--help` ends with examples."""

  def __init__(self, command: str, description: str, examples: Sequence[str]):
    """Has no flags yet.

    Args:
      command: name of the module below `sseg_jax`.
      description: what the command does, in one or two sentences.
      examples: flags of two or more calls, each of which works as it stands
        once its paths exist. A line that is longer than a terminal is broken
        by the author, with a backslash.
    """
    super().__init__(
      prog=f"python -m sseg_jax.{command}", description=description
    )
    self._examples = tuple(examples)

  def format_help(self) -> str:
    """Returns the usual help, and the examples below it."""
    lines = [f"  {self.prog} {example}" for example in self._examples]
    return "\n".join([super().format_help(), "examples:", *lines, ""])
