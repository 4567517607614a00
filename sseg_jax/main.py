"""Trains what a config file describes.

python -m sseg_jax.main --config=configs/quickstart.py --workdir=/tmp/run

Any field can be overridden: --config.optim.peak_lr=1e-3. Running the same
command again goes on from the newest checkpoint in --workdir.
"""

import difflib
import logging as python_logging
import os
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from sseg_jax import errors

# SIGTERM was obeyed and the state saved: start again to go on (EX_TEMPFAIL).
PREEMPTED = 75

_CONFIG = config_flags.DEFINE_config_file(
  "config", None, "A file of configs/, or one of your own.", lock_config=True
)
_WORKDIR = flags.DEFINE_string(
  "workdir", None, "Folder of the run: checkpoints, curves, result.json."
)
_JSON = flags.DEFINE_bool("json", False, "Print the result as JSON at the end.")


@errors.reported
def run(argv: list[str]) -> int:
  """Runs the command with flags already parsed."""
  if len(argv) > 1:
    raise errors.InputError(f"{argv[1]!r} is not a flag; see --help")
  if _CONFIG.value is None or not _WORKDIR.value:
    raise errors.InputError(
      "both --config and --workdir are needed; see --help"
    )
  # JAX is loaded from here on, and finds its peers first.
  import jax

  if any(name in os.environ for name in _CLUSTER_VARIABLES):
    jax.distributed.initialize()
  from sseg_jax import evaluator, train

  logging.set_verbosity(logging.INFO)
  logging.get_absl_handler().addFilter(_ours)
  if "://" not in _WORKDIR.value and jax.process_index() == 0:
    os.makedirs(_WORKDIR.value, exist_ok=True)
    handler = python_logging.FileHandler(f"{_WORKDIR.value}/log.txt")
    handler.setFormatter(logging.PythonFormatter())
    handler.addFilter(_ours)
    logging.get_absl_logger().addHandler(handler)
  result = train.train(_CONFIG.value, _WORKDIR.value)
  if "preempted" in result:
    return PREEMPTED
  if jax.process_index() == 0:
    if _JSON.value:
      import json

      print(json.dumps(result))
    else:
      print(evaluator.headline(result))
      print(f"result: {_WORKDIR.value}/result.json")
  return 0


def _ours(record: python_logging.LogRecord) -> bool:
  """Keeps what this package says, and everybody's warnings."""
  package = os.path.dirname(os.path.abspath(__file__))
  return (
    record.levelno >= python_logging.WARNING
    or os.path.dirname(record.pathname) == package
    or record.pathname.startswith(os.path.join(package, "data"))
  )


# Set by the schedulers under which JAX finds its peers by itself.
_CLUSTER_VARIABLES = (
  "JAX_COORDINATOR_ADDRESS",
  "SLURM_JOB_ID",
  "OMPI_MCA_orte_hnp_uri",
  "TPU_WORKER_HOSTNAMES",
)


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
