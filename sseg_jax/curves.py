"""Draws a scalar of several runs into one picture, and compares their ends.

The runs are compared with the first one. `study/curves.py` does the work.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from sseg_jax import command_line, files
from sseg_jax.errors import InputError, reported
from sseg_jax.images import drawing
from sseg_jax.study.curves import compare, read


def _parser() -> argparse.ArgumentParser:
  parser = command_line.Parser(
    "curves",
    "Draws a scalar of several runs into one picture, and compares the end of"
    " each run with that of the first.",
    (
      "\\\n    float32=runs/f32 bfloat16=runs/bf16 --out=loss.png",
      "first=runs/a second=runs/b \\\n    --scalar=loss/contrastive --json",
    ),
  )
  add = parser.add_argument
  add(
    "runs",
    nargs="+",
    metavar="NAME=FOLDER",
    help="what to call a run, and its work directory or metrics.jsonl",
  )
  add(
    "--scalar",
    default="loss",
    help="its name in metrics.jsonl; default: %(default)s",
  )
  add(
    "--out", type=files.path, help="a PNG; without it only numbers are printed"
  )
  add("--json", action="store_true", help="print JSON")
  return parser


@reported
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command."""
  flags = _parser().parse_args(argv)
  curves = {}
  for run in flags.runs:
    name, equals, folder = run.partition("=")
    if not equals or not name or name in curves:
      raise InputError(f"{run}: give NAME=FOLDER, each name once")
    curves[name] = read(files.path(folder), flags.scalar)
  if flags.out:
    drawing.curve(
      flags.out, curves, title=flags.scalar, x="step", y=flags.scalar
    )
  rows = compare(curves)
  if flags.json:
    print(json.dumps(rows))
    return 0
  for i, row in enumerate(rows):
    line = f"{row['run']}: mean {row['last']:.5g} over the last quarter"
    if i and row["largest"] is not None:
      line += (
        f"; differs from the first run by {row['difference']:.2g} on average"
        f" there, by {row['largest']:.2g} at most"
      )
    print(line)
  return 0


if __name__ == "__main__":
  sys.exit(main())
