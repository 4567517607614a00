"""Writes the metrics of a run, measures its speed, and profiles it."""

import collections
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jaxtyping import UInt8

from sseg_jax import files


class MetricWriter:
  """Writes scalars and pictures of a run, in the first process only.

  Scalars go to the log, to `WORKDIR/metrics.jsonl` (one line a call) and to
  TensorBoard in `WORKDIR/tensorboard`. Without clu and TensorFlow (the extra
  `train`) nothing is written for TensorBoard, and one warning is logged.

  Args:
    workdir: folder of the run, local or `gs://`.
    resume_step: the step the run continues from. Lines of `metrics.jsonl`
      beyond it belong to steps that are taken again, and are removed.

  Attributes:
    evaluated: whether an evaluation of `resume_step` was written already.
  """

  def __init__(self, workdir: str | epath.PathLike, *, resume_step: int = 0):
    self._tensorboard: Any = None
    self._file: Any = None
    self.evaluated = False
    if jax.process_index() != 0:
      return
    workdir = epath.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "metrics.jsonl"
    kept = _lines_until(path, resume_step)
    self.evaluated = any(map(_is_evaluation_of(resume_step), kept))
    files.write_text(path, "".join(kept))
    self._file = path.open("a")
    self._tensorboard = _summary_writer(workdir / "tensorboard")

  def scalars(self, step: int, values: Mapping[str, Any]) -> None:
    """Writes numbers, or arrays of shape [], under their names."""
    if self._file is None:
      return
    numbers = {name: float(value) for name, value in values.items()}
    shown = " ".join(f"{name}={value:.5g}" for name, value in numbers.items())
    logging.info("step %d: %s", step, shown)
    self._file.write(json.dumps({"step": int(step), **numbers}) + "\n")
    self._file.flush()
    if self._tensorboard is not None:
      self._tensorboard.write_scalars(step, numbers)

  def images(
    self, step: int, images: Mapping[str, UInt8[np.ndarray, "_h _w 3"]]
  ) -> None:
    """Writes pictures to TensorBoard."""
    if self._tensorboard is not None:
      batched = {name: image[None] for name, image in images.items()}
      self._tensorboard.write_images(step, batched)

  def flush(self) -> None:
    """Writes everything that is buffered to the file system."""
    if self._file is not None:
      self._file.flush()
    if self._tensorboard is not None:
      self._tensorboard.flush()

  def close(self) -> None:
    """Flushes and closes the files."""
    if self._file is not None:
      self._file.close()
    if self._tensorboard is not None:
      self._tensorboard.close()


def _lines_until(path: epath.Path, step: int) -> list[str]:
  """Returns the lines up to and including `step`, without half-written ones."""
  kept = []
  for line in path.read_text().splitlines() if path.exists() else []:
    try:
      if json.loads(line)["step"] <= step:
        kept.append(line + "\n")
    except (ValueError, KeyError, TypeError):
      logging.warning("%s: left out a line that is not JSON", path)
  return kept


def _is_evaluation_of(step: int) -> Callable[[str], bool]:
  def found(line: str) -> bool:
    row = json.loads(line)
    # Rows of training have a loss. Rows of an evaluation have none, and may
    # have no score either.
    return row["step"] == step and "loss" not in row

  return found


def _summary_writer(logdir: epath.Path) -> Any:
  try:
    import tensorflow as tf
    from clu import metric_writers
  except ImportError as error:
    logging.warning("no TensorBoard files (install sseg_jax[train]): %s", error)
    return None
  # Otherwise TensorFlow would reserve the accelerator's memory.
  tf.config.set_visible_devices([], "GPU")
  tf.config.set_visible_devices([], "TPU")
  return metric_writers.SummaryWriter(str(logdir))


class Throughput:
  """Speed over the last steps, within a window.

  Args:
    batch_size: images a step, over all processes.
    total_steps: where the run ends.
    window: number of calls of `update` over which the speed is measured.
    clock: returns the time in seconds; tests pass their own.
  """

  def __init__(
    self,
    batch_size: int,
    total_steps: int,
    *,
    window: int = 20,
    clock: Callable[[], float] = time.perf_counter,
  ):
    self._batch_size = batch_size
    self._total_steps = total_steps
    self._clock = clock
    self._marks: collections.deque[tuple[int, float]] = collections.deque(
      maxlen=window + 1
    )

  def update(self, step: int) -> None:
    """Records that `step` is done; call it when its result is available."""
    self._marks.append((step, self._clock()))

  def reset(self) -> None:
    """Empties the window; call it after an evaluation or another pause."""
    self._marks.clear()

  def scalars(self) -> dict[str, float]:
    """Returns `ms_per_step` and `images_per_second`; {} before two updates."""
    seconds = self._seconds_per_step()
    if seconds is None:
      return {}
    return {
      "ms_per_step": 1000 * seconds,
      "images_per_second": self._batch_size / seconds,
    }

  def time_left(self) -> str:
    """Returns the time to the last step as "3m20s"; "?" before two updates."""
    seconds = self._seconds_per_step()
    if seconds is None:
      return "?"
    return format_duration((self._total_steps - self._marks[-1][0]) * seconds)

  def _seconds_per_step(self) -> float | None:
    if len(self._marks) < 2:
      return None
    (first, start), (last, end) = self._marks[0], self._marks[-1]
    if last <= first or end <= start:
      return None
    return (end - start) / (last - first)


def format_duration(seconds: float) -> str:
  """Formats seconds by their two largest units: "45s", "3m20s", "2d03h"."""
  total = max(0, round(seconds))
  minutes, s = divmod(total, 60)
  hours, m = divmod(minutes, 60)
  days, h = divmod(hours, 24)
  if days:
    return f"{days}d{h:02d}h"
  if hours:
    return f"{h}h{m:02d}m"
  if minutes:
    return f"{m}m{s:02d}s"
  return f"{s}s"


class Profiler:
  """Traces a window of steps with `jax.profiler`, for TensorBoard or Perfetto.

  Args:
    logdir: where the trace goes.
    first_step: the first step traced; choose one after compilation and warm-up.
    steps: number of steps traced; 0 switches the trace off.
  """

  def __init__(self, logdir: str, *, first_step: int, steps: int):
    self._logdir = logdir
    self._first = first_step
    self._end = first_step + steps if steps else first_step
    self._running = False

  def update(self, step: int) -> None:
    """Starts or stops the trace; call before each step is dispatched."""
    if not self._running and self._first <= step < self._end:
      jax.profiler.start_trace(self._logdir)
      self._running = True
    elif self._running and step >= self._end:
      self.close()

  def close(self) -> None:
    """Stops the trace if one runs, and writes it."""
    if self._running:
      jax.profiler.stop_trace()
      self._running = False
