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
from pathlib import Path

import numpy as np

from sseg_jax import files
from sseg_jax.errors import InputError, reported
from sseg_jax.images import drawing

Curve = tuple[Sequence[float], Sequence[float]]  # steps, values


def read(path: Path, name: str) -> Curve:
  """Returns the scalar `name` of a run at the steps where it was written.

  Raises:
    InputError: if the file is missing or broken, or has no such scalar.
  """
  file = path / "metrics.jsonl" if path.is_dir() else path
  try:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
  except (OSError, ValueError) as error:
    raise InputError(
      f"{file}: no scalars of a run ({error}); give its work directory"
    ) from error
  steps = [row["step"] for row in rows if name in row]
  if not steps:
    known = sorted({key for row in rows for key in row} - {"step"})
    raise InputError(
      f"{file}: has no scalar {name!r}; it has {', '.join(known) or 'none'}"
    )
  return steps, [row[name] for row in rows if name in row]


def compare(curves: dict[str, Curve]) -> list[dict]:
  """Compares each curve with the first one, at the steps that both have.

  Returns:
    For each: `run`, `last` (the mean of its last quarter), and `difference` and
    `largest`: the mean over these steps, and the maximum over all, of the
    distance to the first run. None where no step is in both.
  """
  first = dict(zip(*next(iter(curves.values())), strict=True))
  rows = []
  for name, (steps, values) in curves.items():
    common = [
      abs(value - first[step])
      for step, value in zip(steps, values, strict=True)
      if step in first
    ]
    rows.append(
      {
        "run": name,
        "last": float(np.mean(values[-max(1, len(values) // 4) :])),
        "difference": float(np.mean(common[-max(1, len(common) // 4) :]))
        if common
        else None,
        "largest": max(common, default=None),
      }
    )
  return rows


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
