"""Real processes over the loopback: they compute what one does, or end."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import preloaded
import pytest
from test_train_end_to_end import ENVIRONMENT, ROOT, command
from xla_flags import FAST

from sseg_jax.checkpoints import checkpoint
from sseg_jax.data import shapes

pytestmark = pytest.mark.slow

# Steps of eight simulated devices on few cores take seconds.
STEPS, LANES = 6, 12
# What end_to_end trains, with less to compile and without an evaluation.
FIELDS = {
  "total_steps": STEPS,
  "batch_size": 12,
  "data.lanes": LANES,
  "data.source": "records",
  "model.decoder_layers": 1,
  "text.context_length": 16,
  # Some gradients are zero but for rounding: with the default, Adam would make
  # steps of full length of the rounding.
  "optim.eps": 1e-3,
  "optim.clip_norm": 5.0,
  "log_every_steps": 1,
  "checkpoint.every_steps": 2,
  "evaluate.every_steps": 0,
  "loss.mask_every": 1,  # divides the pictures of each process
}
# In the tests that stop a run before its end: then they run the same program.
ENDLESS = 100_000


@pytest.fixture(scope="module")
def records(tmp_path_factory):
  folder = tmp_path_factory.mktemp("shapes")
  names = shapes.write(folder, train_size=240, eval_size=1, hard_share=0.5)
  return names["train"]


class Launched:
  """launch/local.py, and what it prints."""

  def __init__(self, workdir, records, processes, devices, fsdp, **fields):
    fields = FIELDS | {"data.train": records, "mesh.fsdp": fsdp} | fields
    python, _, _, *arguments = command(workdir, **fields)
    self._process = subprocess.Popen(
      [
        python,
        ROOT / "launch" / "local.py",
        f"--processes={processes}",
        f"--devices={devices}",
        "--",
        *arguments,
      ],
      env=ENVIRONMENT | {"XLA_FLAGS": FAST},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    self.output = ""

  def until(self, pattern):
    """Reads on until a line has `pattern`; returns the match."""
    for line in self._process.stdout:
      self.output += line
      if found := re.search(pattern, line):
        return found
    pytest.fail(f"no {pattern!r} in\n{self.output}")

  def end(self):
    with self._process:  # closes the pipe
      self.output += self._process.stdout.read()
    return self._process.returncode

  def stop(self):
    if self._process.poll() is None:
      self._process.terminate()
      self.end()


@pytest.fixture(scope="module")
def launch(records):
  """Starts processes; ends those that a failed test left."""
  launched = []

  def start(workdir, *arguments, **fields):
    launched.append(Launched(workdir, records, *arguments, **fields))
    return launched[-1]

  yield start
  for one in launched:
    one.stop()


@pytest.fixture(scope="module")
def one(launch, tmp_path_factory):
  """The work directory of a run in one process with one device."""
  workdir = tmp_path_factory.mktemp("one")
  run = launch(workdir, 1, 1, 1)
  assert run.end() == 0, run.output
  return workdir


def curve(workdir):
  rows = (workdir / "metrics.jsonl").read_text().splitlines()
  return {row["step"]: row for row in map(json.loads, rows) if "loss" in row}


def assert_equal_runs(one, other):
  a, b = curve(one), curve(other)
  assert list(a) == list(b) == list(range(1, STEPS + 1))
  for step in a:
    for name in ("loss", "loss/mask", "loss/contrastive"):
      assert b[step][name] == pytest.approx(a[step][name], rel=1e-5), step
    assert b[step]["grad_norm"] == pytest.approx(a[step]["grad_norm"], rel=1e-3)
  # Not equal by standing still.
  assert len({row["loss"] for row in a.values()}) == STEPS
  a, b = checkpoint.load(one), checkpoint.load(other)
  assert a.step == b.step == STEPS
  for name in ("params", "model_state"):
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(y, x, rtol=1e-4, atol=1e-5),
      getattr(a, name),
      getattr(b, name),
    )


# main, on a mesh like a pod's: a host's chips do not follow one another.
SCATTERED = """
import itertools, jax, numpy as np
from sseg_jax import main, sharding

def make_mesh(config):
  devices = sorted(jax.devices(), key=lambda d: d.process_index)
  hosts = itertools.groupby(devices, key=lambda d: d.process_index)
  in_turns = np.array([list(own) for _, own in hosts]).T
  return jax.sharding.Mesh(
    in_turns.reshape(-1, config.fsdp),
    sharding.AXES,
    axis_types=(jax.sharding.AxisType.Auto,) * 2,
  )

