"""Runs a function on many jobs, in one process or in several."""

import collections
import contextlib
import functools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from sseg_jax.data import beam_jobs

# Yields `function(*job)` of each of many jobs, in order.
Run = Callable[[Callable[..., Any], Iterable[tuple]], Iterator[Any]]


@contextlib.contextmanager
def processes(workers: int) -> Iterator[Run]:
  """Yields a `Run` of this machine, for any number of workers.

  The processes start with the first job, and end with the block: each takes
  seconds to start on a busy machine.

  Args:
    workers: number of processes; 0 uses this one.
  """
  if workers < 1:
    yield _here
    return
  # Not fork: TensorFlow's threads would not survive in the children.
  context = multiprocessing.get_context("spawn")
  pool = ProcessPoolExecutor(
    workers, mp_context=context, initializer=_end_with_parent
  )
  try:
    yield functools.partial(_in_pool, pool, 2 * workers)
  finally:  # the caller may stop early
    pool.shutdown(wait=True, cancel_futures=True)


def _here(function: Callable[..., Any], jobs: Iterable[tuple]) -> Iterator[Any]:
  for job in jobs:
    yield function(*job)


def _in_pool(
  pool: ProcessPoolExecutor,
  most: int,
  function: Callable[..., Any],
  jobs: Iterable[tuple],
) -> Iterator[Any]:
  # Only some jobs are pending, because `map` would hold all of them.
  pending: collections.deque = collections.deque()
  for job in jobs:
    pending.append(pool.submit(function, *job))
    if len(pending) > most:
      yield pending.popleft().result()
  while pending:
    yield pending.popleft().result()


def _end_with_parent() -> None:
  """Ends this process as soon as the one that started it has ended.

  Without this, a worker whose parent was killed would wait for ever, and could
  still write a file that a new call writes already.
  """
  parent = multiprocessing.parent_process()
  assert parent is not None

  def end() -> None:
    parent.join()
    os._exit(1)

  threading.Thread(target=end, daemon=True).start()


@contextlib.contextmanager
def runner(options: Any) -> Iterator[Run]:
  """Yields what runs jobs: processes of this machine, or a runner of Beam.

  Args:
    options: of `prepare`.
  """
  if options.runner:
    yield functools.partial(
      beam_jobs.run, runner=options.runner, flags=options.runner_options
    )
    return
  with processes(options.workers) as run:
    yield run
