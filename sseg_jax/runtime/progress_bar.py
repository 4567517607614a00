"""The progress bar of every command that makes a person wait.

The bar stands on standard error and tells how much is done, how long that took,
how long the rest will take, and the rate. Where standard error is not a
terminal (a log file, a pipe, a test) nothing is printed.
"""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, TypeVar

import tqdm

T = TypeVar("T")

_FORMAT = (
  "{l_bar}{bar}| {n_fmt}/{total_fmt} "
  "[{elapsed}, {remaining} left, {rate_noinv_fmt}]"
)


def progress_bar(
  total: int | None, unit: str, *, title: str = "", show: bool = True
) -> tqdm.tqdm:
  """Returns a bar to be used in a `with` statement.

  `bar.update(n)` says that n more items are done. `bar.set_description(text)`
  changes the title.

  Args:
    total: number of items; None where it is not known.
    unit: what is counted, in the plural: "pictures".
    title: printed before the bar.
    show: False prints nothing, e.g. in all processes but one.
  """
  return tqdm.tqdm(
    total=total,
    unit=f" {unit}",
    desc=title or None,
    bar_format=None if total is None else _FORMAT,
    dynamic_ncols=True,
    disable=None if show else True,  # None: disabled where no terminal is
  )


def tracked(
  items: Iterable[T],
  unit: str,
  *,
  total: int | None = None,
  title: str = "",
  show: bool = True,
) -> Iterator[T]:
  """Yields the items under a bar; the other arguments as `progress_bar`.

  An item counts as done when the next one is asked for. `total` is needed only
  where `len(items)` does not exist.
  """
  if total is None and isinstance(items, Sized):
    total = len(items)
  with progress_bar(total, unit, title=title, show=show) as bar:
    for item in items:
      yield item
      bar.update()


def print_above(text: str, file: Any = None) -> None:
  """Prints a line without damage to a bar that is shown.

  Args:
    text: the line.
    file: stream that it is printed to; None for standard error.
  """
  file = sys.stderr if file is None else file
  tqdm.tqdm.write(text, file=file)
  file.flush()


@contextlib.contextmanager
def counter(
  unit: str, *, title: str = "", show: bool = True
) -> Iterator[Callable[[int, int], None]]:
  """Gives a function that is told the number done and of all, and moves a bar.

  The bar appears at the first call. The arguments are as for `progress_bar`.
  """
  with contextlib.ExitStack() as stack:
    bars: list[tqdm.tqdm] = []

    def count(done: int, total: int) -> None:
      if not bars:
        bar = progress_bar(total, unit, title=title, show=show)
        bars.append(stack.enter_context(bar))
      bars[0].update(done - bars[0].n)

    yield count
