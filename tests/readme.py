"""Prints a marked code block of README.md, for .ci/run to execute.

A block is the first fenced one after a line `<!-- ci: NAME -->`:

    python tests/readme.py quickstart --append="--config.total_steps=20"

Lines are printed as they stand, but for two things: `git clone` and `cd` are
left out, since CI stands in a checkout already, and `--append` goes to the end
of each command that runs `sseg_jax.main`.
"""

import argparse
import pathlib
import re
import sys

README = pathlib.Path(__file__).parents[1] / "README.md"


def commands(text: str, name: str, append: str = "") -> list[str]:
  """Returns the commands of one block, with continued lines joined."""
  block = re.search(
    rf"^<!-- ci: {re.escape(name)} -->\s*^```(?:bash|sh|console)\n(.*?)^```",
    text,
    re.MULTILINE | re.DOTALL,
  )
  if block is None:
    raise SystemExit(f"README.md has no shell block after <!-- ci: {name} -->")
  found = []
  for line in block[1].replace("\\\n", " ").splitlines():
    line = line.strip().removeprefix("$ ")
    if not line or line.startswith(("#", "git clone ", "cd ")):
      continue
    if append and "sseg_jax.main" in line:
      line = f"{line} {append}"
    found.append(line)
  return found


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
