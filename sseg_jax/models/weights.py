"""Files of weights: downloads them once, checks their hashes, reads them.

No file is ever unpickled: `.safetensors` and `.npz` hold only arrays, and a
`.pth` is read with PyTorch's `weights_only`.
"""

import contextlib
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
from absl import logging

from sseg_jax import files
from sseg_jax.errors import InputError
from sseg_jax.models import published

try:
  import fcntl
except ImportError:  # not on Windows
  fcntl = None  # type: ignore[assignment]

CACHE_VARIABLE = "SSEG_JAX_CACHE"
SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".bin")
# Keys under which training checkpoints hold the network, best first.
_INSIDE = ("teacher", "model", "state_dict")
_CHUNK = 1 << 20
_TIMEOUT = 60  # seconds without a byte


def cache_folder() -> Path:
  """Returns `$SSEG_JAX_CACHE`, or `~/.cache/sseg_jax`: where downloads go."""
  given = os.environ.get(CACHE_VARIABLE)
  return Path(given) if given else Path.home() / ".cache" / "sseg_jax"


def locate(
  source: str | os.PathLike,
  networks: Collection[str],
  *,
  field: str = "weights",
) -> Path:
  """Returns the path of the weights that `source` names.

  `source` is a path, or a name in `published.PUBLISHED`, whose file is
  downloaded once. Raises InputError if the file does not exist, if the name is
  not published for one of `networks`, and as `fetch` does. `field` is what
  messages call the source.
  """
  name, path = str(source), Path(files.expand(source))
  if "://" in name:
    raise InputError(f"{field}={name}: weights are read only from local files")
  if name in published.PUBLISHED or not (path.suffix or path.exists()):
    published.check_network(name, networks, field=field)
    return fetch(name)
  if not path.is_file():
    raise InputError(f"{field}={name}: no such file of weights")
  return path


def fetch(name: str, *, folder: Path | None = None) -> Path:
  """Returns the local file of a published name, downloading it once.

  An interrupted download continues where it stopped. Of several processes one
  downloads, and the others wait. Raises InputError for an unknown name, without
  a connection, and if the file's SHA-256 is not the published one or not that
  of the first download.
  """
  published.check_network(
    name, {entry.network for entry in published.PUBLISHED.values()}
  )
  entry = published.PUBLISHED[name]
  folder = folder or cache_folder()
  path = folder / (entry.file or entry.url.rsplit("/", 1)[1])
  record = path.with_name(path.name + ".sha256")
  if not path.exists():
    try:
      folder.mkdir(parents=True, exist_ok=True)
      with _alone(path):
        if not path.exists():  # or another process has downloaded it
          logging.info(
            "downloading %s (%d MB, %s) to %s",
            entry.url,
            entry.megabytes,
            entry.license,
            path,
          )
          _download(entry.url, path, entry.sha256)
          files.write_text(record, sha256(path) + "\n")
    except OSError as error:
      raise InputError(
        f"{folder}: weights cannot be kept there ({error}); set"
        f" {CACHE_VARIABLE} to a folder that can be written"
      ) from error
  found = sha256(path)
  if not found.startswith(entry.sha256):
    raise InputError(
      f"{path} has SHA-256 {found[:16]}…, and the published one begins with"
      f" {entry.sha256}; delete it to download it again"
    )
  if not record.exists():  # the process was killed, or a user put it there
    try:
      files.write_text(record, found + "\n")
    except OSError:  # a folder that only others can write
      logging.warning("%s: no place to note its SHA-256 %s", path, found)
      return path
  expected = record.read_text().strip()
  if found != expected:
    raise InputError(
      f"{path} has SHA-256 {found[:16]}…, not {expected[:16]}… as when it was"
      f" downloaded; delete it and {record.name} to download it again"
    )
  return path


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
  """Holds a lock, so that only one process downloads `path`."""
  with path.with_name(path.name + ".lock").open("a") as file:
    if fcntl:  # the lock is released when the process ends, for any reason
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _download(url: str, path: Path, expected: str) -> None:
  part = path.with_name(path.name + ".part")
  have = part.stat().st_size if part.exists() else 0
  request = urllib.request.Request(url)
  if have:
    request.add_header("Range", f"bytes={have}-")
  try:
    opened = urllib.request.urlopen(request, timeout=_TIMEOUT)
    with contextlib.closing(opened) as answer:
      # 206: only the rest. A server that ignores the range sends everything.
      with part.open("ab" if answer.status == 206 else "wb") as file:
        while chunk := answer.read(_CHUNK):
          file.write(chunk)
        size = file.tell()
      announced = answer.headers.get("Content-Range", "").rpartition("/")[2]
      announced = announced or answer.headers.get("Content-Length", "")
  except urllib.error.HTTPError as error:
    if error.code != 416:
      raise InputError(
        f"{url}: HTTP {error.code}; download it by other means and give its"
        " path"
      ) from error
    # The range begins behind the end: the part is complete if its length is
    # that of the file.
    size = have
    announced = error.headers.get("Content-Range", "").rpartition("/")[2]
    if announced != str(have):
      part.unlink()
      return _download(url, path, expected)
  except (OSError, http.client.HTTPException) as error:
    reason = str(error).strip() or type(error).__name__
    raise InputError(
      f"{url}: cannot be downloaded ({reason}); start again to go on, or give"
      " the path of a local file"
    ) from error
  if announced.isdigit() and size != int(announced):
    raise InputError(
      f"{url}: {size} of {announced} bytes arrived; start again to go on"
    )
  found = sha256(part)
  if not found.startswith(expected):
    part.unlink()
    raise InputError(
      f"{url}: SHA-256 {found} does not begin with {expected}; not kept"
    )
  with part.open("rb") as file:
    is_page = file.read(1) == b"<"  # for example a network's login page
  if is_page:
    part.unlink()
    raise InputError(
      f"{url}: a web page came in place of the weights; not kept; download it"
      " by other means and give its path"
    )
  part.rename(path)


