"""One run at a time in a folder, whoever dies and wherever the folder lies."""

import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

from sseg_jax.errors import InputError, Unavailable
from sseg_jax.runtime import lease

HOLDER = """
import sys, time
from sseg_jax.runtime import lease
held = lease.Lease(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
held.release()
"""


@pytest.fixture
def quick(monkeypatch):
  monkeypatch.setattr(lease, "_SETTLE_SECONDS", 0.2)
  monkeypatch.setattr(lease, "_SETTLE_SECONDS_REMOTE", 0.2)


@pytest.fixture
def other(tmp_path):
  """Another process that holds the folder."""
  process = subprocess.Popen(
    [sys.executable, "-c", HOLDER, tmp_path],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    cwd=pathlib.Path(lease.__file__).parents[1],
  )
  assert process.stdout.readline() == "held\n"
  with process:
    yield process
    process.kill()


def _stored(folder):
  return json.loads((folder / lease.FILE).read_text())


def test_the_second_is_told_who_is_there(tmp_path, other):
  start = time.monotonic()
  with pytest.raises(Unavailable) as raised:
    lease.Lease(tmp_path)
  assert time.monotonic() - start < 0.5
  message = str(raised.value)
  for part in (str(tmp_path), f"process {other.pid}", os.uname().nodename):
    assert part in message and "\n" not in message
  other.communicate("")  # it ends in good order
  assert not (tmp_path / lease.FILE).exists()
  with lease.Lease(tmp_path):
    assert _stored(tmp_path)["process"] == os.getpid()
  assert list(tmp_path.iterdir()) == []


def test_a_killed_process_holds_nothing(tmp_path, other, quick):
  other.kill()  # not waited for: what is left of it still has its number
  time.sleep(0.2)
  assert (tmp_path / lease.FILE).exists()
  with lease.Lease(tmp_path) as held:
    held.check()


def test_another_process_with_the_number_of_the_dead_is_not_it(tmp_path, quick):
  with lease.Lease(tmp_path):
    found = _stored(tmp_path)
  found |= {"process": os.getppid(), "token": "x"}
  (tmp_path / lease.FILE).write_text(json.dumps(found))
  lease.Lease(tmp_path).release()


@pytest.mark.parametrize(
  ("age", "free"), [(0, False), (lease.STALE_SECONDS + 1, True), (-900, False)]
)
def test_on_another_machine_signs_of_life_count(tmp_path, age, free, quick):
  with lease.Lease(tmp_path):
    found = _stored(tmp_path)
  found |= {"machine": "b", "token": "x", "renewed": time.time() - age}
  (tmp_path / lease.FILE).write_text(json.dumps(found))
  if free:
    lease.Lease(tmp_path).release()
    return
  with pytest.raises(Unavailable, match="last sign of life"):
    lease.Lease(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_what_is_not_readable_is_nobodys(tmp_path, text, quick):
  (tmp_path / lease.FILE).write_text(text)
  lease.Lease(tmp_path).release()


class Slow:
  """A folder of an object store, with `gs://` before its local name.

  What is written is seen after a while, and nothing is created exclusively.
  """

  def __init__(self, path):
    self._path = pathlib.Path(path)

  def __fspath__(self):
    return f"gs://{self._path}"

  def __truediv__(self, name):
    return Slow(self._path / name)

  def write_text(self, text):
    time.sleep(0.05)
    self._path.write_text(text)

  def __getattr__(self, name):
    return getattr(self._path, name)


@pytest.mark.parametrize("remote", [False, True])
def test_of_many_at_once_one_holds_the_folder(
  tmp_path, quick, monkeypatch, remote
):
  if remote:
    monkeypatch.setattr(lease.epath, "Path", lambda path: path)
  held, refused = [], []
  begin = threading.Barrier(8)

  def take():
    begin.wait()
    try:
      held.append(lease.Lease(Slow(tmp_path) if remote else tmp_path))
    except Unavailable as error:
      refused.append(str(error))

  threads = [threading.Thread(target=take) for _ in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(held) == 1 and len(refused) == 7
  held[0].check()
  held[0].release()
  assert list(tmp_path.iterdir()) == []


def test_signs_of_life_are_given_and_a_loss_is_seen(tmp_path, monkeypatch):
  monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)
  held = lease.Lease(tmp_path)
  before = _stored(tmp_path)["renewed"]
  time.sleep(0.3)
  found = _stored(tmp_path)
  assert found["renewed"] > before and not held.lost
  (tmp_path / lease.FILE).unlink()  # by somebody who thought it dead
  time.sleep(0.2)
  held.check()
  assert _stored(tmp_path)["token"] == found["token"]
  taken = json.dumps(found | {"token": "x", "process": 7})
  (tmp_path / lease.FILE).write_text(taken)
  with pytest.raises(Unavailable, match="taken over by another run .process 7"):
    held.check()
  assert held.lost
  held.release()  # leaves the other's
  assert (tmp_path / lease.FILE).read_text() == taken


def test_a_library_that_failed_to_end_does_not_lock_itself_out(tmp_path):
  with lease.Lease(tmp_path):
    with pytest.raises(Unavailable):
      lease.Lease(tmp_path)
  held = lease.Lease(tmp_path)
  lease.release_all()
  assert not (tmp_path / lease.FILE).exists()
  held.release()


def test_all_processes_are_one(tmp_path):
  with lease.held_by_first(tmp_path, True, lambda failed: failed) as held:
    held.check()
    with lease.held_by_first(tmp_path, False, lambda failed: 0) as none:
      assert none is None
    with pytest.raises(Unavailable, match="process 0 says why"):
      with lease.held_by_first(tmp_path, False, lambda failed: 1):
        pass
  assert not (tmp_path / lease.FILE).exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
  (tmp_path / "file").write_text("")
  for name in ("file", "file/run"):
    with pytest.raises(InputError, match="workdir=.*/file is a file"):
      lease.Lease(tmp_path / name)
  with pytest.raises(InputError, match="workdir=/proc/run cannot be written"):
    lease.Lease("/proc/run")


def test_a_second_training_is_refused_before_it_writes(tmp_path, tiny_config):
  from sseg_jax import train

  tiny_config.data.source = "shapes"
  with lease.Lease(tmp_path):
    with pytest.raises(Unavailable, match="in use by another run"):
      train.train(tiny_config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [lease.FILE]
