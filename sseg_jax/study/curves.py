"""Scalars of runs, read from their `metrics.jsonl` and compared."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sseg_jax.errors import InputError

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
