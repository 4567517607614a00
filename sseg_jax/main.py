"""Trains what a config file describes.

python -m sseg_jax.main --config=configs/quickstart.py --workdir=/tmp/run

Any field can be overridden: --config.optim.peak_lr=1e-3. Running the same
command again goes on from the newest checkpoint in --workdir.

With several processes each runs this command. On Cloud TPU, under SLURM and
under Open MPI they find each other; elsewhere say how, as launch/local.py does:
--coordinator_address=HOST:PORT --num_processes=N --process_id=I
"""

import contextlib
import difflib
import logging as python_logging
import os
import sys
from typing import Any

from absl import app, flags, logging
from ml_collections import config_flags

from sseg_jax import errors, stopping

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A file of configs/, or one of your own.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the run: checkpoints, curves, result.json."
)
_JSON = flags.DEFINE_bool("json", False, "Print the result as JSON at the end.")
_COORDINATOR = flags.DEFINE_string(
  "coordinator_address",
  os.environ.get("JAX_COORDINATOR_ADDRESS"),
  "HOST:PORT of process 0; that port and the one below it must be free there.",
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Of the run.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Of this one, from 0.")
_TIMEOUT = flags.DEFINE_float(
  "initialization_timeout", 60.0, "Seconds to wait for the other processes."
)


@errors.reported
def run(argv: list[str]) -> int:
  """Runs the command with flags already parsed."""
  if len(argv) > 1:
    raise errors.InputError(f"{argv[1]!r} is not a flag; see --help")
  if _CONFIG.value is None or not _WORKDIR.value:
    raise errors.InputError(
      "both --config and --workdir are needed; see --help"
    )
  from sseg_jax import default_config

  default_config.check_batch(_CONFIG.value)
  # From here on, since a signal may come while JAX is loaded or compiles.
  stop = stopping.Stop().listen()
  place = _place()
  first = place is None or place[2] == 0
  stop.exit_until_working(0.0 if place is None else 2.0 if first else 0.5)
  together: contextlib.AbstractContextManager = contextlib.nullcontext()
  if place is not None:
    from sseg_jax import peers

    together = peers.joined(
      *place, config=_CONFIG.value, timeout=_TIMEOUT.value, stop=stop
    )
  with together:
    result = _train(_WORKDIR.value, first, stop)
  if "preempted" in result:
    return stopping.PREEMPTED
  if first:
    if _JSON.value:
      import json

      print(json.dumps(result))
    else:
      from sseg_jax import evaluator

      print(evaluator.headline(result))
      print(f"result: {_WORKDIR.value}/result.json")
  return 0


def _train(workdir: str, first: bool, stop: stopping.Stop) -> dict[str, Any]:
  from sseg_jax import train

  logging.set_verbosity(logging.INFO)
  logging.get_absl_handler().addFilter(_ours)
  if "://" not in workdir and first:
    os.makedirs(workdir, exist_ok=True)
    handler = python_logging.FileHandler(f"{workdir}/log.txt")
    handler.setFormatter(logging.PythonFormatter())
    handler.addFilter(_ours)
    logging.get_absl_logger().addHandler(handler)
  return train.train(_CONFIG.value, workdir, stop)


def _place() -> tuple[str, int, int] | None:
  """Returns the coordinator, the number of processes and this one's place.

  None for a single process.
  """
  place: Any = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
  if None in place:
    # JAX knows the schedulers, and has no public way to ask it about them.
    from jax._src import cloud_tpu_init
    from jax._src.clusters import ClusterEnv

    on_tpu = cloud_tpu_init.running_in_cloud_tpu_vm
    if os.environ.get("JAX_PLATFORMS") == "cpu":
      on_tpu = False
    scheduled = on_tpu or any(v in os.environ for v in _SCHEDULERS)
    if place[1:] != (None, None) or (place[0] and not scheduled):
      raise errors.InputError(
        "--coordinator_address, --num_processes and --process_id go together;"
        " give all three or, where a scheduler tells them, none"
      )
    if not scheduled:
      return None
    try:
      place = ClusterEnv.auto_detect_unset_distributed_params(
        _COORDINATOR.value, None, None, None, None, int(_TIMEOUT.value)
      )[:3]
    except (RuntimeError, OSError) as error:
      raise errors.Unavailable(
        f"the scheduler does not tell where the processes are: {error}"
      ) from None
  return None if None in place or place[1] == 1 else place


def _ours(record: python_logging.LogRecord) -> bool:
  """Keeps what this package says, and everybody's warnings."""
  package = os.path.dirname(os.path.abspath(__file__))
  return record.levelno >= python_logging.WARNING or record.pathname.startswith(
    package + os.sep
  )


# What SLURM and Open MPI set.
_SCHEDULERS = ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri")


def main() -> None:
  """Parses the flags and runs the command."""
  if any(a in ("--help", "-help", "-h") for a in sys.argv[1:]):
    print(__doc__)
    print(flags.FLAGS.module_help(sys.modules[__name__]))
    sys.exit(0)
  try:
    app.run(run)
  except (AttributeError, KeyError, TypeError, ValueError):
    # What ml_collections raises for an override that does not fit.
    overrides = [a for a in sys.argv if a.startswith("--config.")]
    message = _unknown_field(overrides)
    if message is None:
      raise
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _unknown_field(overrides: list[str]) -> str | None:
  """Says which override names no field, and what was probably meant."""
  from sseg_jax import default_config

  fields = set()

  def collect(config, prefix):
    for name in config:
      fields.add(prefix + name)
      if hasattr(config[name], "keys"):
        collect(config[name], prefix + name + ".")

  collect(default_config.get_config(), "")
  for override in overrides:
    name, _, value = override.removeprefix("--config.").partition("=")
    if name not in fields:
      close = difflib.get_close_matches(name, fields, 1)
      hint = f"did you mean {close[0]}?" if close else "see default_config.py"
      return f"--config.{name}={value}: there is no such field; {hint}"
  return None


if __name__ == "__main__":
  main()
