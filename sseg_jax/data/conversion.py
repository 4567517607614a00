"""Converts pictures to JPEGs, in one process or in several."""

import collections
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from sseg_jax.data import reencode, sources

_CHUNK = 32  # pictures a worker takes at a time

# From pictures to a JPEG each, or to the reason why there is none.
Convert = Callable[[Sequence[sources.Item]], list[bytes | str]]


def to_jpegs(
  items: Sequence[sources.Item], short_side: int, quality: int
) -> list[bytes | str]:
  """Returns each picture's JPEG, or the reason why there is none."""
  results: list[bytes | str] = []
  for item in items:
    try:
      try:
        data = item.image.read_bytes()
      except OSError:
        raise reencode.Rejected("missing_image") from None
      results.append(
        reencode.to_jpeg(data, short_side=short_side, quality=quality)
      )
    except reencode.Rejected as error:
      results.append(str(error))
  return results


def converted(
  convert: Convert, items: Sequence[sources.Item], workers: int
) -> Iterator[tuple[sources.Item, bytes | str]]:
  """Yields every item with its result, in order, for any number of workers."""
  chunks = (
    items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)
  )
  if workers < 1:
    for chunk in chunks:
      yield from zip(chunk, convert(chunk), strict=True)
    return
  # Not fork: TensorFlow's threads would not survive in the children.
  context = multiprocessing.get_context("spawn")
  with ProcessPoolExecutor(workers, mp_context=context) as pool:
    # Only some chunks are pending, because `map` would hold all pictures.
    pending: collections.deque = collections.deque()
    try:
      for chunk in chunks:
        pending.append((chunk, pool.submit(convert, chunk)))
        if len(pending) > 2 * workers:
          done, future = pending.popleft()
          yield from zip(done, future.result(), strict=True)
      while pending:
        done, future = pending.popleft()
        yield from zip(done, future.result(), strict=True)
    finally:  # the caller may stop early
      pool.shutdown(wait=True, cancel_futures=True)
