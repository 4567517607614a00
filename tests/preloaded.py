"""A Python whose processes start with JAX, TensorFlow and this package loaded.

To import them takes five seconds of each command that a test starts. `python()`
is the path of a program that stands in for `sys.executable`: it understands
`-m`, `-c` and a script, with arguments, environment, working directory, input
and output, signals and the exit status. A server that has imported the modules
forks a process for each call. (The fork server of `multiprocessing` calls
functions; tests start commands, and the launcher starts some of its own.)

What a test must not do with it: ask what a command imports, how long it takes
to start, or for the memory of its process; nor run another copy of the package.
"""

import array
import atexit
import functools
import gc
import importlib
import io
import json
import os
import pathlib
import random
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types

ROOT = pathlib.Path(__file__).parents[1]
_MODULES = (
  *("jax", "jax.experimental.multihost_utils", "tensorflow"),
  *("flax.nnx", "optax", "orbax.checkpoint", "PIL.Image"),
  # No command: its flags would be defined twice.
  *("sseg_jax.train", "sseg_jax.self_training.run"),
)

# The program: it sends what it was given, and ends as the forked process ends.
_PROGRAM = """#!{python} -IS
import array, json, os, signal, socket, sys

link = socket.socket(socket.AF_UNIX)
link.connect({address!r})
told = dict(argv=sys.argv, env=dict(os.environ), cwd=os.getcwd())
files = array.array("i", (0, 1, 2))
link.sendmsg([b"-"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
link.sendall(json.dumps(told).encode() + b"\\n")
lines = link.makefile()
pid = int(lines.readline())

def forward(number, frame):
  try:
    os.kill(pid, number)
  except ProcessLookupError:
    pass

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
  signal.signal(number, forward)
code = os.waitstatus_to_exitcode(int(lines.readline()))
if code < 0:
  if code != -signal.SIGKILL:
    signal.signal(-code, signal.SIG_DFL)
  os.kill(os.getpid(), -code)
sys.exit(code)
"""


@functools.cache
def python() -> str:
  """Returns the path of the program; starts its server in the first call.

  Elsewhere than on Linux it is `sys.executable`.
  """
  if sys.platform != "linux":
    return sys.executable
  folder = pathlib.Path(tempfile.mkdtemp(prefix="sseg_jax_python_"))
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  address = str(folder / "socket")
  clean = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("JAX_", "XLA_", "PYTEST_", "COV_"))
  }
  path = os.pathsep.join((str(ROOT / "tests"), str(ROOT)))
  server = subprocess.Popen(
    [sys.executable, "-c", "import preloaded; preloaded.serve()", address],
    env=clean | {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "2"},
    stdin=subprocess.PIPE,  # its end ends the server
    stdout=subprocess.PIPE,
    text=True,
  )
  told = server.stdout.readline()
  assert told == "ready\n", "the server has ended; it says above why"
  atexit.register(server.kill)
  program = folder / "python"
  program.write_text(_PROGRAM.format(python=sys.executable, address=address))
  program.chmod(0o700)
  return str(program)


def serve() -> None:
  """Forks a process for each program that asks, until the tests end."""
  for name in _MODULES:
    importlib.import_module(name)
  gc.freeze()
  address = sys.argv[1]
  own = sys.path[3:]  # without the working directory and PYTHONPATH
  signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for supervisors
  with socket.socket(socket.AF_UNIX) as listening:
    listening.bind(address)
    listening.listen(16)
    print("ready", flush=True)
    while True:
      if sys.stdin in select.select([listening, sys.stdin], [], [])[0]:
        return  # the tests have ended
      link = listening.accept()[0]
      if not os.fork():
        listening.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _supervise(link, own)
        os._exit(0)
      link.close()


def _supervise(link: socket.socket, path: list[str]) -> None:
  """Forks the process, tells the program its end, and ends it with that."""
  _, rights, *_ = link.recvmsg(1, socket.CMSG_SPACE(3 * 4))
  files = array.array("i", rights[0][2])
  with link.makefile() as lines:
    told = json.loads(lines.readline())
  pid = os.fork()
  if not pid:
    link.close()
    for number, file in enumerate(files):
      os.dup2(file, number)
    for file in files:
      os.close(file)
    _become(path, **told)
  for file in files:
    os.close(file)
  link.sendall(b"%d\n" % pid)
  ended = os.pidfd_open(pid)
  if ended not in select.select([ended, link], [], [])[0]:
    os.kill(pid, signal.SIGKILL)  # the program was killed
  status = os.waitpid(pid, 0)[1]
  try:
    link.sendall(b"%d\n" % status)
  except OSError:  # nobody is left to be told
    pass


def _become(
  path: list[str], argv: list[str], env: dict[str, str], cwd: str
) -> None:
  """Runs what a Python with these arguments would run; does not return."""
  os.chdir(cwd)
  os.environ.clear()
  os.environ.update(env)
  more = [x for x in env.get("PYTHONPATH", "").split(os.pathsep) if x]
  sys.path[:] = [*more, *path]
  unbuffered = bool(env.get("PYTHONUNBUFFERED"))
  sys.stdin = open(0, closefd=False)
  out = open(1, "wb", -1 if not unbuffered else 0, closefd=False)
  sys.stdout = io.TextIOWrapper(out, write_through=unbuffered)
  sys.stderr = open(2, "w", closefd=False, buffering=1)
  random.seed()
  _configure_jax(env)
  code = 1
  try:
    code = _run(argv)
  except SystemExit as error:
    code = error.code
    if code is not None and not isinstance(code, int):
      print(code, file=sys.stderr)
      code = 1
  except BaseException:
    traceback.print_exc()
  threading._shutdown()
  atexit._run_exitfuncs()
  for file in (sys.stdout, sys.stderr):
    try:
      file.flush()
    except OSError:
      code = 120
  os._exit((code or 0) & 255)


def _run(argv: list[str]) -> int:
  sys.executable, first, *rest = argv
  if first == "-m":
    sys.path.insert(0, os.getcwd())
    sys.argv = ["-m", *rest[1:]]
    runpy._run_module_as_main(rest[0])
  elif first == "-c":
    sys.path.insert(0, "")
    sys.argv = ["-c", *rest[1:]]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(rest[0], "<string>", "exec"), main.__dict__)
  else:
    sys.path.insert(0, str(pathlib.Path(first).resolve().parent))
    sys.argv = [first, *rest]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__file__ = first
    source = pathlib.Path(first).read_text()
    exec(compile(source, first, "exec"), main.__dict__)
  return 0


def _configure_jax(env: dict[str, str]) -> None:
  """Sets what JAX reads from the environment when it is imported."""
  import jax

  for name, value in env.items():
    key = name.lower()
    if name.startswith("JAX_") and key in jax.config.values:
      now = jax.config.values[key]
      if isinstance(now, bool):
        jax.config.update(key, value.lower() in ("1", "true", "yes", "on"))
      elif isinstance(now, (int, float)):
        jax.config.update(key, type(now)(value))
      else:
        jax.config.update(key, value)
