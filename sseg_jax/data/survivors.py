"""Which converted pictures become records, and where."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sseg_jax import files
from sseg_jax.data import conversion, staging
from sseg_jax.data.options import Options
from sseg_jax.data.sources.rows import shown
from sseg_jax.errors import InputError
from sseg_jax.images import likeness, reader

# Bits of `images/likeness.py` in which the same pictures may differ. A list of
# evaluation pictures is short. Among millions, a larger number would find
# different pictures, and take longer.
_OF_EXCLUDED = 4
_OF_NEAR = 2
_AT_ONCE = 64  # pictures whose likeness a process computes at a time


@dataclasses.dataclass(frozen=True)
class Survivors:
  """The records of a data set, as numbers over all parts.

  Attributes:
    train: in the order of the source.
    val: in the order of the numbers that chose them.
    dropped: reason -> numbers of records that are left out.
    excluded: for each record that is left out because it is like a picture of
      `exclude_pictures`: its number, and that picture's name.
  """

  train: np.ndarray
  val: np.ndarray
  dropped: dict[str, np.ndarray]
  excluded: list[tuple[int, str]]


def choose(
  rows: np.ndarray, options: Options, excluded: dict[str, int]
) -> Survivors:
  """Leaves out duplicates, and holds out pictures for validation.

  The held-out pictures are those whose keys hash lowest with `seed`, so a
  source that grows keeps most of them. The others stay in the source's order.

  Args:
    rows: array of `staging.ROW`, one for each converted picture.
    options: of `prepare`.
    excluded: name -> likeness of the pictures that must not be in the records.
  """
  kept = np.ones(len(rows), bool)
  dropped: dict[str, np.ndarray] = {}

  def drop(reason: str, which: np.ndarray) -> None:
    which = which & kept
    kept[which] = False
    if which.any():
      before = dropped.get(reason, np.empty(0, np.int64))
      dropped[reason] = np.union1d(before, np.flatnonzero(which))

  like = np.ascontiguousarray(rows["likeness"])
  pairs: list[tuple[int, str]] = []
  if excluded:
    names = list(excluded)
    known = np.array([excluded[name] for name in names], np.uint64)
    found = likeness.Index(known, _OF_EXCLUDED).find(like)
    drop("excluded_picture", found >= 0)
    pairs = [(i, names[found[i]]) for i in np.flatnonzero(found >= 0).tolist()]
  if options.duplicates != "keep":
    drop("duplicate_picture", _repeated(rows["picture"]))
  if options.duplicates == "near":
    drop("near_duplicate", _repeated(like) & (like != 0))
    left = np.flatnonzero(kept)
    found = likeness.Index(like[left], _OF_NEAR).find(like[left], earlier=True)
    near = np.zeros(len(rows), bool)
    near[left[found >= 0]] = True
    drop("near_duplicate", near)
  if options.limit:
    drop("over_limit", np.cumsum(kept) > options.limit)
  left = np.flatnonzero(kept)
  val = left[np.argsort(rows["split"][left], kind="stable")][: options.val_size]
  return Survivors(np.setdiff1d(left, val), val, dropped, pairs)


def _repeated(values: np.ndarray) -> np.ndarray:
  """Returns which values have come before."""
  first = np.unique(values, return_index=True)[1]
  repeated = np.ones(len(values), bool)
  repeated[first] = False
  return repeated


def excluded_paths(folders: str) -> list[Path]:
  """Returns all pictures in and below folders.

  Args:
    folders: separated by commas.

  Raises:
    InputError: a folder is missing or holds no pictures.
  """
  paths: list[Path] = []
  for text in filter(None, map(str.strip, folders.split(","))):
    folder = Path(files.expand(text))
    found = sorted(p for p in folder.rglob("*") if reader.has_suffix(p))
    if not found:
      raise InputError(
        f"--exclude_pictures={shown(text)}: no pictures there; give folders of"
        " evaluation pictures"
      )
    paths += found
  return paths


def excluded_pictures(folders: str, workers: int) -> dict[str, int]:
  """Returns the likeness of the pictures of `excluded_paths`, by name.

  Args:
    folders: separated by commas.
    workers: number of processes; 0 uses this one.
  """
  paths = excluded_paths(folders)
  jobs = [(paths[i : i + _AT_ONCE],) for i in range(0, len(paths), _AT_ONCE)]
  made: dict[str, int] = {}
  few = 0 if len(jobs) < 2 else workers
  with conversion.processes(few) as run:
    for names in run(_likenesses, jobs):
      made |= names
  return made


def _likenesses(paths: Sequence[Path]) -> dict[str, int]:
  found = {}
  for path in paths:
    try:
      picture = reader.decode(path.read_bytes(), path, short_side=64)
    except (OSError, InputError):
      continue  # what cannot be read is not evaluated either
    found[os.fspath(path)] = likeness.of(picture.image)
  return found


def count_dropped(
  counts: staging.Counts, survivors: Survivors, parts: list[staging.Staged]
) -> None:
  """Adds the records that are left out to `counts.rejected`, with names."""
  starts = staging.positions(parts)
  for reason, numbers in sorted(survivors.dropped.items()):
    names = keys(parts, starts, numbers[: staging.MAX_EXAMPLES])
    staging.count(counts.rejected, reason, *names, number=len(numbers))


def keys(
  parts: list[staging.Staged], starts: np.ndarray, numbers: np.ndarray
) -> list[str]:
  """Returns the keys of records; reads their parts."""
  found = []
  for number in np.asarray(numbers).tolist():
    at = int(np.searchsorted(starts, number, "right")) - 1
    (fields,) = parts[at].read(np.array([number - starts[at]]))
    found.append(fields["key"].decode())
  return found


def pairs(
  chosen: Survivors, parts: list[staging.Staged]
) -> list[tuple[str, str]]:
  """Returns the keys of `chosen.excluded`, each with its picture's name."""
  numbers = np.array([number for number, _ in chosen.excluded], np.int64)
  found = keys(parts, staging.positions(parts), numbers)
  names = (name for _, name in chosen.excluded)
  return list(zip(found, names, strict=True))
