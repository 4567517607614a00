"""Runs a function on many jobs, in one process or in several."""

import collections
import functools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from sseg_jax.data import beam_jobs


def converted(
  convert: Callable[..., Any], jobs: Iterable[tuple], workers: int
) -> Iterator[Any]:
  """Yields `convert(*job)` of each job, in order, for any number of workers."""
  if workers < 1:
    for job in jobs:
      yield convert(*job)
    return
  # Not fork: TensorFlow's threads would not survive in the children.
  context = multiprocessing.get_context("spawn")
  with ProcessPoolExecutor(workers, mp_context=context) as pool:
    # Only some jobs are pending, because `map` would hold all of them.
    pending: collections.deque = collections.deque()
    try:
      for job in jobs:
        pending.append(pool.submit(convert, *job))
        if len(pending) > 2 * workers:
          yield pending.popleft().result()
      while pending:
        yield pending.popleft().result()
    finally:  # the caller may stop early
      pool.shutdown(wait=True, cancel_futures=True)


def runner(options: Any, *, here: bool = False) -> Callable[..., Iterator]:
  """Returns a function that runs a function on jobs, in order.

  Args:
    options: of `prepare`.
    here: whether jobs stay in this process where no Beam runner is chosen.
  """
  if options.runner:
    return functools.partial(
      beam_jobs.run, runner=options.runner, flags=options.runner_options
    )
  workers = 0 if here else options.workers
  return lambda function, jobs: converted(function, jobs, workers)
