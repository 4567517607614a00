"""Runs of `sseg_jax.ablations`: their configs, folders and processes."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sseg_jax import files
from sseg_jax.baselines import BASELINES
from sseg_jax.errors import InputError
from sseg_jax.runtime.preemption import PREEMPTED


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of the table.

  Attributes:
    reason: what the comparison with "trained" shows.
    overrides: fields that differ from the base config.
    groups: names by which `--rows` asks for it, besides its own.
    method: "train", or what is computed without training: one of
      `methods.METHODS`.
    of: the row whose checkpoint a baseline takes, same seed.
    settings: arguments of the method, beside the config.
  """

  reason: str
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  groups: tuple[str, ...] = ("ablation",)
  method: str = "train"
  of: str = "trained"
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def needs(self) -> str:
    """The row that must be finished first, or ""."""
    return self.of if self.method in BASELINES else ""


@dataclasses.dataclass(frozen=True)
class Run:
  """One row with one seed, and its folder."""

  name: str
  row: Row
  seed: int
  out: Path
  config_path: str
  config: ConfigDict  # overrides applied
  overrides: Mapping[str, Any]

  @property
  def workdir(self) -> Path:
    """OUT/ROW/seedN."""
    return self.out / self.name / f"seed{self.seed}"

  def command(self) -> list[str]:
    """Returns the command of the training process."""
    return [
      *(sys.executable, "-m", "sseg_jax.main", f"--config={self.config_path}"),
      f"--workdir={self.workdir}",
      *(f"--config.{k}={v}" for k, v in self.overrides.items()),
    ]

  def result(self) -> dict[str, Any] | None:
    """Returns its result.json, or None before it is finished."""
    return files.read_json(self.workdir / "result.json")

  def settings(self) -> dict[str, Any]:
    """Returns all that the result depends on, as it is read back from JSON."""
    settings = json.loads(json.dumps(self.config.to_dict()))
    return settings | {"ablation": {"row": self.name, **self.row.settings}}

  def changes(self) -> list[str] | None:
    """Returns what differs from the run in its folder; None if that is empty.

    A field that only one of the two has is no difference: another version of
    the package added or removed it.
    """
    path = self.workdir / "settings.json"
    if not path.is_file():
      return None
    return _differences(json.loads(path.read_text()), self.settings())

  def prepare(self) -> None:
    """Makes the folder, with a link to the data that all runs share.

    Raises:
      InputError: if the folder holds a run of other settings.
    """
    if changes := self.changes():
      raise InputError(
        f"{self.workdir} holds a run with other settings"
        f" ({'; '.join(changes)}); delete it, or choose another --out"
      )
    self.workdir.mkdir(parents=True, exist_ok=True)
    text = json.dumps(self.settings(), indent=2) + "\n"
    files.write_text(self.workdir / "settings.json", text)
    if self.config.data.source != "shapes":
      return
    # Runs with equal settings share the pictures, and find them through a link.
    shapes = sorted(self.config.data.shapes.to_dict().items())
    data = self.out / "data" / "-".join(f"{k}_{v}" for k, v in shapes)
    data.mkdir(parents=True, exist_ok=True)
    link = self.workdir / "data"
    if not link.exists():
      link.symlink_to(os.path.relpath(data, self.workdir))


def execute(run: Run) -> int:
  """Trains or computes a run, and returns its exit code.

  Returns `PREEMPTED` if this process got SIGTERM meanwhile: it passes the
  signal to the training, which saves its state.
  """
  if run.row.method == "train":
    with open(run.workdir / "output.txt", "a") as output:
      return _wait(
        subprocess.Popen(run.command(), stdout=output, stderr=output)
      )
  from sseg_jax.study import methods  # loads JAX, which a training need not

  result = methods.compute(run)
  text = json.dumps(result, indent=2) + "\n"
  files.write_text(run.workdir / "result.json", text)
  return 0


def _wait(process: subprocess.Popen) -> int:
  """Returns the exit code of a process that stops when this one is stopped."""
  stopped = False

  def stop(*_) -> None:
    nonlocal stopped
    stopped = True
    process.terminate()

  old = signal.signal(signal.SIGTERM, stop)
  try:
    code = process.wait()
    # Its exit code says nothing: it may have stopped before it could save.
    return PREEMPTED if stopped else code
  finally:
    if process.poll() is None:
      process.terminate()
      process.wait()
    signal.signal(signal.SIGTERM, old)


def _differences(old: Mapping, new: Mapping, prefix: str = "") -> list[str]:
  """Names fields that both have with different values."""
  found = []
  for key in old.keys() & new.keys():
    a, b = old[key], new[key]
    if isinstance(a, Mapping) and isinstance(b, Mapping):
      found += _differences(a, b, f"{prefix}{key}.")
    elif a != b:
      found.append(f"{prefix}{key} was {a}, is {b}")
  return sorted(found)