def sha256(path: Path) -> str:
  """Returns the hexadecimal SHA-256 of a file."""
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Returns every array of a file by its name there, floats as float32.

  Raises InputError, which names the file, if it is missing, damaged or of
  another kind, or if it needs PyTorch and that is not installed.
  """
  path = Path(files.expand(path))
  if not path.is_file():
    raise InputError(f"{path}: no such file of weights")
  if path.suffix not in SUFFIXES:
    raise InputError(
      f"{path}: weights are read from {', '.join(SUFFIXES)}; convert the file"
    )
  try:
    if path.suffix == ".safetensors":
      import safetensors.numpy

      arrays: Mapping = safetensors.numpy.load_file(path)
    elif path.suffix == ".npz":
      with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    else:
      arrays = _read_torch(path)
  except InputError:
    raise
  # Readers raise exceptions of many kinds for damaged files.
  except Exception as error:
    reason = str(error).split("\n")[0] or type(error).__name__
    raise InputError(
      f"{path}: cannot be read as weights ({reason}); download it again, or"
      " save only its arrays, as .safetensors"
    ) from error
  return {name: _float32(np.asarray(value)) for name, value in arrays.items()}


def _read_torch(path: Path) -> dict[str, np.ndarray]:
  try:
    import torch
  except ImportError as error:
    raise InputError(
      f"{path}: reading {path.suffix} needs PyTorch, its CPU build is enough;"
      " install it, or give the weights as .safetensors or .npz"
    ) from error
  found = torch.load(path, map_location="cpu", weights_only=True)
  for key in _INSIDE:
    if isinstance(found, dict) and isinstance(found.get(key), dict):
      found = found[key]
  return {
    name: value.detach().float().numpy()  # parameters want a gradient
    for name, value in found.items()
    if isinstance(value, torch.Tensor)
  }


def _float32(array: np.ndarray) -> np.ndarray:
  # bfloat16 is no subtype of NumPy's floating types.
  is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
  return array.astype(np.float32) if is_float else array
