"""The stand-in for `sys.executable` does what a Python would do."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import preloaded
import pytest

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(sys.platform != "linux", reason="it is sys.executable"),
]

SCRIPT = """
import atexit, os, sys
atexit.register(print, "bye")
print(sys.argv[1:], __name__, os.getcwd(), os.environ["NAME"], input())
print("error", file=sys.stderr)
sys.exit(3)
"""


@pytest.mark.parametrize("how", ["-c", "-m", "file"])
def test_it_prints_and_ends_like_a_python(how, tmp_path):
  path = tmp_path / "some_script.py"
  path.write_text(SCRIPT)
  first = {"-c": ["-c", SCRIPT], "-m": ["-m", path.stem], "file": [path]}[how]
  done = [
    subprocess.run(
      [python, *first, "a", "--b=c d"],
      cwd=tmp_path,
      env=os.environ | {"NAME": "value"},
      input="line\n",
      capture_output=True,
      text=True,
      check=False,
    )
    for python in (sys.executable, preloaded.python())
  ]
  assert done[0].returncode == done[1].returncode == 3, done[1].stderr
  assert done[0].stdout == done[1].stdout
  assert done[0].stdout.startswith("['a', '--b=c d'] __main__ ")
  assert done[0].stderr == done[1].stderr == "error\n"


@pytest.mark.parametrize(
  ("code", "status"),
  [
    ("import sys; sys.exit('no')", 1),
    ("1 / 0", 1),
    ("import os; os._exit(7)", 7),
    ("import os; os.kill(os.getpid(), 9)", -9),
    ("import os; os.kill(os.getpid(), 15)", -15),
  ],
)
def test_the_exit_status_is_that_of_the_code(code, status):
  done = [
    subprocess.run([python, "-c", code], capture_output=True, text=True)
    for python in (sys.executable, preloaded.python())
  ]
  assert done[0].returncode == done[1].returncode == status
  errors = [x.stderr.splitlines()[-1:] for x in done]
  assert errors[0] == errors[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_the_process_behind_it(number):
  code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
  with subprocess.Popen(
    [preloaded.python(), "-c", code], stdout=subprocess.PIPE, text=True
  ) as process:
    pid = int(process.stdout.readline())
    process.send_signal(number)
    assert process.stdout.read() == ""  # no process has the pipe any more
    assert process.wait() == -number
  deadline = time.monotonic() + 30
  while pathlib.Path(f"/proc/{pid}").exists():  # its end is not yet waited for
    assert time.monotonic() < deadline
    time.sleep(0.01)


def test_jax_reads_the_environment_of_the_call():
  code = """
import jax, sys
assert "tensorflow" in sys.modules
print(len(jax.devices()), jax.config.jax_enable_x64)
print(jax.config.jax_persistent_cache_min_compile_time_secs)
"""
  done = subprocess.run(
    [preloaded.python(), "-c", code],
    env=os.environ
    | {
      "XLA_FLAGS": "--xla_force_host_platform_device_count=3",
      "JAX_ENABLE_X64": "true",
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1.5",
    },
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.split() == ["3", "True", "1.5"]
