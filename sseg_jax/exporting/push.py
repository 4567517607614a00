"""Uploads written formats to a repository of Hugging Face's hub."""

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from sseg_jax.errors import InputError, Unavailable

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# The format whose files go to the top: `sseg_jax.load` reads them.
TOP = "safetensors"


def check(repository: str) -> None:
  """Raises InputError for what is no repository, and without the package."""
  if not _NAME.fullmatch(repository):
    raise InputError(f"push={repository!r}: give org/name")
  if importlib.util.find_spec("huggingface_hub") is None:
    raise InputError(
      f"push={repository}: huggingface_hub is not installed; first"
      " `pip install 'sseg-jax[hub]'`"
    )


def push(out: Path, names: Sequence[str], repository: str) -> str:
  """Uploads formats in one commit and returns the repository's address.

  The files of `safetensors`, or of the only format, lie at the top, those of
  every other format in a folder of its name. The token is the one of
  `hf auth login`, or of the variable `HF_TOKEN`.

  Args:
    out: folder of the formats' folders.
    names: the formats.
    repository: org/name; made if it does not exist.

  Raises:
    InputError: if the hub refuses the name or the token.
    Unavailable: without a connection.
  """
  import huggingface_hub
  from huggingface_hub import errors

  top = TOP if TOP in names else names[0] if len(names) == 1 else None
  files = [
    (path, "" if name == top else f"{name}/", out / name)
    for name in names
    for path in sorted((out / name).rglob("*"))
    if path.is_file()
  ]
  operations = [
    huggingface_hub.CommitOperationAdd(
      f"{place}{path.relative_to(folder).as_posix()}", str(path)
    )
    for path, place, folder in files
  ]
  hub = huggingface_hub.HfApi()
  try:
    hub.create_repo(repository, exist_ok=True)
    made = hub.create_commit(
      repository,
      operations,
      commit_message=f"Export of sseg_jax: {', '.join(names)}",
    )
  except (errors.HfHubHTTPError, errors.HFValidationError) as error:
    reason = str(error).strip().splitlines()[0]
    raise InputError(
      f"push={repository}: the hub refuses it ({reason}); check the name, and"
      " `hf auth login`"
    ) from error
  # Connections fail in many ways, of the client's own library too.
  except Exception as error:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise Unavailable(
      f"push={repository}: cannot be uploaded ({reason}); {out} has all files"
    ) from error
  return str(getattr(made, "repo_url", repository))
