"""Draws a scalar of several runs over one another, and compares their ends.

    python -m sseg_jax.ablations --rows=trained,bfloat16 --steps=200 --out=OUT \
      --set log_every_steps=1
    python -m sseg_jax.curves float32=OUT/trained/seed0 \
      bfloat16=OUT/bfloat16/seed0 --out=loss.png

Runs are work directories or their `metrics.jsonl`; the first is the one that
the others are compared with.
"""

import argparse
import json
import sys
from collections.abc import Sequence

from sseg_jax import files
from sseg_jax.errors import InputError, reported
from sseg_jax.images import drawing
from sseg_jax.study.curves import compare, read


@reported
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command."""
  parser = argparse.ArgumentParser(
    prog="python -m sseg_jax.curves",
    description="Draws a scalar of several runs over one another.",
  )
  add = parser.add_argument
  add(
    "runs", nargs="+", metavar="NAME=FOLDER", help="a run and what to call it"
  )
  add("--scalar", default="loss", help="as it is called in metrics.jsonl")
  add(
    "--out", type=files.path, help="a PNG; without it only numbers are printed"
  )
  add("--json", action="store_true", help="print JSON")
  flags = parser.parse_args(argv)
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
    line = f"{row['run']}: {row['last']:.5g} over the last quarter"
    if i and row["largest"] is not None:
      line += (
        f", {row['difference']:.2g} from the first there,"
        f" {row['largest']:.2g} at most"
      )
    print(line)
  return 0


if __name__ == "__main__":
  sys.exit(main())
