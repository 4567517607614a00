"""Runs rows one after the other, and keeps the table of their scores.

Each training is a process of its own: `sseg_jax.main` in OUT/ROW/seedN.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sseg_jax.study import table
from sseg_jax.study.rows import ROWS, plan
from sseg_jax.study.runs import PREEMPTED, Run, execute


def run(
  names: Sequence[str],
  seeds: Sequence[int],
  *,
  out: Path,
  config_path: str,
  settings: Mapping[str, Any],
) -> int:
  """Runs what is not finished yet, and writes the table after each run.

  Args:
    names: of rows, in the order of `ROWS`.
    seeds: of each row.
    out: folder of the runs and of the table.
    config_path: the config that all rows change.
    settings: fields of it that are overridden in all rows.

  Returns:
    The exit code: 0, 1 if a run failed, `PREEMPTED` if this process was asked
    to stop.

  Raises:
    InputError: if a folder holds a run with other settings.
  """
  planned = functools.partial(
    plan, out=out, config_path=config_path, settings=settings
  )
  runs, left_out = planned(names, seeds)
  for one in runs:
    one.prepare()
  # The table also has what earlier commands finished under the same settings.
  everything, _ = planned(list(ROWS), _seeds_in(out))
  failed: list[tuple[str, int]] = []
  for i, one in enumerate(runs):
    place = f"[{i + 1}/{len(runs)}] {one.name} seed {one.seed}"
    if one.result() is not None:
      _tell(f"{place}: finished before")
      continue
    if (one.row.needs, one.seed) in failed:
      failed.append((one.name, one.seed))
      _tell(
        f"{place}: not run, because it needs the checkpoint of the row"
        f" {one.row.needs}, which failed"
      )
      continue
    _tell(f"{place}: {one.workdir}")
    code = execute(one)
    if code == PREEMPTED:
      _tell("stopped by a signal; run the same command again to continue")
      return code
    if code:
      failed.append((one.name, one.seed))
      output = one.workdir / "output.txt"
      _tell(f"{place}: failed with exit code {code}, see {output}")
    table.write(out, _results(everything), left_out)
  table.write(out, _results(everything), left_out)
  return 1 if failed else 0


def _tell(message: str) -> None:
  print(message, file=sys.stderr, flush=True)


def _seeds_in(out: Path) -> list[int]:
  """Returns the seeds of all runs in a folder, finished or not."""
  names = {path.name.removeprefix("seed") for path in out.glob("*/seed*")}
  return sorted(int(name) for name in names if name.isdigit())


def _results(runs: Sequence[Run]) -> dict[str, list[dict[str, Any]]]:
  """Returns the finished results of each row that has any, in order."""
  found: dict[str, list[dict[str, Any]]] = {name: [] for name in ROWS}
  for one in runs:
    if one.changes() == []:
      result = one.result()
      if result is not None:
        found[one.name].append(result)
  return {name: results for name, results in found.items() if results}
