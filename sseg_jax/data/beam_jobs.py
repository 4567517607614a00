"""Runs the jobs of `prepare` on an Apache Beam runner.

The jobs are those that this machine's own processes would run
(`conversion.py`): to convert a part of the source, and to write a shard. Each
reads and writes files that all workers must see, and returns nothing, so the
records are the same for any runner, and an interrupted call can go on with
another one. Between the two, this process chooses the records.
"""

import errno
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sseg_jax.errors import InputError, Unavailable

RUNNERS = ("DirectRunner", "FlinkRunner", "SparkRunner", "DataflowRunner")
# Beam reports what a worker raised as the text of an error of its own.
_RAISED = re.compile(r"\b(InputError|Unavailable): ([^\n]+?)(?: \[while|\n|$)")


def pipeline_options(runner: str, flags: str) -> Any:
  """Returns Beam's options.

  Args:
    runner: one of `RUNNERS`.
    flags: of that runner, as a shell takes them.

  Raises:
    InputError: Apache Beam is missing, or does not know a flag.
  """
  try:
    from apache_beam.options import pipeline_options as options
  except ImportError as error:
    raise InputError(
      f"--runner={runner} needs Apache Beam, which is not installed"
      f" ({error.name}): run `pip install -e '.[beam,train]'`"
    ) from None
  try:
    given = shlex.split(flags)
  except ValueError as error:
    raise InputError(
      f"--runner_options={flags!r}: {error}; write them as for a shell"
    ) from None
  made = options.PipelineOptions([f"--runner={runner}", *given])
  try:
    # Without this, a flag with a slip is left aside with a warning.
    known = made.get_all_options(drop_default=True, retain_unknown_options=True)
    all_names = options.PipelineOptions([]).get_all_options().keys()
  except SystemExit:  # argparse ends the process
    raise InputError(
      f"--runner_options={flags!r}: a value does not fit; see Apache Beam's"
      f" pages on {runner}"
    ) from None
  if unknown := sorted(known.keys() - all_names):
    raise InputError(
      f"--runner_options: Apache Beam knows no --{unknown[0]}; see its pages on"
      f" {runner}"
    )
  return made


def run(
  function: Callable[..., Any],
  jobs: Iterable[tuple],
  runner: str,
  flags: str = "",
) -> Iterator[None]:
  """Calls `function(*job)` for each job on a runner, then yields None for each.

  Args:
    function: of a module of this package, which the workers have installed. It
      may be called again for a job that failed or was lost.
    jobs: of values that can be pickled.
    runner: one of `RUNNERS`.
    flags: of that runner, as a shell takes them.

  Raises:
    InputError: see `pipeline_options`; or a job raised it.
    Unavailable: the pipeline failed otherwise.
    OSError: a disk is full.
  """
  options = pipeline_options(runner, flags)
  import apache_beam as beam

  todo = list(jobs)
  if not todo:
    return
  try:
    with beam.Pipeline(options=options) as pipeline:
      _ = (
        pipeline
        | "Jobs" >> beam.Create(todo)
        | "To all workers" >> beam.Reshuffle()
        | function.__name__ >> beam.MapTuple(function)
      )
  except Exception as error:  # each runner has its own
    raise _told(error, runner) from error
  yield from (None for _ in todo)


def _told(error: Exception, runner: str) -> Exception:
  if "No space left on device" in str(error):
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
  if isinstance(error, InputError | Unavailable):  # with the step's name
    return type(error)(str(error).partition(" [while running")[0])
  if found := _RAISED.search(str(error)):
    kind = InputError if found[1] == "InputError" else Unavailable
    return kind(found[2])
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  told = lines[-1][:300] if lines else type(error).__name__
  return Unavailable(
    f"--runner={runner}: the pipeline failed ({told}); start again, which goes"
    " on where it was"
  )
