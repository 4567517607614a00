"""Trains what a config file describes.

python -m sseg_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

The same command, started again, continues from the newest checkpoint in
--workdir. See --help.
"""

import argparse
import contextlib
import difflib
import logging as python_logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags as absl_flags
from absl import logging
from ml_collections import ConfigDict

from sseg_jax import config_files, errors, files
from sseg_jax.runtime import preemption

_DESCRIPTION = """\
Trains what a config file describes. The same command, started again, continues
from the newest checkpoint in --workdir.
"""

_EPILOG = """\
examples:
  The quickstart, on this machine's CPU:
    python -m sseg_jax.main --config=configs/quickstart.py \\
      --workdir=runs/quickstart

  A config with two fields changed:
    python -m sseg_jax.main --config=configs/photos.py --workdir=runs/photos \\
      --config.optim.peak_lr=5e-4 --config.total_steps=3600

A run with several processes needs this command in each of them. On Cloud TPU,
under SLURM and under Open MPI the processes find each other. Elsewhere give
--coordinator_address, --num_processes and --process_id, as launch/local.py
does.
"""


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m sseg_jax.main",
    description=_DESCRIPTION,
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("--config", help="a name in configs/, as quickstart, or a file")
  add(
    "--config.FIELD",
    metavar="VALUE",
    dest="_",
    help="sets a field of the config (default_config.py); may be repeated",
  )
  add("--workdir", help="folder for checkpoints, curves and result.json")
  add("--json", action="store_true", help="print the result as JSON")
  add(
    "--coordinator_address",
    default=os.environ.get("JAX_COORDINATOR_ADDRESS"),
    help="HOST:PORT of process 0; that port and the one below must be free",
  )
  add("--num_processes", type=int, help="number of processes of the run")
  add("--process_id", type=int, help="number of this process, from 0")
  add(
    "--initialization_timeout",
    type=float,
    default=60.0,
    help="seconds to wait for the other processes",
  )
  return parser


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, ConfigDict]:
  """Returns the flags, and the config with its overrides.

  Raises:
    InputError: if a flag is missing or unknown, or if `config_files.load` or
      `config_files.overridden` raises it.
  """
  parser = _parser()
  overrides, rest = _split(argv)
  flags, unknown = parser.parse_known_args(rest)
  if unknown:
    known = [option for a in parser._actions for option in a.option_strings]
    close = difflib.get_close_matches(unknown[0].partition("=")[0], known, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise errors.InputError(f"{unknown[0]!r} is not a flag; {hint}see --help")
  if not flags.config or not flags.workdir:
    raise errors.InputError(
      "both --config and --workdir are needed; see --help"
    )
  flags.workdir = files.expand(flags.workdir)
  config = config_files.overridden(config_files.load(flags.config), overrides)
  return flags, config.lock()


def _split(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
  """Takes `--config.FIELD=VALUE` and `--config.FIELD VALUE` out of `argv`."""
  overrides: dict[str, str] = {}
  rest: list[str] = []
  left = list(argv)
  while left:
    argument = left.pop(0)
    if not argument.startswith("--config."):
      rest.append(argument)
      continue
    field, equals, value = argument.removeprefix("--config.").partition("=")
    if not equals:
      # Without a value, the field is set to true, as with a switch.
      alone = not left or left[0].startswith("--")
      value = "true" if alone else left.pop(0)
    overrides[field] = value
  return overrides, rest


@errors.reported
def run(argv: Sequence[str]) -> int:
  """Runs the command with these arguments."""
  flags, config = parse(argv)
  # Listen before JAX is loaded: a signal may come while it loads or compiles.
  stop = preemption.Stop().listen()
  place = _place(flags)
  first = place is None or place[2] == 0
  stop.exit_until_working(0.0 if place is None else 2.0 if first else 0.5)
  together: contextlib.AbstractContextManager = contextlib.nullcontext()
  if place is not None:
    from sseg_jax.runtime import multihost

    together = multihost.joined(
      *place, config=config, timeout=flags.initialization_timeout, stop=stop
    )
  with together:
    result = _train(config, flags.workdir, first, stop)
  if "preempted" in result:
    return preemption.PREEMPTED
  if first:
    if flags.json:
      import json

      print(json.dumps(result))
    else:
      print(_headline(result))
      print(f"result: {flags.workdir}/result.json")
  return 0


def _headline(result: dict[str, Any]) -> str:
  if "difference" in result:
    from sseg_jax.self_training import run as self_training

    return self_training.headline(result)
  from sseg_jax import evaluator

  return evaluator.headline(result)


def _train(
  config: ConfigDict, workdir: str, first: bool, stop: preemption.Stop
) -> dict[str, Any]:
  from sseg_jax import config_check, train

  config_check.check(config)  # before a folder is made
  absl_flags.FLAGS(sys.argv[:1])  # absl's logging reads its own flags
  logging.use_absl_handler()
  logging.set_verbosity(logging.INFO)
  logging.get_absl_handler().addFilter(_ours)
  if "://" not in workdir and first:
    try:
      os.makedirs(workdir, exist_ok=True)
      handler = python_logging.FileHandler(f"{workdir}/log.txt")
    except OSError as error:
      raise files.unwritable("workdir", workdir, error) from error
    handler.setFormatter(logging.PythonFormatter())
    handler.addFilter(_ours)
    logging.get_absl_logger().addHandler(handler)
  if config.self_training.teacher:
    from sseg_jax.self_training import run as self_training

    return self_training.run(config, workdir, stop)
  return train.train(config, workdir, stop)


def _place(flags: argparse.Namespace) -> tuple[str, int, int] | None:
  """Returns coordinator, number of processes and number of this process.

  Returns None if the run has a single process.
  """
  place: Any = (
    flags.coordinator_address,
    flags.num_processes,
    flags.process_id,
  )
  if None in place:
    # JAX recognises schedulers, but has no public function for this.
    from jax._src import cloud_tpu_init
    from jax._src.clusters import ClusterEnv

    on_tpu = cloud_tpu_init.running_in_cloud_tpu_vm
    if os.environ.get("JAX_PLATFORMS") == "cpu":
      on_tpu = False
    scheduled = on_tpu or any(v in os.environ for v in _SCHEDULERS)
    if place[1:] != (None, None) or (place[0] and not scheduled):
      raise errors.InputError(
        "--coordinator_address, --num_processes and --process_id go together;"
        " give all three, or none if a scheduler sets them"
      )
    if not scheduled:
      return None
    try:
      place = ClusterEnv.auto_detect_unset_distributed_params(
        flags.coordinator_address,
        None,
        None,
        None,
        None,
        int(flags.initialization_timeout),
      )[:3]
    except (RuntimeError, OSError) as error:
      raise errors.Unavailable(
        f"the scheduler does not say where the processes run: {error}"
      ) from None
  return None if None in place or place[1] == 1 else place


def _ours(record: python_logging.LogRecord) -> bool:
  """Returns whether a record is logged: this package's, and all warnings."""
  package = os.path.dirname(os.path.abspath(__file__))
  return record.levelno >= python_logging.WARNING or record.pathname.startswith(
    package + os.sep
  )


# Environment variables that SLURM and Open MPI set.
_SCHEDULERS = ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri")


def main() -> None:
  """Runs the command line."""
  sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
  main()
