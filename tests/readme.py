"""Commands that README.md and other pages show.

`tests/test_documentation.py` checks and runs them. .ci/run executes the blocks
of README.md that have a mark; a mark is a line `<!-- ci: NAME -->` before the
block:

    python tests/readme.py quickstart --append="--config.total_steps=20"

Lines are printed as they stand, but `--append` goes to the end of each command
that runs `sseg_jax.main`.
"""

import argparse
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

README = pathlib.Path(__file__).parents[1] / "README.md"


class Block(NamedTuple):
  """A fenced block: its mark for .ci/run ("" without), language and text."""

  mark: str
  language: str
  text: str

  def lines(self) -> list[str]:
    """Returns its lines, continued ones joined, without comments."""
    joined = self.text.replace("\\\n", " ").splitlines()
    return [s for line in joined if (s := line.strip()) and s[0] != "#"]


def blocks(text: str) -> Iterator[Block]:
  """Yields the fenced blocks of a page."""
  for found in re.finditer(
    r"^(?:<!-- ci: (.*?) -->\s*^)?```(\w*)\n(.*?)^```$",
    text,
    re.MULTILINE | re.DOTALL,
  ):
    yield Block(*(part or "" for part in found.groups()))


def inline(text: str) -> list[str]:
  """Returns the commands that stand within sentences and can be checked."""
  found = re.findall(
    r"(?<!`)`((?:python -m|pip install|launch/\w+\.sh)\s[^`]*)`", text
  )
  return [" ".join(command.split()) for command in found]


def commands(text: str, name: str, append: str = "") -> list[str]:
  """Returns the commands of the block that has a mark."""
  for block in blocks(text):
    if block.mark == name:
      return [
        f"{line} {append}".strip() if "sseg_jax.main" in line else line
        for line in block.lines()
      ]
  raise SystemExit(f"README.md has no block after <!-- ci: {name} -->")


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("name")
  parser.add_argument("--append", default="")
  args = parser.parse_args()
  text = README.read_text(encoding="utf-8")
  print("\n".join(commands(text, args.name, args.append)))
  return 0


if __name__ == "__main__":
  sys.exit(main())
