"""Trains variants of one config over several seeds, and tabulates their scores.

Each training is a process of its own: `sseg_jax.main` in OUT/ROW/seedN. The
variants are the rows of `study/rows.py`.
"""

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sseg_jax import command_line, files
from sseg_jax.config_files import parse_settings
from sseg_jax.errors import InputError, reported
from sseg_jax.study import table
from sseg_jax.study.rows import ROWS, choose, plan
from sseg_jax.study.runs import PREEMPTED, Run, execute


def _parser() -> argparse.ArgumentParser:
  parser = command_line.Parser(
    "ablations",
    "Trains variants of a config over several seeds, and writes a table of"
    " their scores. Finished runs are kept: the same command, started again,"
    " continues where it stopped.",
    (
      "--list",
      "--config=configs/quickstart.py --rows=table \\\n    --seeds=0,1,2"
      " --out=runs/ablations",
    ),
  )
  add = parser.add_argument
  add(
    "--config",
    default="configs/quickstart.py",
    help="file of the config that all rows change; default: %(default)s",
  )
  add(
    "--out",
    type=files.path,
    default=Path("runs/ablations"),
    help="folder of the runs and of the table; default: %(default)s",
  )
  add(
    "--rows",
    default="table",
    help="comma-separated names of rows, or of the groups table and ablation;"
    " default: %(default)s",
  )
  add("--seeds", default="0", help="comma-separated, e.g. 0,1,2; default: 0")
  add(
    "--steps",
    type=int,
    help="in place of the config's total_steps",
  )
  add(
    "--set",
    action="append",
    default=[],
    metavar="FIELD=VALUE",
    help="changes a field of the base config; may be repeated",
  )
  add(
    "--list",
    action="store_true",
    help="print all rows with their reasons",
  )
  add("--json", action="store_true", help="print the table as JSON")
  return parser


@reported
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command."""
  flags = _parser().parse_args(argv)
  if flags.list:
    rows = {name: dataclasses.asdict(row) for name, row in ROWS.items()}
    if flags.json:
      print(json.dumps(rows))
    for name, row in {} if flags.json else ROWS.items():
      fields = " ".join(f"{k}={v}" for k, v in row.overrides.items())
      print(
        f"{name} ({', '.join(row.groups)}): {row.reason}  {fields}".rstrip()
      )
    return 0
  try:
    seeds = sorted({int(seed) for seed in flags.seeds.split(",")})
  except ValueError as error:
    raise InputError(
      f"seeds={flags.seeds!r}: give whole numbers, e.g. 0,1,2"
    ) from error
  settings: dict[str, Any] = {**parse_settings(flags.set)}
  if flags.steps is not None:
    settings["total_steps"] = flags.steps
  planned = functools.partial(
    plan, out=flags.out, config_path=flags.config, settings=settings
  )
  runs, left_out = planned(choose(flags.rows), seeds)
  for run in runs:
    run.prepare()
  # The table also has what earlier commands finished under the same settings.
  everything, _ = planned(list(ROWS), _seeds_in(flags.out))
  failed: list[tuple[str, int]] = []
  for i, run in enumerate(runs):
    place = f"[{i + 1}/{len(runs)}] {run.name} seed {run.seed}"
    if run.result() is not None:
      print(f"{place}: finished before", file=sys.stderr)
      continue
    if run.row.needs_trained and ("trained", run.seed) in failed:
      failed.append((run.name, run.seed))
      print(
        f"{place}: not run, because it needs the checkpoint of the row trained,"
        " which failed",
        file=sys.stderr,
      )
      continue
    print(f"{place}: {run.workdir}", file=sys.stderr, flush=True)
    code = execute(run)
    if code == PREEMPTED:
      print(
        "stopped by a signal; run the same command again to continue",
        file=sys.stderr,
      )
      return code
    if code:
      failed.append((run.name, run.seed))
      print(
        f"{place}: failed with exit code {code}, see"
        f" {run.workdir / 'output.txt'}",
        file=sys.stderr,
      )
    table.write(flags.out, _results(everything), left_out)
  written = table.write(flags.out, _results(everything), left_out)
  if flags.json:
    print(json.dumps(written))
  else:
    print((flags.out / "table.md").read_text())
  return 1 if failed else 0


def _seeds_in(out: Path) -> list[int]:
  """Seeds of which OUT holds runs, finished or not."""
  names = {path.name.removeprefix("seed") for path in out.glob("*/seed*")}
  return sorted(int(name) for name in names if name.isdigit())


def _results(runs: Sequence[Run]) -> dict[str, list[dict[str, Any]]]:
  """Finished results of each row that has any, rows and seeds in order."""
  found: dict[str, list[dict[str, Any]]] = {name: [] for name in ROWS}
  for run in runs:
    if run.changes() == []:
      result = run.result()
      if result is not None:
        found[run.name].append(result)
  return {name: results for name, results in found.items() if results}


if __name__ == "__main__":
  sys.exit(main())
