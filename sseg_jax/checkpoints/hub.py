"""Exported folders from the Hugging Face hub, by the package `huggingface-hub`.

A repository is read at one commit. The hub's client keeps each file under the
hash by which the hub names it, SHA-256 for large files and Git's SHA-1 for
small ones; both are checked here against the content.
"""

import hashlib
import logging
import os
import re
from pathlib import Path

from sseg_jax.checkpoints import exported
from sseg_jax.errors import InputError

_SCHEME = "hf://"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
# Where the files of an export lie in a repository.
_FOLDERS = ("", "safetensors/")
_log = logging.getLogger(__name__)


def repository(source: str) -> str | None:
  """Returns the repository that a source names, or None if it is a path.

  Args:
    source: `hf://org/name`, or `org/name` where no such path exists.
  """
  if source.startswith(_SCHEME):
    name = source.removeprefix(_SCHEME).rstrip("/")
    if not _NAME.fullmatch(name):
      raise InputError(f"{source!r}: a repository is named hf://org/name")
    return name
  if _NAME.fullmatch(source) and not os.path.lexists(source):
    return source
  return None


def download(
  name: str, *, revision: str | None = None, endpoint: str | None = None
) -> tuple[str, str]:
  """Downloads the two files of an exported folder, if need be.

  Args:
    name: `org/name`.
    revision: commit, branch or tag; None for the main branch.
    endpoint: address of the hub, instead of `HF_ENDPOINT` or the public one.

  Returns:
    The local folder; and `hf://org/name@COMMIT`.

  Raises:
    InputError: the repository does not exist or holds no export, the hub does
      not answer, or a file has changed since it was downloaded.
  """
  given = f"{name}: no such folder here"
  try:
    import huggingface_hub
    from huggingface_hub import errors
  except ImportError as error:
    raise InputError(
      f"{given}; if it is a repository of the Hugging Face hub, install the"
      " hub's client: pip install 'sseg-jax[hub]'"
    ) from error
  given = f"{given}, and the hub's repository of this name"
  for below in _FOLDERS:
    try:
      paths: list[Path] = []
      for file in (exported.CONFIG, exported.WEIGHTS):
        local = huggingface_hub.hf_hub_download(
          name, below + file, revision=revision, endpoint=endpoint
        )
        paths.append(Path(local))
        # A branch may move on between the two files.
        revision = _commit(paths[0]) or revision
      break
    except errors.RevisionNotFoundError as error:
      raise InputError(
        f"{name}: the hub's repository has no revision {revision!r}; give a"
        " commit, branch or tag of it"
      ) from error
    except errors.RepositoryNotFoundError as error:
      raise InputError(
        f"{given} does not exist, or is not public; check the name"
      ) from error
    except errors.LocalEntryNotFoundError as error:
      raise InputError(
        f"{given} cannot be reached; check the name and the network"
      ) from error
    except errors.EntryNotFoundError:
      continue
    # Whatever the client raises: a bad name, no room, an answer of 500.
    except Exception as error:
      reason = " ".join(str(error).split())[:200] or type(error).__name__
      raise InputError(
        f"{given} cannot be read ({reason}); try again later"
      ) from error
  else:
    raise InputError(
      f"{name}: the hub's repository holds no {exported.CONFIG} with"
      f" {exported.WEIGHTS}; it must hold what `python -m sseg_jax.export`"
      " wrote"
    )
  for path in paths:
    _check_content(path, name)
  folder = paths[0].parent
  commit = _commit(paths[0])
  _log.info("%s: loaded at commit %s", name, commit)
  return str(folder), f"{_SCHEME}{name}@{commit}"


def check_sha256(path: Path, wanted: str) -> None:
  """InputError unless a file has this SHA-256, in hexadecimal digits."""
  if not re.fullmatch(r"[0-9a-fA-F]{64}", wanted):
    raise InputError(f"sha256={wanted!r}: give 64 hexadecimal digits")
  found = _digest(path, "sha256")
  if found != wanted.lower():
    raise InputError(
      f"{path}: has the SHA-256 {found}, not {wanted.lower()}; the file is"
      " damaged, or another one"
    )


def _check_content(path: Path, name: str) -> None:
  # The cache's snapshots are links to files that are named by their hashes; on
  # a system without links there is no such name.
  expected = path.resolve().name
  kind = {64: "sha256", 40: "git"}.get(len(expected), "")
  if not re.fullmatch(r"[0-9a-f]+", expected) or not kind:
    return
  if _digest(path, kind) != expected:
    raise InputError(
      f"{path.resolve()}: is not what the hub has for {name}: it was damaged or"
      " changed; delete it and load again"
    )


def _digest(path: Path, kind: str) -> str:
  digest = hashlib.sha256() if kind == "sha256" else hashlib.sha1()
  if kind == "git":
    digest.update(f"blob {path.stat().st_size}\0".encode())
  with path.open("rb") as file:
    while chunk := file.read(1 << 22):
      digest.update(chunk)
  return digest.hexdigest()


def _commit(path: Path) -> str | None:
  # …/snapshots/COMMIT/config.json
  parts = path.parts
  return parts[parts.index("snapshots") + 1] if "snapshots" in parts else None
