"""Computes what `prepare` costs for millions of pictures: hours and bytes.

    python -m sseg_jax.plan --pictures=26e6 --source=FOLDER

It converts some pictures of a source and writes them, in one process, and
multiplies: nothing of the size is run. All processes are taken to be as fast
as this machine's, and neither disk nor network to be a limit.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from sseg_jax.data import assembly, staging, survivors
from sseg_jax.data.options import Options
from sseg_jax.data.sources import streams
from sseg_jax.errors import InputError

_SHARD = Options().shard_size
_ROWS = 500_000  # records among which duplicates are looked for, to time it


@dataclasses.dataclass(frozen=True)
class Rates:
  """What one picture costs.

  Attributes:
    convert_ms: milliseconds of a processor core to read, decode, shrink and
      encode it, and to store it until all pictures are there.
    choose_us: microseconds of one process, which compares all pictures.
    write_ms: milliseconds of a core to write it into a shard.
    read_bytes: of the source.
    record_bytes: of the records.
  """

  convert_ms: float
  choose_us: float
  write_ms: float
  read_bytes: float
  record_bytes: float


def measured(source: str, count: int, options: Options) -> Rates:
  """Converts and writes the first pictures of a source, and times it.

  Args:
    source: as `prepare` takes it.
    count: pictures to be timed; files that hold several are read whole.
    options: of `prepare`.

  Raises:
    InputError: none of the pictures can be used.
  """
  stream = streams.find(source, options.kind, options.captions)
  read_bytes, read, convert, write, written, kept = 0, 0, 0.0, 0.0, 0, 0
  with tempfile.TemporaryDirectory(prefix="sseg_jax_costs_") as folder:
    for number, part in enumerate(stream.parts):
      if part.of:  # pictures of a folder
        part = dataclasses.replace(part, of=part.of[: count - read])
      for sample in streams.READERS[part.kind](part):
        read += 1
        read_bytes += len(sample.image)
      convert += _spent(staging.write, folder, number, part, options.rules)
      rows = np.arange(len(staging.Staged(folder, number).rows))
      if len(rows):
        job = (folder, "train", number, 1, [(folder, number, rows)])
        write += _spent(assembly.write_shard, *job)
        shard = assembly.finished(*job[:4])
        assert shard is not None
        kept, written = kept + shard.count, written + shard.bytes
      if read >= count:
        break
  if not kept:
    raise InputError(
      f"--source={source}: none of {read} pictures can be used; prepare it, to"
      " see why"
    )
  return Rates(
    convert_ms=1e3 * convert / read,
    choose_us=1e6 * _choosing(options) / _ROWS,
    write_ms=1e3 * write / kept,
    read_bytes=read_bytes / read,
    record_bytes=written / kept,
  )


def _spent(function: Callable, *arguments: Any) -> float:
  begun = time.process_time()
  function(*arguments)
  return time.process_time() - begun


def _choosing(options: Options) -> float:
  rng = np.random.default_rng(0)
  rows = np.empty(_ROWS, staging.ROW)
  for name in staging.ROW.names or ():
    rows[name] = rng.integers(1, 2**63, _ROWS, np.uint64)
  return _spent(survivors.choose, rows, options, {})


def costs(pictures: int, kept: float, rates: Rates, cores: int) -> dict:
  """Returns hours and bytes of `prepare`.

  Args:
    pictures: of the source.
    kept: share of them that become records.
    rates: of one picture.
    cores: that convert and write at the same time.
  """
  records = pictures * kept
  hours = {
    "convert": pictures * rates.convert_ms / 3.6e6 / cores,
    "choose": pictures * rates.choose_us / 3.6e9,
    "write": records * rates.write_ms / 3.6e6 / cores,
  }
  return {
    "cores": cores,
    "hours": hours | {"all": sum(hours.values())},
    "core_hours": (hours["convert"] + hours["write"]) * cores,
    "bytes": {
      "read": pictures * rates.read_bytes,
      "records": records * rates.record_bytes,
      # All pictures are converted first; then shards are written, and what
      # they hold is deleted. Two for each process may be ahead.
      "most at once": (records + 2 * cores * _SHARD) * rates.record_bytes,
    },
  }


def table(rates: Rates, found: dict[str, dict]) -> str:
  """Returns the costs as a Markdown table."""
  names = list(found)
  lines = [
    f"| computed | {' | '.join(names)} |",
    "| --- " * (len(names) + 1) + "|",
  ]

  def line(what: str, numbers: list[float]) -> None:
    lines.append(f"| {what} | {' | '.join(f'{x:.2f}' for x in numbers)} |")

  for part in ("convert", "choose", "write", "all"):
    line(f"hours: {part}", [found[n]["hours"][part] for n in names])
  line("core-hours", [found[n]["core_hours"] for n in names])
  for part in ("read", "records", "most at once"):
    line(f"TB: {part}", [found[n]["bytes"][part] / 1e12 for n in names])
  told = ", ".join(
    f"{name} {value:.3g}" for name, value in dataclasses.asdict(rates).items()
  )
  return "\n".join([*lines, "", f"a picture: {told}"])


def _given(text: str) -> Rates:
  names = [field.name for field in dataclasses.fields(Rates)]
  try:
    pairs = dict(pair.split("=") for pair in text.split(","))
    rates = Rates(**{name: float(value) for name, value in pairs.items()})
  except (TypeError, ValueError):
    raise InputError(
      f"--rates={text!r}: give NAME=NUMBER of {', '.join(names)}, with commas"
    ) from None
  if not all(0 < value < float("inf") for value in vars(rates).values()):
    raise InputError(f"--rates={text!r}: numbers must be above 0")
  return rates


def plan(
  pictures: float,
  source: str = "",
  sample: int = 200,
  kept: float = 1.0,
  cores: int = 64,
  vcpus: int = 256,
  rates: str = "",
  image_size: int = 512,
) -> tuple[dict[str, Any], str]:
  """Returns the costs of `pictures` as numbers and as a text.

  Args:
    pictures: number of them.
    source: some of them, as `prepare` takes them; or else `rates`.
    sample: number of pictures that are timed.
    kept: share of the pictures that become records.
    cores: of one machine.
    vcpus: of all workers of Dataflow.
    rates: NAME=NUMBER of `Rates`, with commas.
    image_size: as `prepare`'s.

  Raises:
    InputError: a value out of its range, or pictures that cannot be used.
  """
  numbers = {"pictures": pictures, "sample": sample}
  for name, value in (numbers | {"cores": cores, "vcpus": vcpus}).items():
    if not 1 <= value < 1e15:
      raise InputError(f"--{name}={value}: must be at least 1")
  if not 0 < kept <= 1:
    raise InputError(f"--kept={kept}: must be above 0 and at most 1")
  if bool(source) == bool(rates):
    raise InputError("--pictures: give either --source or --rates as well")
  if rates:
    each = _given(rates)
  else:
    options = Options(image_size=image_size, duplicates="near")
    each = measured(source, sample, options)
  found = {
    f"{name}, {count} {unit}": costs(int(pictures), kept, each, count)
    for name, count, unit in (
      ("one machine", cores, "cores"),
      ("Dataflow", vcpus, "vCPUs"),
    )
  }
  result = {"rates": dataclasses.asdict(each), "costs": found}
  return result, table(each, found)
