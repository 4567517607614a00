"""Does a long run stay as small as it was? Memory, threads and open files.

    python tests/soak.py            5,000 steps of the quickstart, half an hour,
                                    and 20 epochs of a small set of records
    python tests/soak.py --short    some steps of each: does this script work?

Watches the process from outside, through /proc. Memory is fitted by a line over
the steps after the first 500, and over the second half of the run: their
slopes, with twice their standard errors, are what is reported. The allocator
takes some checkpoints and evaluations to settle.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

SETTLED = 500
# Between two looks at the process.
SECONDS, SHORT_SECONDS = 0.5, 0.02


def watch(command, environment, settled, every_seconds):
  """Runs a training command; returns what it took as it went.

  Args:
    command: of sseg_jax.main.
    environment: of the process.
    settled: steps that are left out of the slope.
    every_seconds: it is looked at.

  Returns:
    `steps`, `megabytes` (resident; mean over each 1/20 of the run), `slope`
    and its `error` in MB per 1,000 steps, `threads` and `files` as (at
    `settled`, at the end), `late_slope` and `late_error` of the second half.
  """
  process = subprocess.Popen(
    command,
    env=environment,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )
  step, total, output = 0, 0, []

  def read():
    nonlocal step, total
    for line in process.stderr:
      output.append(line)
      if found := re.search(r"step (\d+)/(\d+): ", line):
        step, total = int(found[1]), int(found[2])

  reader = threading.Thread(target=read)
  reader.start()
  rows = []
  folder = pathlib.Path(f"/proc/{process.pid}")
  while process.poll() is None:
    # Evaluations after the last step are no part of it.
    if step and step < total:
      try:
        status = (folder / "status").read_text()
        files = len(list((folder / "fd").iterdir()))
      except OSError:
        break
      memory = int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1e3
      threads = int(re.search(r"Threads:\s+(\d+)", status)[1])
      rows.append((step, memory, threads, files))
    time.sleep(every_seconds)
  reader.join()
  assert process.wait() == 0, "".join(output[-50:])
  table = np.array(rows, float)
  later = table[table[:, 0] >= settled]
  assert len(later) > 10, f"only {len(later)} samples"
  # Samples follow one another closely and are not independent: one a step.
  steps = np.unique(later[:, 0])
  memory = [later[later[:, 0] == s, 1].mean() for s in steps]
  slope, error = _slope(steps, memory)
  late = steps >= total / 2
  late_slope, late_error = _slope(steps[late], np.array(memory)[late])
  ends = (
    slice(0, max(1, len(later) // 20)),
    slice(-max(1, len(later) // 20), None),
  )
  return {
    "steps": total,
    "megabytes": [
      round(float(part[:, 1].mean()), 1)
      for part in np.array_split(table, min(len(table), 20))
    ],
    "slope": slope,
    "error": error,
    "late_slope": late_slope,
    "late_error": late_error,
    "threads": [int(np.median(later[part, 2])) for part in ends],
    "files": [int(np.median(later[part, 3])) for part in ends],
  }


def _slope(steps, memory):
  (slope, _), covariance = np.polyfit(steps / 1e3, memory, 1, cov=True)
  return float(slope), float(2 * covariance[0, 0] ** 0.5)


def quickstart(folder, short):
  """The quickstart, longer; with its evaluations and checkpoints."""
  from test_train_end_to_end import ENVIRONMENT, command

  if short:
    fields = {"total_steps": 60, "log_every_steps": 1}
    run = command(folder / "quickstart", python=sys.executable, **fields)
    return watch(run, ENVIRONMENT, 10, SHORT_SECONDS)
  arguments = [
    *(sys.executable, "-m", "sseg_jax.main"),
    f"--config={ROOT / 'configs' / 'quickstart.py'}",
    f"--workdir={folder / 'quickstart'}",
    "--config.total_steps=5000",
    "--config.log_every_steps=10",
  ]
  return watch(arguments, ENVIRONMENT, SETTLED, SECONDS)


def epochs(folder, short):
  """Twenty times through a small set of records, with a small model."""
  from test_train_end_to_end import ENVIRONMENT, command

  from sseg_jax.data import shapes

  size, times = (64, 20) if short else (512, 20)
  names = shapes.write(
    folder / "data", train_size=size, eval_size=1, hard_share=0.5
  )
  fields = {
    "batch_size": 8,
    "total_steps": times * size // 8,
    "data.lanes": 4,
    "data.source": "records",
    "data.train": names["train"],
    "log_every_steps": 1,
    "checkpoint.every_steps": 100,
    "evaluate.every_steps": 0,
  }
  run = command(folder / "epochs", python=sys.executable, **fields)
  if short:
    return watch(run, ENVIRONMENT, 20, SHORT_SECONDS)
  return watch(run, ENVIRONMENT, SETTLED, SECONDS)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--short", action="store_true")
  flags = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    for run in (epochs, quickstart):
      found = run(pathlib.Path(folder), flags.short)
      print(
        f"{run.__name__}: {found['steps']} steps,"
        f" {found['slope']:+.1f} ± {found['error']:.1f} MB per 1,000 steps,"
        f" {found['late_slope']:+.1f} ± {found['late_error']:.1f} in the second"
        " half;"
        f" threads {found['threads'][0]} -> {found['threads'][1]},"
        f" open files {found['files'][0]} -> {found['files'][1]}"
      )
      print(json.dumps(found), flush=True)
  return 0


if __name__ == "__main__":
  sys.exit(main())
