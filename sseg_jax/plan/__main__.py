"""Plans a training run: memory, operations, time and cost, without the pod.

This is the command. `planner.py` plans a run, `sweep.py` plans it for many
numbers of chips, `generators.py` plans what makes pseudo-masks, and
`data_costs.py` computes what records of many pictures cost.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from sseg_jax import command_line
from sseg_jax.errors import InputError, reported

_OF_DATA = ("source", "sample", "kept", "cores", "vcpus", "rates")
_OF_RUNS = (
  *("config", "topology", "sweep", "per_chip", "generators", "batch_size", "k"),
  *("out", "traced", "chips"),
)


def _parser() -> argparse.ArgumentParser:
  parser = command_line.Parser(
    "plan",
    "Compiles a config's training step and projects its memory, speed and cost."
    " With --topology it compiles for TPUs that need not be there; without, for"
    " the devices of this machine, and runs a few steps as well. With"
    " --generators it projects how long pseudo-masks take on one chip (Table"
    " 1). With --pictures it computes hours and bytes of `prepare`.",
    (
      "--config=configs/cc26m.py --topology=v5e:16x16",
      "--config=configs/cc26m.py --topology=v5e \\\n    --sweep=8..256"
      " --out=scaling",
      "--generators=dino,pixels --topology=v5e",
      "--pictures=26e6 --source=PHOTOS",
    ),
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
    help="TPU chip (v4, v5e, v5p, v6e) and shape of the slice, e.g. v5e:16x16;"
    " default: the devices of this machine",
  )
  add(
    "--traced",
    action="store_true",
    help="plans without a compiler, in a minute, for v5e chips and H100 GPUs:"
    " products, and an estimate of memory",
  )
  add("--chips", type=int, help="with --traced: how many share the batch")
  add("--sweep", help="plans for many numbers of chips, e.g. 8..256")
  add(
    "--per_chip",
    type=int,
    help="with --sweep: also plans with so many pictures on each chip",
  )
  add(
    "--generators",
    help="in place of --config: comma-separated rows of Table 1 (see"
    " sseg_jax.evaluate --help), on one chip of --topology",
  )
  add(
    "--image_size",
    type=int,
    help="with --generators: side of the pictures, by default 224; with"
    " --pictures: as prepare's, by default 512",
  )
  add("--batch_size", type=int, help="with --generators: by default 128")
  add("--k", type=int, help="with --generators: masks a picture, by default 8")
  add("--out", help="with --sweep: folder for the plot and its numbers")
  add("--json", action="store_true", help="print the plan as JSON")

  add = parser.add_argument_group("records of many pictures").add_argument
  add("--pictures", type=float, help="number of them, e.g. 26e6")
  add("--source", help="some of them, as prepare takes them; they are timed")
  add("--sample", type=int, help="pictures timed; by default 200")
  add("--kept", type=float, help="share that become records; by default 1")
  add("--cores", type=int, help="of one machine; by default 64")
  add("--vcpus", type=int, help="of all workers of Dataflow; by default 256")
  add("--rates", help="in place of --source: NAME=NUMBER,…")
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
  if flags.pictures is not None or flags.generators:
    result, text = (
      _records(flags) if flags.pictures is not None else _generators(flags)
    )
    print(json.dumps(result) if flags.json else text)
    return 0
  from sseg_jax import config_files

  config = config_files.overridden(
    config_files.load(flags.config),
    config_files.parse_settings(flags.set),
  )
  made = _sweep if flags.sweep else _traced if flags.traced else _plan
  result, text = made(config, flags)
  print(json.dumps(result) if flags.json else text)
  return 0


def _check(flags: argparse.Namespace) -> None:
  of_data = flags.pictures is not None
  for name in (*_OF_RUNS, "set") if of_data else _OF_DATA:
    value = getattr(flags, name)
    if not (value is None or value is False or value == []):
      told = "has no meaning with" if of_data else "belongs to"
      raise InputError(f"{name}: {told} --pictures")
  if of_data:
    return
  if bool(flags.config) == bool(flags.generators):
    raise InputError("give --config, or --generators with --topology")
  for name in ("image_size", "batch_size", "k"):
    value = getattr(flags, name)
    if value is not None and not flags.generators:
      raise InputError(f"{name}: belongs to --generators; use --set")
    if value is not None and value < 1:
      raise InputError(f"{name}={value}: must be at least 1")
  if flags.generators and (not flags.topology or flags.sweep or flags.set):
    raise InputError(
      "generators: give --topology as well, e.g. v5e, and neither --sweep nor"
      " --set"
    )
  if flags.traced and (flags.generators or flags.topology or flags.sweep):
    raise InputError(
      "traced: compiles for no chip; leave out --topology, --sweep and"
      " --generators"
    )
  if flags.chips is not None and not flags.traced:
    raise InputError("chips: belongs to --traced; give --topology instead")
  if flags.chips is not None and flags.chips < 1:
    raise InputError(f"chips={flags.chips}: must be at least 1")
  if flags.sweep and not flags.topology:
    raise InputError("sweep: give the chip as well, e.g. --topology=v5e")
  for name in ("per_chip", "out"):
    if getattr(flags, name) is not None and not flags.sweep:
      raise InputError(f"{name}: belongs to --sweep; give that as well")
  if flags.per_chip is not None and flags.per_chip < 1:
    raise InputError(f"per_chip={flags.per_chip}: must be at least 1")


def _plan(config: Any, flags: argparse.Namespace) -> tuple[Any, str]:
  from sseg_jax.plan import chips, page, planner

  topology = chips.parse(flags.topology) if flags.topology else None
  made = planner.plan(config, topology)
  return made | {"config": flags.config}, page.render(made)


def _traced(config: Any, flags: argparse.Namespace) -> tuple[Any, str]:
  from sseg_jax.plan import traced

  made = traced.plan(config, flags.chips or 1)
  return made | {"config": flags.config}, traced.render(made)


def _records(flags: argparse.Namespace) -> tuple[Any, str]:
  from sseg_jax.plan import data_costs

  names = ("pictures", "image_size", *_OF_DATA)
  given = {name: getattr(flags, name) for name in names}
  return data_costs.plan(**{k: v for k, v in given.items() if v is not None})


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

  rows = sweep.run(
    chips.find(flags.topology.partition(":")[0]),
    sweep.parse(flags.sweep),
    config.batch_size,
    flags.per_chip,
    lambda topology, batch_size: planner.plan(
      sweep.with_batch_size(config, batch_size), topology
    ),
  )
  if flags.out:
    sweep.write(rows, flags.out)
  return {"config": flags.config, "rows": rows}, sweep.render(rows)


if __name__ == "__main__":
  sys.exit(main())
