"""Readers of benchmarks, and the resolver of their specifications.

A benchmark has `name`, `class_names` (without background), `has_background`,
`split`, `__len__` and `__getitem__(i) -> Sample`; a sample is read on access.
With background, labels are 0 for it and 1..c; else 0..c-1. 255 is ignored, or
65535 if there are more than 255 labels (`images.reader.ignored_label`).
"""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from sseg_jax import files, prompts
from sseg_jax.benchmarks.coco import CocoObject
from sseg_jax.benchmarks.folder import Folder
from sseg_jax.benchmarks.sample import Benchmark, Sample
from sseg_jax.benchmarks.scenes import Scenes
from sseg_jax.benchmarks.voc import Pascal
from sseg_jax.errors import InputError

__all__ = ["KINDS", "Benchmark", "Sample", "open_benchmark", "parse_specs"]

_log = logging.getLogger(__name__)


class Kind(NamedTuple):
  """A benchmark that is known by name.

  Attributes:
    reader: called as `reader(root, kind=name, split=split)`.
    folder: its usual place below the data root.
  """

  reader: Callable[..., Benchmark]
  folder: str


# A number at the end of a name is that of the classes: without background. The
# last three have none.
KINDS = {
  "voc": Kind(Pascal, "VOCdevkit"),
  "voc20": Kind(Pascal, "VOCdevkit"),
  "context": Kind(Pascal, "VOCdevkit"),
  "context59": Kind(Pascal, "VOCdevkit"),
  "coco": Kind(CocoObject, "coco"),
  "coco80": Kind(CocoObject, "coco"),
  "ade20k": Kind(Scenes, "ade"),
  "cityscapes": Kind(Scenes, "cityscapes"),
  "coco_stuff": Kind(Scenes, "coco"),
}


def parse_specs(specs: str) -> list[str]:
  """Splits `"voc,coco,mine=DIR"`; InputError for none or a repeated name."""
  parts = [part.strip() for part in specs.split(",") if part.strip()]
  if not parts:
    raise InputError(
      f"benchmarks={specs!r} names none; use {', '.join(KINDS)}, NAME=PATH or"
      " the path of a folder"
    )
  names = [_name_and_path(part)[0] for part in parts]
  for i, name in enumerate(names):
    if name in names[:i]:
      raise InputError(
        f"benchmarks={specs!r}: {name!r} occurs twice; tell them apart with"
        " NAME=PATH"
      )
  return parts


def open_benchmark(
  spec: str,
  data_root: str | os.PathLike = ".",
  *,
  split: str = "val",
  class_names: Sequence[str] | None = None,
) -> Benchmark:
  """Opens the benchmark that `spec` means.

  Args:
    spec: a key of `KINDS` (`voc`, `voc20`, `ade20k`, …), found below
      `data_root`; `KIND=PATH`; `NAME=PATH` or just a path for a folder with
      `images/`, `labels/` and `classes.txt`.
    data_root: holds `VOCdevkit/`, `coco/`, `ade/` and `cityscapes/`.
    split: part of the data set: "train", "val" or another that it has. A
      folder without splits is opened as a whole for "val", and the `split` of
      the benchmark is then None; asking it for another is an InputError.
    class_names: instead of the data set's own, in label order.

  Returns:
    The benchmark; samples are read on access. InputError if a part is missing.
  """
  name, path = _name_and_path(spec)
  if name in KINDS:
    kind = KINDS[name]
    default = Path(files.expand(data_root)) / kind.folder
    root = Path(path) if path else default
    benchmark: Benchmark = kind.reader(root, kind=name, split=split)
  else:
    benchmark = Folder(path, name=name, split=split)
  if class_names is not None:
    if len(class_names) != len(benchmark.class_names):
      raise InputError(
        f"the class list has {len(class_names)} names but {name} has"
        f" {len(benchmark.class_names)} classes; list them all, in label order,"
        " without background"
      )
    benchmark.class_names = tuple(class_names)
  return benchmark


def open_training(
  spec: str,
  scored: Benchmark,
  data_root: str | os.PathLike = ".",
  *,
  split: str | None = None,
  class_names: Sequence[str] | None = None,
) -> Benchmark | None:
  """Opens the pictures that a background threshold may be chosen on.

  Args:
    spec: of `scored`, as for `open_benchmark`.
    scored: the benchmark that the threshold is for.
    data_root: as for `open_benchmark`.
    split: None takes "train" where there is one.
    class_names: as for `open_benchmark`.

  Returns:
    The benchmark of these pictures. None if it has no background, or no other
    labelled pictures than the scored ones; the reason is logged. InputError
    instead if `split` names them.
  """
  if not scored.has_background:
    return None
  if split is None and scored.split in (None, "train"):
    return None
  try:
    return open_benchmark(
      spec, data_root, split=split or "train", class_names=class_names
    )
  except InputError as error:
    if split is not None:
      raise
    _log.warning(
      "%s: its background threshold is not chosen on train (%s)",
      scored.name,
      error,
    )
    return None


def class_list(name_or_path: str) -> tuple[str, ...]:
  """Names of a list of `prompts.CLASS_NAMES`, or read from a file.

  A first line `background`, in any spelling of `prompts.BACKGROUND`, is
  dropped.
  """
  if name_or_path in prompts.CLASS_NAMES:
    return prompts.CLASS_NAMES[name_or_path]
  path = files.expand(name_or_path)
  return prompts.without_background(prompts.read_class_list(path), path)[0]


def _name_and_path(spec: str) -> tuple[str, str]:
  if spec in KINDS:
    return spec, ""
  whole = Path(files.expand(spec))
  if _is_dir(whole):  # which may have "=" in its name
    return whole.resolve().name, str(whole)
  name, equals, path = spec.partition("=")
  if not equals:
    raise InputError(
      f"benchmark {spec!r} is neither a folder nor one of {', '.join(KINDS)}"
    )
  if not name or not path:
    raise InputError(f"benchmark {spec!r}: give NAME=PATH")
  if not name.isprintable() or "/" in name or os.sep in name:
    # Results are files with this name.
    raise InputError(f"benchmark {spec!r}: {name!r} cannot name a file")
  return name, files.expand(path)


def _is_dir(path: Path) -> bool:
  try:
    return path.is_dir()
  except (OSError, ValueError):  # too long a name, or NUL in it
    return False
