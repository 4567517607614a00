"""Finds checkpoint folders, and the newest one that is whole."""

import os
from collections.abc import Mapping

from absl import logging
from etils import epath

from sseg_jax.checkpoints import best, integrity, named_arrays
from sseg_jax.errors import InputError, brief


def find(path: str) -> dict[int, epath.Path]:
  """Returns the checkpoint folders at `path`, by step.

  Args:
    path: a run's work directory, its `checkpoints` folder or one step's folder;
      WORKDIR/best is the checkpoint with the best score.

  Raises:
    InputError: if there is no checkpoint.
  """
  try:
    if "://" not in path:
      path = os.path.abspath(path)
    return _find(epath.Path(path))
  except InputError:
    raise
  # A name that is too long, a scheme without a client, no permission: each
  # kind of storage raises errors of its own.
  except Exception as error:
    raise InputError(
      f"{path!r} cannot be read ({brief(error)}); give a run's work directory"
    ) from error


def _find(path: epath.Path) -> dict[int, epath.Path]:
  if any((path / item).is_dir() for item in integrity.ITEMS):
    return {_step_of(path): path}
  if path.name == "best" and not path.exists():
    folders = _find(path.parent)
    found = best.ranked(best.read(_common(folders)), folders)
    if not found:
      raise InputError(
        f"{path}: no checkpoint there was scored while training; see"
        " evaluate.every_steps and checkpoint.keep_best"
      )
    return {found[0]: folders[found[0]]}
  for directory in (path / "checkpoints", path):
    if folders := _step_folders(directory):
      return folders
  raise InputError(
    f"{path} holds no checkpoint: {_content(path)}; give a run's work"
    " directory, its checkpoints folder or the folder of one step"
  )


def _step_folders(directory: epath.Path) -> dict[int, epath.Path]:
  """Returns folders named by a step, without runs whose name is a number."""
  if not directory.is_dir():
    return {}
  return {
    int(child.name): child
    for child in directory.iterdir()
    if _is_number(child.name)
    and not (child / "checkpoints").exists()
    # Only a run's folder has this file; the run may hold no checkpoint yet.
    and not (child / "config.json").exists()
    and child.is_dir()
  }


def _is_number(name: str) -> bool:
  return name.isascii() and name.isdigit()


def _step_of(folder: epath.Path) -> int:
  """Returns the step of a checkpoint, from its content, not its name."""
  if _is_number(folder.name):
    return int(folder.name)
  try:
    wanted = {"step": named_arrays.stored(folder)["step"]}
    return int(named_arrays.read(folder, wanted)["step"])
  except Exception:  # damaged: the check of all files reports it later
    return 0


def _common(folders: dict[int, epath.Path]) -> epath.Path:
  return next(iter(folders.values())).parent


def _content(path: epath.Path) -> str:
  """Describes what is at the path where a checkpoint was expected."""
  if not path.exists():
    parent = path.parent
    while not parent.exists() and parent != parent.parent:
      parent = parent.parent
    return f"there is no such folder in {parent}"
  if not path.is_dir():
    return "it is a file"
  names = sorted(child.name for child in path.iterdir())
  if "checkpoints" in names:
    return "its folder checkpoints holds no step; was the run ever saved?"
  runs = [n for n in names if (path / n / "checkpoints").is_dir()]
  if runs:
    return f"it holds the runs {_few(runs)}"
  return f"it holds {_few(names)}" if names else "it is empty"


def _few(names: list[str]) -> str:
  return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")


def latest_whole(folders: Mapping[int, epath.Path]) -> int | None:
  """Returns the newest step whose files are whole; None if none is.

  Damaged ones are reported in the log.
  """
  for step in sorted(folders, reverse=True):
    damage = integrity.damage(folders[step])
    if damage is None:
      return step
    logging.warning(
      "CHECKPOINT DAMAGED: %s: %s; trying the one before",
      folders[step],
      damage,
    )
  return None


def set_aside(directory: epath.Path, step: int) -> None:
  """Moves a damaged checkpoint to `DIRECTORY.damaged/STEP`."""
  aside = directory.parent / f"{directory.name}.damaged"
  aside.mkdir(parents=True, exist_ok=True)
  if (aside / str(step)).exists():
    (aside / str(step)).rmtree()
  (directory / str(step)).rename(aside / str(step))


def none_whole(directory: object, steps: list[int]) -> str:
  """Returns the message for a folder without a whole checkpoint."""
  return (
    f"no checkpoint in {directory} is whole (steps {sorted(steps)}); restore"
    " the folder from a copy, or choose another work directory to start over"
  )
