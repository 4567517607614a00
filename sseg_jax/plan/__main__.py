"""Plans a training run: memory, operations, time and cost, without the pod.

python -m sseg_jax.plan --config=configs/cc26m.py --topology=v5e:16x16

Compiles the training step for a slice of TPUs that need not be there. Without
--topology it plans for this machine's devices, and runs a few steps beside.

python -m sseg_jax.plan --generators=dino,pixels --topology=v5e

projects what generators of pseudo-masks take on one chip (Table 1).
"""

import argparse
import copy
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from sseg_jax.errors import InputError, reported


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m sseg_jax.plan",
    description="Compiles a config's training step and projects its speed.",
  )
  add = parser.add_argument
  add("--config", help="config file of the training run")
  add(
    "--set",
    action="append",
    default=[],
    metavar="FIELD=VALUE",
    help="overrides a field, e.g. batch_size=1024; may be repeated",
  )
  add(
    "--topology",
    help="slice of TPUs: v4, v5e, v5p or v6e and its shape, e.g. v5e:16x16;"
    " this machine's devices without it",
  )
  add("--sweep", help="numbers of chips, e.g. 8..256: how does it scale?")
  add(
    "--per_chip",
    type=int,
    help="with --sweep: a second curve, of so many pictures a chip",
  )
  add(
    "--generators",
    help="in place of --config: rows of Table 1 (see evaluate --oracle), for"
    " one chip of --topology",
  )
  add("--image_size", type=int, help="with --generators: side, 224 by default")
  add("--batch_size", type=int, help="with --generators: 128 by default")
  add("--k", type=int, help="with --generators: masks an image, 8 by default")
  add("--out", help="with --sweep: folder for the plot and its numbers")
  add("--json", action="store_true", help="print the plan as JSON")
  return parser


@reported
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command."""
  flags = _parser().parse_args(argv)
  _check(flags)
  if flags.topology:
    # Before JAX is imported: libtpu must compile and not look for chips.
    from sseg_jax.plan import environment

    os.environ |= environment.COMPILE_ONLY
  if flags.generators:
    result, text = _generators(flags)
    print(json.dumps(result) if flags.json else text)
    return 0
  from sseg_jax import config_files

  config = config_files.overridden(
    config_files.load(flags.config),
    config_files.parse_settings(flags.set),
  )
  result, text = _sweep(config, flags) if flags.sweep else _plan(config, flags)
  print(json.dumps(result) if flags.json else text)
  return 0


def _check(flags: argparse.Namespace) -> None:
  if bool(flags.config) == bool(flags.generators):
    raise InputError("give either --config, or --generators and --topology")
  for name in ("image_size", "batch_size", "k"):
    value = getattr(flags, name)
    if value is not None and not flags.generators:
      raise InputError(f"{name}: goes with --generators; use --set {name}=…")
    if value is not None and value < 1:
      raise InputError(f"{name}={value}: must be at least 1")
  if flags.generators and (not flags.topology or flags.sweep or flags.set):
    raise InputError(
      "generators: needs --topology, e.g. v5e, and takes no --sweep, no --set"
    )
  if flags.sweep and not flags.topology:
    raise InputError("sweep: give the chip as well, e.g. --topology=v5e")
  for name in ("per_chip", "out"):
    if getattr(flags, name) is not None and not flags.sweep:
      raise InputError(f"{name}: goes with --sweep alone")
  if flags.per_chip is not None and flags.per_chip < 1:
    raise InputError(f"per_chip={flags.per_chip}: must be at least 1")


def _plan(config: Any, flags: argparse.Namespace) -> tuple[Any, str]:
  from sseg_jax.plan import chips, page, planner

  topology = chips.parse(flags.topology) if flags.topology else None
  made = planner.plan(config, topology)
  return made | {"config": flags.config}, page.render(made)


def _generators(flags: argparse.Namespace) -> tuple[Any, str]:
  from sseg_jax.benchmarks import table1_rows
  from sseg_jax.plan import chips, generators, step

  chip = chips.find(flags.topology.partition(":")[0])
  # The smallest slice that libtpu knows of every generation; one chip of it.
  device = step.devices_of(chips.squarest(chip, 4))[0]
  size, batch = flags.image_size or 224, flags.batch_size or 128
  rows = {
    row: generators.project(
      row,
      chip,
      device,
      image_size=size,
      batch_size=batch,
      k=flags.k or 8,
    )
    for row in table1_rows.choose(flags.generators)
  }
  title = f"one {chip.name}, batch {batch}, {size} px, bfloat16"
  made = {"chip": chip.name, "image_size": size, "batch_size": batch}
  return made | {"rows": rows}, generators.render(rows, title)


def _sweep(config: Any, flags: argparse.Namespace) -> tuple[Any, str]:
  from sseg_jax.plan import chips, planner, sweep

  counts = sweep.parse(flags.sweep)

  def plan(topology, batch_size):
    # Every batch size trains the same number of epochs, even if the config does
    # not call `follow_batch`.
    pairs = config.total_steps * config.batch_size
    changed = copy.deepcopy(config)
    changed.batch_size = batch_size
    if changed.total_steps == config.total_steps:
      changed.total_steps = max(1, round(pairs / batch_size))
      warmup = config.optim.warmup_steps * config.batch_size // batch_size
      changed.optim.warmup_steps = min(warmup, changed.total_steps - 1)
    return planner.plan(changed, topology)

  rows = sweep.run(
    chips.find(flags.topology.partition(":")[0]),
    counts,
    config.batch_size,
    flags.per_chip,
    plan,
    lambda text: print(f"{text} …", file=sys.stderr, flush=True),
  )
  if flags.out:
    sweep.write(rows, flags.out)
  return {"config": flags.config, "rows": rows}, sweep.render(rows)


if __name__ == "__main__":
  sys.exit(main())
