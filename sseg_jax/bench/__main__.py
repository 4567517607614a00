"""Measures the speed of this package and of the usual alternatives.

python -m sseg_jax.bench --cases=kmeans,vit --json
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence

from sseg_jax.errors import InputError, reported


def _parser() -> argparse.ArgumentParser:
  from sseg_jax.bench.cases import CASES, FOR_GPUS

  usual = [name for name in CASES if name not in FOR_GPUS]
  parser = argparse.ArgumentParser(
    prog="python -m sseg_jax.bench",
    description="Times the same work done in several ways, side by side.",
    epilog="cases: "
    + "; ".join(
      f"{name}: {(case.__doc__ or '').splitlines()[0]}"
      for name, case in CASES.items()
    ),
  )
  add = parser.add_argument
  add(
    "--cases",
    default=",".join(usual),
    help="names, with commas; those for GPUs only where they are named",
  )
  add("--rounds", type=int, default=7, help="turns of which medians are taken")
  add("--small", action="store_true", help="tiny sizes: does it run at all?")
  add("--batch_size", type=int, help="of cases for GPUs; 128 by default")
  add("--alone", action="store_true", help="cases for GPUs without torch's")
  add("--json", action="store_true", help="print the measurements as JSON")
  return parser


@reported
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command."""
  import jax

  from sseg_jax.bench import timing
  from sseg_jax.bench.cases import CASES, CHOOSE
  from sseg_jax.plan import chips
  from sseg_jax.runtime import provenance

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
        f"batch_size, alone: go with --cases of {', '.join(CHOOSE)}"
      )
  results = {}
  peak = chips.peak_flops(jax.devices()[0].device_kind)
  for name in names:
    print(f"{name} …", file=sys.stderr, flush=True)
    results[name] = timing.measure(
      CASES[name](flags.small, **chosen), rounds=flags.rounds, peak_flops=peak
    )
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
