"""What a run survives: kills, signals, damaged checkpoints, a full disk.

    python tests/kill_trials.py           one of each, some two minutes
    python tests/kill_trials.py --full    many at random moments, half an hour

One run is disturbed again and again and started again each time: anywhere in
its start, while it compiles, between steps, while it saves and while it
evaluates. At the end its loss curve, its evaluations and its parameters are
those of an undisturbed run, bit for bit, each batch that was drawn twice was
the same batch, and each example was seen once, but for two unreadable ones,
which are masked and counted. Runs of four processes lose one, and go on with
four, with two or with one.
"""

import argparse
import collections
import functools
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

BATCH, EVERY = 8, 5
# Once through the data.
FIELDS = {
  "batch_size": BATCH,
  "data.lanes": 4,
  "data.source": "records",
  "model.decoder_layers": 1,
  "log_every_steps": 1,
  "checkpoint.every_steps": EVERY,
  "evaluate.every_steps": 2 * EVERY,
  "optim.eps": 1e-3,
  # Divides the pictures of each of four processes.
  "loss.mask_every": 2,
}
# Seconds within which all processes end once one is gone.
TOGETHER = 60


class Run:
  """A work directory, and the command that trains in it.

  Args:
    folder: where all runs lie; records are drawn there.
    name: of this one.
    steps: to train.
    processes: each with one device; 1 also notes which examples were drawn.
  """

  def __init__(self, folder, name, steps, processes=1):
    from test_train_end_to_end import ENVIRONMENT, command
    from xla_flags import FAST

    from sseg_jax.data import shapes

    size = steps * BATCH
    names = shapes.write(
      folder / "data", train_size=size, eval_size=4, hard_share=0.5
    )
    damage_records(pathlib.Path(names["train"]))
    fields = FIELDS | {
      "total_steps": steps,
      "data.train": names["train"],
      "evaluate.benchmarks": names["plain"],
    }
    self.steps = steps
    self.workdir = folder / name
    self._drawn = folder / f"{name}.drawn"
    python, _, _, *arguments = command(self.workdir, **fields)
    self._command = [python, __file__, "child", *arguments]
    if processes > 1:
      self._command = [
        python,
        str(ROOT / "launch" / "local.py"),
        f"--processes={processes}",
        "--",
        *arguments,
      ]
    self._environment = ENVIRONMENT | {
      "PYTHONUNBUFFERED": "1",
      "XLA_FLAGS": FAST,
      # The same program is compiled once for all starts.
      "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    self.output = ""
    self.code = None

  def start(self):
    self.output = ""
    self._process = subprocess.Popen(
      self._command,
      env=self._environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    return self

  def until(self, pattern):
    """Reads until a line has `pattern`; None if the run ends without."""
    for line in self._process.stdout:
      self.output += line
      if found := re.search(pattern, line):
        return found
    return None

  def send(self, number):
    self._process.send_signal(number)
    return self

  def end(self):
    with self._process:
      self.output += self._process.stdout.read()
    self.code = self._process.returncode
    return self.code

  def finish(self):
    self.start()
    assert self.end() == 0, self.output
    return self

  def begun_at(self):
    """The step at which the last start went on; None if it came not so far."""
    found = re.search(r"devices?, step (\d+) of", self.output)
    return int(found[1]) if found else None

  def checkpoints(self):
    """Complete ones, oldest first."""
    folders = (self.workdir / "checkpoints").glob("*/manifest.json")
    found = [f.parent for f in folders if f.parent.name.isdigit()]
    return sorted(found, key=lambda path: int(path.name))

  def curve(self):
    lines = (self.workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    rows = [row for row in rows if "loss" in row]
    steps = [row["step"] for row in rows]
    assert steps == list(range(1, self.steps + 1)), steps
    names = ("loss", "loss/mask", "loss/contrastive", "grad_norm")
    return np.array([[row[name] for name in names] for row in rows])

  def evaluations(self):
    lines = (self.workdir / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    rows = [row for row in rows if "loss" not in row]
    every = FIELDS["evaluate.every_steps"]
    wanted = [*range(every, self.steps, every), self.steps]
    assert [row["step"] for row in rows] == wanted, rows
    return np.array([row["mIoU/plain"] for row in rows])

  def drawn(self):
    """Examples of each step and whether they were read, of all starts."""
    found = collections.defaultdict(set)
    for line in self._drawn.read_text().splitlines():
      step, ids, valid = json.loads(line)
      found[step].add(tuple(zip(ids, valid, strict=True)))
    return found


def damage_records(folder):
  """Makes two records unreadable: one's frame is broken, one's content."""
  mark = folder.parent / "damaged"
  if mark.exists():
    return
  shard = min(folder.glob("*.tfrecord"))
  starts = np.fromfile(shard.with_suffix(".index"), "<u8").tolist()
  data = bytearray(shard.read_bytes())
  data[starts[3]] ^= 1
  record = slice(starts[9], starts[10])
  data[record] = data[record].replace(b"\x89PNG", b"\x89GIF")
  shard.write_bytes(data)
  mark.touch()


def child(argv):
  """Runs sseg_jax.main; notes what each step drew and when it evaluates."""
  from sseg_jax import evaluator, main
  from sseg_jax.data import pipeline

  sys.argv = ["main", *argv]
  (workdir,) = [a.partition("=")[2] for a in argv if a.startswith("--workdir=")]

  class Noted(pipeline.TrainBatches):
    def __init__(self, config, folders, start_step, *place):
      super().__init__(config, folders, start_step, *place)
      self._number = start_step
      self._file = os.open(
        f"{workdir}.drawn", os.O_WRONLY | os.O_APPEND | os.O_CREAT
      )

    def __next__(self):
      batch = super().__next__()
      self._number += 1
      columns = (batch[name].tolist() for name in ("id", "valid"))
      line = json.dumps([self._number, *columns]) + "\n"
      os.write(self._file, line.encode())  # at once, or not at all
      return batch

  class Told(evaluator.Evaluator):
    def __call__(self, state, step, *more):
      print(f"evaluating step {step}", flush=True)
      return super().__call__(state, step, *more)

  pipeline.TrainBatches = Noted
  evaluator.Evaluator = Told
  main.main()


# --- Misfortunes: each leaves the run ended, and unfinished -------------------


def killed(run, rng, moment):
  """SIGKILL."""
  disturb(run, rng, moment, signal.SIGKILL)
  assert run.code in (-signal.SIGKILL, 0), run.output


def asked(run, rng, moment):
  """SIGTERM."""
  disturb(run, rng, moment, signal.SIGTERM)
  assert run.code in (75, 0), run.output
  if saved := re.search(r"asked to stop: saved step (\d+)", run.output):
    assert run.checkpoints()[-1].name == saved[1]


# Where a signal comes: a line to wait for, seconds in which it then comes.
MOMENTS = {
  "evaluating": (r"evaluating step \d+", 1.0),
  "saving": (rf"step \d*[{EVERY % 10}0]/\d+: ", 0.15),
  "between steps": (r"step {step}/\d+: ", 0.3),
  "starting": (None, 8.0),  # it may not even have begun
  "compiling": (r"devices?, step \d+ of", 3.0),
}


def disturb(run, rng, moment, number):
  pattern, seconds = MOMENTS[moment]
  done = int(run.checkpoints()[-1].name) if run.checkpoints() else 0
  step = rng.randint(done + 1, min(done + 2 * EVERY, run.steps - 1))
  run.start()
  if pattern:
    run.until(pattern.format(step=step))
  time.sleep(rng.uniform(0, seconds))
  run.send(number).end()


def truncated(path):
  os.truncate(path, path.stat().st_size // 2)


def missing(path):
  path.unlink()


def flipped(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 16
  path.write_bytes(data)


def damaged(run, rng, how):
  """A file of the newest checkpoint; the one before it is taken, loudly."""
  while len(run.checkpoints()) < 2:
    run.start().until(rf"step {2 * EVERY + 2}/")
    run.send(signal.SIGTERM).end()
  before, newest = run.checkpoints()[-2:]
  # Not Orbax's own marks, which nobody reads once the folder has its name.
  names = json.loads((newest / "manifest.json").read_text())["sha256"]
  files = [newest / name for name in ("manifest.json", *names)]
  files = [f for f in files if f.stat().st_size]
  path = rng.choice(sorted(files))
  how(path)
  run.start().until(r"devices?, step \d+ of")
  run.send(signal.SIGKILL).end()
  assert run.begun_at() == int(before.name), (path, run.output)
  assert re.search(rf"CHECKPOINT DAMAGED: {newest}: ", run.output), path
  return path.relative_to(newest)


def full(run, rng):
  """The disk is full when the next checkpoint is saved."""
  run.workdir.mkdir(exist_ok=True)
  mounted = subprocess.run(
    ["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", run.workdir],
    capture_output=True,
    text=True,
    check=False,
  )
  if mounted.returncode:
    return f"skipped: no small file system ({mounted.stderr.strip()})"
  try:
    run.start()
    run.until(rf"step {EVERY + 1}/")
    while not run.checkpoints():
      time.sleep(0.05)
    # Unbuffered: closing has nothing left to write.
    with open(run.workdir / "ballast", "wb", buffering=0) as file:
      try:
        while True:
          file.write(bytes(2**16))
      except OSError:
        pass
    assert run.end() not in (0, 2), run.output
    assert "No space left on device" in run.output, run.output
    before = run.checkpoints()[-1].name
    (run.workdir / "ballast").unlink()
    run.finish()
    assert run.begun_at() == int(before), run.output
    shutil.copytree(run.workdir, f"{run.workdir}.copy")
  finally:
    subprocess.run(["umount", "-l", run.workdir], check=True)
  run.workdir = pathlib.Path(f"{run.workdir}.copy")
  return f"went on from step {before}"


def one_of_four(run, rng):
  """One process is killed: the others end, and say so."""
  run.start()
  pids = [int(run.until(rf"\[{i}\] is process (\d+)")[1]) for i in range(4)]
  wanted = rng.randint(EVERY + 1, run.steps - 2)
  run.until(rf"\[0\].* step {wanted}/")
  i = rng.randrange(4)
  os.kill(pids[i], signal.SIGKILL)
  start = time.monotonic()
  assert run.end() == 128 + signal.SIGKILL, run.output
  seconds = time.monotonic() - start
  assert seconds < TOGETHER, run.output
  told = re.findall(rf"\[(\d)\] error: process {i} \(.*\) is gone", run.output)
  # Without process 0 the others may see JAX's own service end first.
  assert told or (i == 0 and "distributed service" in run.output), run.output
  return f"process {i} at step {wanted}, the others within {seconds:.0f} s"


# --- Comparison ---------------------------------------------------------------


def assert_same(straight, run, exactly=True):
  from sseg_jax.checkpoints import checkpoint

  a, b = straight.curve(), run.curve()
  evaluations = straight.evaluations(), run.evaluations()
  assert len({*a[:, 0]}) == run.steps  # different batches, different losses
  one, other = (checkpoint.load(r.workdir) for r in (straight, run))
  assert one.step == other.step == run.steps
  pairs = [(a, b), evaluations] if exactly else [(a, b)]
  import jax

  for name in ("params", "model_state"):
    leaves = (jax.tree.leaves(getattr(x, name)) for x in (one, other))
    pairs += zip(*leaves, strict=True)
  for x, y in pairs:
    if exactly:
      np.testing.assert_array_equal(x, y)
    else:
      np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4)
  if not exactly:
    np.testing.assert_allclose(a[:, :3], b[:, :3], rtol=1e-5)


def assert_once(run):
  """Each batch was the same whenever drawn; each example is in one of them.

  All but the two damaged ones are valid there, and the run counted these.
  """
  drawn = run.drawn()
  # A few are drawn ahead of the last step.
  batches = [drawn[step] for step in range(1, run.steps + 1)]
  assert all(len(batch) == 1 for batch in batches)
  examples = [example for (batch,) in batches for example in batch]
  assert sorted(i for i, _ in examples) == list(range(run.steps * BATCH))
  masked = [
    step
    for step, (batch,) in enumerate(batches, 1)
    for _, valid in batch
    if not valid
  ]
  assert len(masked) == 2
  result = json.loads((run.workdir / "result.json").read_text())
  assert result["bad_records"] == 2  # of all starts together


def trials(folder, *, steps, misfortunes, seed):
  """Disturbs one run with `misfortunes` in turn, compares it; returns a log."""
  rng = random.Random(seed)
  straight = Run(folder, "straight", steps).finish()
  assert_once(straight)
  log, rounds = [], 0
  waiting = list(misfortunes)
  while waiting:
    # A run that came to its end is complete: the next misfortune needs another.
    rounds += 1
    run = Run(folder, f"disturbed-{rounds}", steps)
    while waiting and not ended(run):
      name, misfortune = waiting.pop(0)
      found = misfortune(run, rng)
      log.append(
        f"{name}: began at {run.begun_at()}, exit {run.code} {found or ''}"
      )
      print(log[-1], flush=True)
    run.finish()
    assert_same(straight, run)
    assert_once(run)
  return log


def lose_one_of_four(folder, rng, steps, then):
  """Kills one process of four, and goes on with so many; for each of `then`."""
  straight = Run(folder, "four", steps, processes=4).finish()
  for i, processes in enumerate(then):
    run = Run(folder, f"four-{i}", steps, processes=4)
    print("one of four killed:", one_of_four(run, rng), flush=True)
    run = Run(folder, f"four-{i}", steps, processes=processes).finish()
    assert run.begun_at() > 0
    assert_same(straight, run, exactly=processes == 4)
    print(f"went on with {processes} from {run.begun_at()}", flush=True)


def ended(run):
  """Whether so little is left that it might end before a misfortune."""
  saved = run.checkpoints()
  return bool(saved) and int(saved[-1].name) > run.steps - 3 * EVERY


def each(kills, terms, damages):
  """Misfortunes, of each signal one for each moment in turn."""
  found = []
  for name, misfortune, count in (
    ("kill -9", killed, kills),
    ("SIGTERM", asked, terms),
  ):
    for moment in itertools.islice(itertools.cycle(MOMENTS), count):
      partial = functools.partial(misfortune, moment=moment)
      found.append((f"{name} {moment}", partial))
  for how in (truncated, missing, flipped):
    partial = functools.partial(damaged, how=how)
    found += [(f"checkpoint {how.__name__}", partial)] * damages
  return found


def main():
  if sys.argv[1:2] == ["child"]:
    return child(sys.argv[2:])
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--full", action="store_true")
  parser.add_argument("--seed", type=int, default=random.randrange(10**6))
  flags = parser.parse_args()
  print(f"--seed={flags.seed}", flush=True)
  rng = random.Random(flags.seed)
  begun = time.monotonic()
  kinds = each(20, 5, 1) if flags.full else each(1, 1, 1)
  rng.shuffle(kinds)
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    log = trials(folder, steps=60, misfortunes=kinds, seed=flags.seed)
    run = Run(folder, "disk", 60)
    print("full disk:", found := full(run, rng), flush=True)
    if not found.startswith("skipped"):
      assert_same(Run(folder, "straight", 60), run)
      assert_once(run)
    if flags.full:
      # Fewer steps: on another number of processes rounding adds up.
      lose_one_of_four(folder, rng, 30, (4, 4, 2, 2, 1))
  seconds = time.monotonic() - begun
  print(f"{len(log)} misfortunes, all runs equal; {seconds:.0f} s")
  return 0


if __name__ == "__main__":
  sys.exit(main())
