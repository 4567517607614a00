"""Files of published weights: a registry, a cache, and readers.

No file is ever unpickled: `.safetensors` and `.npz` hold arrays alone, and a
`.pth` goes through PyTorch's `weights_only` loading.
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
# Where training checkpoints keep the network among other things, best first.
_INSIDE = ("teacher", "model", "state_dict")
_CHUNK = 1 << 20
_TIMEOUT = 60  # seconds without a byte


def cache_folder() -> Path:
  """Folder of downloads: `$SSEG_JAX_CACHE`, else below `~/.cache`."""
  given = os.environ.get(CACHE_VARIABLE)
  return Path(given) if given else Path.home() / ".cache" / "sseg_jax"


def locate(
  source: str | os.PathLike,
  networks: Collection[str],
  *,
  field: str = "weights",
) -> Path:
  """Returns the path of a file, or of a published name's, downloaded once.

  InputError for a name that is not published for one of `networks`, and as
  `fetch`, and for a path that leads to no file.
  """
  name, path = str(source), Path(files.expand(source))
  if "://" in name:
    raise InputError(f"{field}={name}: weights are read from local files alone")
  if name in published.PUBLISHED or not (path.suffix or path.exists()):
    published.check_network(name, networks, field=field)
    return fetch(name)
  if not path.is_file():
    raise InputError(f"{field}={name}: no such file of weights")
  return path


def fetch(name: str, *, folder: Path | None = None) -> Path:
  """Returns the local file of a published name, downloading it once.

  An interrupted download goes on where it stopped; of several processes one
  downloads and the others wait. InputError for an unknown
  name, without a connection, and where the file's SHA-256 is not the one it had
  when it was downloaded, or not the published one.
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
        if not path.exists():  # another process has brought it meanwhile
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
  if not record.exists():  # killed between the two, or put there by hand
    try:
      files.write_text(record, found + "\n")
    except OSError:  # a folder of others
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
  """Waits until no other process downloads `path`, and keeps others waiting."""
  with path.with_name(path.name + ".lock").open("a") as file:
    if fcntl:  # it lets go when the process ends, however that ends
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
      # 206: the rest alone. A server that ignores the range sends everything.
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
    # Asked for what lies behind the end. The part is whole if that is so long.
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
    is_page = file.read(1) == b"<"  # as of a network that wants a login first
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
  """Reads every array of a file under its name there, floats as float32.

  InputError names the file where it is missing, damaged, of another kind, or
  needs PyTorch and there is none.
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
  # Readers raise many kinds for broken files.
  except Exception as error:
    reason = str(error).split("\n")[0] or type(error).__name__
    raise InputError(
      f"{path}: cannot be read as weights ({reason}); download it again, or"
      " save its arrays alone as .safetensors"
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
