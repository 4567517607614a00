"""Trains variants of one config over several seeds, and tabulates their scores.

This is the command. `study/rows.py` holds the variants, `study/series.py` runs
them.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sseg_jax import command_line, files
from sseg_jax.config_files import parse_settings
from sseg_jax.errors import InputError, reported
from sseg_jax.study import series
from sseg_jax.study.rows import ROWS, choose
from sseg_jax.study.runs import PREEMPTED


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
    default="quickstart",
    help="name or file of the config that all rows change; default:"
    " %(default)s",
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
    help="comma-separated names of rows, or of the groups table, table3 (the"
    " paper's Table 3) and ablation; default: %(default)s",
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
  code = series.run(
    choose(flags.rows),
    seeds,
    out=flags.out,
    config_path=flags.config,
    settings=settings,
  )
  if code != PREEMPTED:
    name = "table.json" if flags.json else "table.md"
    text = (flags.out / name).read_text()
    print(json.dumps(json.loads(text)) if flags.json else text)
  return code


if __name__ == "__main__":
  sys.exit(main())
