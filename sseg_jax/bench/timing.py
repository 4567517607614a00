"""Times several ways of doing the same work, one after the other."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

# Does the work once, and returns when it is done (`jax.block_until_ready`).
Way = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Case:
  """The same work done in several ways.

  Attributes:
    what: the work and its sizes, one line.
    ways: name -> `Way`. The others are compared with the first one.
    agreement: how far the results of the ways differ, as a text; measured
      before the timing, so that equal work is compared.
    images: how many each way takes at once, for images a second; 0: unknown.
    flops: operations that the work takes, nothing counted twice, for the share
      of the device's peak (MFU); 0: unknown.
  """

  what: str
  ways: Mapping[str, Way]
  agreement: str = ""
  images: int = 0
  flops: float = 0.0


def measure(
  case: Case,
  *,
  rounds: int,
  warmup: int = 1,
  peak_flops: float | None = None,
) -> dict[str, Any]:
  """Returns seconds of each way and ratios to the first.

  Each round runs all ways one after the other. Every other round runs them in
  the reverse order, so that a slow phase of a shared machine affects all alike.
  Each way runs twice, and the second run counts: the first fills memory and
  caches. A ratio is the median over rounds of the ratio within a round. If it
  is above 1, the way takes longer than the first way.

  Args:
    case: see `Case`.
    rounds: how many.
    warmup: how often each way is run before the first round.
    peak_flops: of the device, in operations a second, for MFU; None leaves out
      MFU.
  """
  for run in case.ways.values():
    for _ in range(warmup):
      run()
  seconds: dict[str, list[float]] = {name: [] for name in case.ways}
  for i in range(rounds):
    for name in list(case.ways)[:: -1 if i % 2 else 1]:
      case.ways[name]()
      start = time.perf_counter()
      case.ways[name]()
      seconds[name].append(time.perf_counter() - start)
  first = next(iter(case.ways))
  result: dict[str, Any] = {
    "what": case.what,
    "rounds": rounds,
    "agreement": case.agreement,
    "ways": {},
  }
  for name, times in seconds.items():
    ratios = [t / f for t, f in zip(times, seconds[first], strict=True)]
    result["ways"][name] = {
      "median_s": statistics.median(times),
      "min_s": min(times),
      "max_s": max(times),
      "ratio": statistics.median(ratios),
      "ratio_range": [min(ratios), max(ratios)],
    }
    way, median = result["ways"][name], statistics.median(times)
    if case.images:
      way["images_per_second"] = case.images / median
    if case.flops and peak_flops:
      way["mfu"] = case.flops / peak_flops / median
  return result


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
  """Returns measurements as a Markdown table."""
  lines = [
    "| case | way | median | ratio to the first (range) | images/s, MFU |",
    "| --- | --- | --- | --- | --- |",
  ]
  for name, result in results.items():
    for i, (way, times) in enumerate(result["ways"].items()):
      low, high = times["ratio_range"]
      ratio = f"{times['ratio']:.2f} ({low:.2f}-{high:.2f})" if i else "1"
      lines.append(
        f"| {'' if i else name} | {way} | {_seconds(times['median_s'])} |"
        f" {ratio} | {_speed(times)} |"
      )
  notes = [
    f"{name}: {result['what']}; {result['rounds']} rounds"
    + (f"; {result['agreement']}" if result["agreement"] else "")
    for name, result in results.items()
  ]
  return "\n".join([*lines, "", *notes]) + "\n"


def _speed(way: Mapping[str, Any]) -> str:
  parts = []
  if "images_per_second" in way:
    parts.append(f"{way['images_per_second']:,.1f}")
  if "mfu" in way:
    parts.append(f"{way['mfu']:.1%}")
  return ", ".join(parts)


def _seconds(value: float) -> str:
  return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.2f} ms"
