"""Runs one training in several processes on this machine.

python launch/local.py --processes=2 --devices=4 -- \
  --config=configs/quickstart.py --workdir=runs/local

The arguments after `--` go to `python -m sseg_jax.main`. --devices is the
number of simulated CPU devices of each process (0: the accelerators that JAX
finds; the caller must split them). Each line of output starts with the number
of its process. SIGTERM and SIGINT go to all processes. If one fails, the others
have a minute to end.
"""

import argparse
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
# After one process has failed, the others are killed after this many seconds.
GRACE_SECONDS = 50.0


def main(argv: list[str] | None = None) -> int:
  """Returns the first exit code that is not 0."""
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--processes", type=int, default=2)
  parser.add_argument("--devices", type=int, default=1, help="of each process")
  parser.add_argument("arguments", nargs="*", help="of sseg_jax.main")
  flags = parser.parse_args(argv)
  if flags.processes < 1 or flags.devices < 0:
    parser.error("--processes must be at least 1, --devices at least 0")
  address = f"127.0.0.1:{free_port()}"
  processes = [
    start(flags.arguments, address, flags.processes, i, flags.devices)
    for i in range(flags.processes)
  ]

  for i, process in enumerate(processes):
    print(f"[{i}] is process {process.pid}", flush=True)

  def forward(number: int, _) -> None:
    for process in processes:
      if process.poll() is None:
        process.send_signal(number)

  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, forward)
  echoes = [
    threading.Thread(target=echo, args=(i, process))
    for i, process in enumerate(processes)
  ]
  for thread in echoes:
    thread.start()
  code = wait(processes)
  for thread in echoes:
    thread.join(5)
  return code


def free_port() -> int:
  """Returns a port of the loopback that is free, as is the one below it."""
  while True:
    with socket.create_server(("127.0.0.1", 0)) as found:
      port = found.getsockname()[1]
      try:
        socket.create_server(("127.0.0.1", port - 1)).close()
      except OSError:
        continue
    return port


def start(
  arguments: list[str], address: str, count: int, index: int, devices: int
) -> subprocess.Popen:
  """Starts process `index` of `count`."""
  environment = os.environ | {
    "PYTHONPATH": os.pathsep.join(
      filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    ),
    "PYTHONUNBUFFERED": "1",
  }
  if devices:
    flag = f"--xla_force_host_platform_device_count={devices}"
    others = os.environ.get("XLA_FLAGS", "").split()
    others = [f for f in others if not f.startswith(flag.partition("=")[0])]
    environment |= {
      "JAX_PLATFORMS": "cpu",
      "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
      "XLA_FLAGS": " ".join([*others, flag]),
    }
  return subprocess.Popen(
    [
      sys.executable,
      "-m",
      "sseg_jax.main",
      *arguments,
      *(
        [
          f"--coordinator_address={address}",
          f"--num_processes={count}",
          f"--process_id={index}",
        ]
        if count > 1
        else []
      ),
    ],
    env=environment,
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    errors="replace",
    # Ctrl-C reaches the terminal's whole group: each process gets it once,
    # from here.
    start_new_session=True,
  )


def echo(index: int, process: subprocess.Popen) -> None:
  """Prints what a process prints, marked by its number."""
  assert process.stdout is not None
  for line in process.stdout:
    print(f"[{index}] {line}", end="", flush=True)


def wait(processes: list[subprocess.Popen]) -> int:
  """Waits for all; once one has failed, kills those that do not end."""
  code, deadline = 0, float("inf")
  while True:
    codes = [process.poll() for process in processes]
    failed = [c for c in codes if c]
    if failed and not code:
      # A shell reports a signal in the same way.
      code = failed[0] if failed[0] > 0 else 128 - failed[0]
      deadline = time.monotonic() + GRACE_SECONDS
    if None not in codes:
      return code
    if time.monotonic() > deadline:
      for i, process in enumerate(processes):
        if process.poll() is None:
          print(f"[{i}] does not end: killed", flush=True)
          process.kill()
      deadline = float("inf")
    time.sleep(0.1)


if __name__ == "__main__":
  sys.exit(main())
