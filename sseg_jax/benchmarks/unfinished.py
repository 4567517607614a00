"""Counts of a benchmark that is not finished, kept so that a restart goes on.

While a benchmark is scored, its counts are written to `FOLDER/NAME.npz` every
few seconds, always whole. The same command, started again, reads them and goes
on after the last picture they contain. Batches end where they would have ended
without the stop, so the counts are the same integers. Counts of anything else
(other weights, threshold, protocol, pictures, code) are not used, and a line
says what differs.
"""

import dataclasses
import hashlib
import io
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from sseg_jax.benchmarks.sample import Benchmark, Sample
from sseg_jax.errors import InputError
from sseg_jax.runtime import progress_bar

# Seconds between two writes; more where a write takes long, so that writing
# takes a twentieth of the time at most.
EVERY_SECONDS = 10.0
_SHARE = 20
_FORMAT = "sseg_jax counts 1"
_TOLD = 3  # differences that a line names


@runtime_checkable
class Part(Protocol):
  """What is kept of an evaluation: counts, or pictures for a report."""

  def arrays(self) -> dict[str, np.ndarray]:
    """Returns all of it."""
    ...

  def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
    """Takes what `arrays` returned; KeyError or ValueError if it is not so."""
    ...


@dataclasses.dataclass
class Unfinished:
  """The counts of one benchmark, read at the start and written meanwhile.

  Attributes:
    path: file of the counts; None keeps nothing.
    identity: all that the counts depend on, as JSON can hold it.
    done: how many pictures are counted.
    seconds: how long they took.
    facts: more that is kept with the counts, as JSON can hold it.
  """

  path: Path | None = None
  identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  done: int = 0
  seconds: float = 0.0
  facts: dict[str, Any] = dataclasses.field(default_factory=dict)
  _parts: dict[str, Part] = dataclasses.field(default_factory=dict)
  _found: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  _last: str = ""
  _next: float = 0.0

  def add(self, name: str, part: Part) -> None:
    """Keeps a part from now on; gives it what was kept of it, if anything.

    Raises:
      InputError: if what was kept does not fit.
    """
    self._parts[name] = part
    start = f"{name}/"
    own = {
      key.removeprefix(start): array
      for key, array in self._found.items()
      if key.startswith(start)
    }
    if self.done:
      try:
        part.restore(own)
      except (KeyError, ValueError, IndexError) as error:
        raise InputError(
          f"{self.path}: the counts are damaged ({name}: {error}); remove the"
          " file and start again"
        ) from error

  def counted(self, samples: Sequence[Sample], seconds: float) -> None:
    """Tells that a batch is counted by all parts, and how long all took."""
    self.done += len(samples)
    self.seconds = seconds
    if self.path is not None:
      self._last = digest(samples[-1])
      if time.monotonic() >= self._next:
        self.write()

  def write(self) -> None:
    """Writes all parts; a line says so, once, if the disk does not let it."""
    if self.path is None:
      return
    start = time.monotonic()
    about = {
      "format": _FORMAT,
      "identity": self.identity,
      "done": self.done,
      "seconds": self.seconds,
      "facts": self.facts,
      "last": self._last,
    }
    arrays: dict[str, Any] = {
      f"{name}/{key}": array
      for name, part in self._parts.items()
      for key, array in part.arrays().items()
    }
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    new = self.path.with_name(f"{self.path.name}.new")
    try:
      self.path.parent.mkdir(exist_ok=True)
      with new.open("wb") as file:
        np.savez(file, about=text, **arrays)
      new.replace(self.path)
    except OSError as error:
      _tell(
        f"{self.path}: cannot be written ({error.strerror}); a stop would start"
        " over"
      )
      self.path = None
    now = time.monotonic()
    self._next = now + max(EVERY_SECONDS, _SHARE * (now - start))


def start(
  folder: Path | None,
  benchmark: Benchmark,
  identity: Mapping[str, Any],
  indices: Sequence[int],
) -> Unfinished:
  """Reads what an earlier call left, if it was the same; else starts anew.

  Args:
    folder: of the counts; None keeps nothing.
    benchmark: what is scored.
    identity: all that the counts depend on, as JSON can hold it.
    indices: of the pictures that are scored, in this order.
  """
  if folder is None:
    return Unfinished()
  path = folder / f"{benchmark.name}.npz"
  own = json.loads(json.dumps(identity))
  made = Unfinished(path, own)
  name = benchmark.name
  try:
    about, found = _read(path)
    if about["format"] != _FORMAT:
      raise ValueError("another format")
    differs = differences(about["identity"], own)
    done, last = int(about["done"]), str(about["last"])
    if not 0 <= done <= len(indices):
      raise ValueError(f"{done} pictures")
    seconds, facts = float(about["seconds"]), dict(about["facts"])
  except FileNotFoundError:
    return made
  except Exception as error:  # a damaged file may raise anything
    _tell(f"{path}: the counts are damaged ({error}); {name} starts over")
    return made
  if not differs and done and digest(benchmark[indices[done - 1]]) != last:
    differs = [f"picture {done} has changed"]
  if differs:
    more = f", and {len(differs) - _TOLD} more" if len(differs) > _TOLD else ""
    _tell(
      f"{path}: the counts are of another evaluation"
      f" ({'; '.join(differs[:_TOLD])}{more}); {name} starts over"
    )
    return made
  if done:
    _tell(
      f"{name} goes on after {done} of {len(indices)} pictures, from {path}"
    )
  made.done, made.seconds, made.facts = done, seconds, facts
  made._found, made._last = found, last
  return made


def remove(folder: Path, names: Sequence[str]) -> None:
  """Removes the counts of benchmarks, and the folder if that leaves it empty.

  Files that cannot be removed stay: the next call tells whether they fit.
  """
  for name in names:
    for path in (folder / f"{name}.npz", folder / f"{name}.npz.new"):
      try:
        path.unlink(missing_ok=True)
      except OSError:
        return
  try:
    folder.rmdir()
  except OSError:  # other counts are in it, or it was never made
    return


def digest(sample: Sample) -> str:
  """Returns a hash of a picture, its labels and its id."""
  found = hashlib.sha256(sample.id.encode("utf-8", "backslashreplace"))
  for array in (sample.image, sample.labels):
    found.update(str((array.shape, array.dtype)).encode())
    found.update(np.ascontiguousarray(array).tobytes())
  return found.hexdigest()


def differences(before: Any, now: Any, place: str = "") -> list[str]:
  """Returns in words where two values, as JSON can hold them, differ."""
  if isinstance(before, Mapping) and isinstance(now, Mapping):
    return [
      line
      for key in dict.fromkeys((*before, *now))
      for line in differences(
        before.get(key), now.get(key), f"{place}.{key}" if place else key
      )
    ]
  if before == now:
    return []
  old, new = (
    text if len(text) <= 40 else f"{text[:37]}..."
    for text in (str(before), str(now))
  )
  return [f"{place} {old}, now {new}" if old != new else f"another {place}"]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
  data = io.BytesIO(path.read_bytes())
  with np.load(data, allow_pickle=False) as file:
    found = {name: file[name] for name in file.files}
  about = json.loads(found.pop("about").tobytes())
  if not isinstance(about, dict):
    raise ValueError("no facts")
  return about, found


def _tell(line: str) -> None:
  progress_bar.print_above(line, sys.stderr)
