"""The parser that all commands share, whose help ends with examples."""

import argparse
from collections.abc import Sequence

from sseg_jax import default_config, files, prompts


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


def add_checkpoint(parser: argparse._ActionsContainer) -> None:
  """Adds `--checkpoint` and `--revision`, which name what `load` reads."""
  parser.add_argument(
    "--checkpoint",
    required=True,
    type=files.expand,
    help="work directory, a step's folder, a folder that `export` wrote, or a"
    " repository org/name of the Hugging Face hub",
  )
  parser.add_argument(
    "--revision", help="commit, branch or tag of a repository"
  )


def add_templates_and_combiner(parser: argparse._ActionsContainer) -> None:
  """Adds `--templates` and `--combiner`, which override a checkpoint's own."""
  parser.add_argument(
    "--templates",
    choices=prompts.TEMPLATES,
    help="sentences that a word is put into; default: the checkpoint's",
  )
  parser.add_argument(
    "--combiner",
    choices=default_config.COMBINERS,
    help="how masks and words give the score of a pixel; default: the"
    " checkpoint's",
  )


def numbers(text: str) -> tuple[float, ...]:
  """Returns comma-separated numbers, as a flag's `type`."""
  try:
    return tuple(float(part) for part in text.split(","))
  except ValueError:
    raise argparse.ArgumentTypeError(
      f"{text!r}: give numbers with commas between them, e.g. 0.75,1,1.25"
    ) from None
