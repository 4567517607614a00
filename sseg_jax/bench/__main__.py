"""Measures the speed of this package and of the usual alternatives.

This is the command; `cases.py` is the registry of what it measures.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence

from sseg_jax import command_line
from sseg_jax.bench import timing
from sseg_jax.bench.cases import CASES, CHOOSE, FOR_GPUS
from sseg_jax.errors import InputError, reported
from sseg_jax.runtime import progress_bar

_EXAMPLES = (
  "--cases=kmeans,assignment",
  "--cases=paper_step --batch_size=64 --alone --json",
)


def _parser() -> argparse.ArgumentParser:
  usual = [name for name in CASES if name not in FOR_GPUS]
  parser = command_line.Parser(
    "bench",
    "Times the same work done in several ways: by this package and by others. "
    + "Cases: "
    + "; ".join(f"{name}: {case.what}" for name, case in CASES.items())
    + ".",
    _EXAMPLES,
  )
  add = parser.add_argument
  add(
    "--cases",
    default=",".join(usual),
    help="comma-separated; those for GPUs run only if they are named; default:"
    " all others",
  )
  add(
    "--rounds",
    type=int,
    default=7,
    help="how often all ways are run in turn; the median is reported",
  )
  add(
    "--small", action="store_true", help="tiny sizes, to see that a case runs"
  )
  add(
    "--batch_size",
    type=int,
    help=f"of {', '.join(CHOOSE)}; by default 128",
  )
  add(
    "--alone",
    action="store_true",
    help="do not run torch, for a batch that it has no memory for; with the"
    " same cases as --batch_size",
  )
  add("--json", action="store_true", help="print the measurements as JSON")
  return parser


@reported
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command."""
  flags = _parser().parse_args(argv)
  names = [name.strip() for name in flags.cases.split(",") if name.strip()]
  unknown = [name for name in names if name not in CASES]
  if unknown or not names:
    raise InputError(
      f"cases={flags.cases!r}: use names of {', '.join(CASES)}, with commas"
    )
  if flags.rounds < 1:
    raise InputError(f"rounds={flags.rounds}: must be at least 1")
  if flags.batch_size is not None and flags.batch_size < 1:
    raise InputError(f"batch_size={flags.batch_size}: must be at least 1")
  chosen = {}
  if flags.batch_size or flags.alone:
    chosen = {"batch_size": flags.batch_size, "alone": flags.alone}
    if set(names) - set(CHOOSE):
      raise InputError(
        "batch_size and alone can only be given for the cases"
        f" {', '.join(CHOOSE)}; name them with --cases"
      )
  import jax

  from sseg_jax.plan import chips
  from sseg_jax.runtime import provenance

  results = {}
  peak = chips.peak_flops(jax.devices()[0].device_kind)
  with progress_bar.progress_bar(len(names), "cases") as bar:
    for name in names:
      bar.set_description(name)
      results[name] = timing.measure(
        CASES[name](flags.small, **chosen), rounds=flags.rounds, peak_flops=peak
      )
      bar.update()
  machine = {
    "device": jax.devices()[0].device_kind,
    "processor": platform.processor() or platform.machine(),
    "cores": len(os.sched_getaffinity(0))
    if hasattr(os, "sched_getaffinity")
    else os.cpu_count(),
  }
  if flags.json:
    report = {"results": results, "machine": machine}
    print(json.dumps(report | {"versions": provenance.versions()}))
  else:
    print(timing.table(results))
    print(", ".join(f"{key}: {value}" for key, value in machine.items()))
  return 0


if __name__ == "__main__":
  sys.exit(main())