sharding.make_mesh = make_mesh
main.main()
"""


def scattered(records, place, tmp_path):
  """Runs two processes on such a mesh to the end; returns what they print."""
  fields = FIELDS | {"data.train": records, "mesh.fsdp": 2}
  processes = [
    subprocess.Popen(
      [preloaded.python(), "-c", SCATTERED, *arguments],
      env=ENVIRONMENT
      | {
        "XLA_FLAGS": f"{FAST} --xla_force_host_platform_device_count=2",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
      },
      stderr=subprocess.PIPE,
      text=True,
    )
    for _, _, _, *arguments in (
      command(tmp_path, *place(i, 2), **fields) for i in range(2)
    )
  ]
  printed = [process.communicate(timeout=300)[1] for process in processes]
  assert [p.returncode for p in processes] == [0, 0], "\n".join(printed)
  return printed


def test_a_killed_process_ends_all_and_two_scattered_ones_go_on(
  one, launch, records, place, tmp_path
):
  """Data x fsdp of 3 x 1 in three processes, then of 2 x 2 in two.

  What follows the kill has another number of processes and another mesh, one
  like a pod's.
  """
  run = launch(tmp_path, 3, 1, 1)
  pid = int(run.until(r"\[1\] is process (\d+)")[1])
  run.until(rf"\[0\].* step 3/{STEPS}: ")
  os.kill(pid, signal.SIGKILL)
  killed = time.monotonic()
  assert run.end() == 128 + signal.SIGKILL
  assert time.monotonic() - killed < 60
  assert re.search(r"\[0\] error: process 1 \(.*\) is gone", run.output)
  told = r"\[2\] (error: process . \(.*\) is gone|.*distributed service)"
  assert re.search(told, run.output), run.output

  first, _ = scattered(records, place, tmp_path)
  start = re.search(rf"4 devices, step (\d+) of {STEPS}", first)
  assert start and int(start[1]) in (2, 4)
  assert_equal_runs(one, tmp_path)


def test_all_save_the_step_at_which_one_is_asked_to_stop(launch, tmp_path):
  run = launch(tmp_path, 2, 1, 1, total_steps=ENDLESS)
  pid = int(run.until(r"\[1\] is process (\d+)")[1])
  run.until(rf"\[1\].* step 3/{ENDLESS}: ")
  os.kill(pid, signal.SIGTERM)
  assert run.end() == 75, run.output
  steps = re.findall(r"\[(.)\].* asked to stop: saved step (\d+)", run.output)
  assert sorted(i for i, _ in steps) == ["0", "1"]
  assert {int(step) for _, step in steps} == {checkpoint.load(tmp_path).step}


def test_all_leave_an_evaluation_in_which_one_is_asked_to_stop(
  launch, records, tmp_path
):
  # No step at which a checkpoint is due.
  fields = {
    "total_steps": ENDLESS,
    "evaluate.every_steps": 3,
    "evaluate.benchmarks": f"{records}/../plain",
  }
  run = launch(tmp_path, 2, 1, 1, **fields)
  pid = int(run.until(r"\[1\] is process (\d+)")[1])
  run.until(rf"\[0\].* step 3/{ENDLESS}: ")
  os.kill(pid, signal.SIGTERM)  # while the first compiles the evaluation
  assert run.end() == 75, run.output
  steps = re.findall(r"\[(.)\].* asked to stop: saved step (\d+)", run.output)
  # The next start evaluates it, as kill_trials.py shows of one process.
  assert sorted(steps) == [("0", "3"), ("1", "3")]


def test_all_label_and_train_and_the_first_scores(
  one, launch, records, tmp_path
):
  """S-Seg+: the first process reads checkpoints without the other one."""
  plain = f"{records}/../plain"
  fields = {
    "task": "supervised",
    "data.train": "",
    "text.frozen": True,
    "evaluate.benchmarks": plain,
    "self_training.teacher": one,
    "self_training.pictures": records,
    "self_training.classes": f"{plain}/classes.txt",
    "self_training.shard_size": 60,
  }
  run = launch(tmp_path, 2, 1, 1, **fields)
  assert run.end() == 0, run.output
  result = json.loads((tmp_path / "result.json").read_text())
  assert result["labels"]["pictures"] == 240
  for name in ("teacher", "student"):
    assert result[name]["benchmarks"].keys() == {"plain"}
  assert checkpoint.load(tmp_path / "student").step == STEPS


def starts(tmp_path, *each, code=2):
  """Starts main with each list of flags; returns what each prints as error.

  All end with `code`: 2 where starting again does not help, else 1.
  """
  processes = [
    subprocess.Popen(
      command(tmp_path, *flags),
      env=ENVIRONMENT,
      stderr=subprocess.PIPE,
      text=True,
    )
    for flags in each
  ]
  found = []
  for process in processes:
    _, error = process.communicate(timeout=90)
    assert process.returncode == code, error
    lines = [x for x in error.splitlines() if x.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in error, error
    found.append(lines[0])
  return found


@pytest.fixture
def place():
  sys.path.append(str(ROOT / "launch"))
  try:
    import local
  finally:
    sys.path.pop()
  address = f"--coordinator_address=127.0.0.1:{local.free_port()}"

  def flags(index, count, *more):
    return address, f"--process_id={index}", f"--num_processes={count}", *more

  return flags


def test_a_missing_process_is_named(tmp_path, place):
  short = "--initialization_timeout=8"
  first, second = starts(
    tmp_path, place(0, 3, short), place(1, 3, short), code=1
  )
  assert "process 2 of 3 did not come within 8 s" in first
  assert second == first or "no answer from process 0" in second


def test_a_port_that_is_taken_is_named(tmp_path, place):
  address, *flags = place(0, 2)
  port = int(address.rpartition(":")[2]) - 1
  with socket.create_server(("127.0.0.1", port)):
    (error,) = starts(tmp_path, (address, *flags), code=1)
  assert f"port {port}, below the one of --coordinator_address" in error


def test_a_wrong_number_of_processes_is_named(tmp_path, place):
  for error in starts(tmp_path, place(0, 2), place(1, 3)):
    assert re.search(
      r"process 1 \(.*\) was started with --num_processes=3, process 0", error
    )


def test_an_unequal_config_is_named(tmp_path, place):
  other = "--config.optim.peak_lr=0.25"
  for error in starts(tmp_path, place(0, 2), place(1, 2, other)):
    assert re.search(
      r"process 1 \(.*\) differs .* optim.peak_lr is 0.25", error
    )


def test_too_few_lanes_for_the_processes(tmp_path, launch):
  run = launch(tmp_path, 2, 1, 1, **{"data.lanes": 1})
  assert run.end() == 2
  for i in (0, 1):
    assert re.search(rf"\[{i}\] error: .*config.data.lanes=1", run.output)
