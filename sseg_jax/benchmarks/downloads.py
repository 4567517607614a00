"""Writes label maps from published downloads: `prepare_benchmark`'s work.

`download_plans.PLANS` says which files to write and how each is made. A picture
is never read or copied.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sseg_jax import files
from sseg_jax.benchmarks.download_plans import PLANS, Labels, Plan
from sseg_jax.benchmarks.miou import Confusion
from sseg_jax.benchmarks.sample import spread
from sseg_jax.errors import InputError
from sseg_jax.images import label_maps
from sseg_jax.prompts import CLASS_NAMES
from sseg_jax.runtime import progress_bar


def prepare(
  name: str, source: Path, out: Path, *, compared: int = 500
) -> list[str]:
  """Writes the label maps and lists of a benchmark.

  Files appear whole or not at all, and those that are there are kept, so an
  interrupted call is continued by the same call.

  Args:
    name: a key of `PLANS`.
    source: see `PLANS[name]`.
    out: the folder that the reader of the benchmark takes.
    compared: how many pictures two sources of labels are compared on.

  Returns:
    Lines about what was done. InputError names a file that is missing or
    wrong, and an `out` that was made from something else.
  """
  plan = PLANS[name](source, out)
  files.make_folder("out", out)
  state = out / f"prepared_{name}.json"
  record: dict[str, Any] = {
    "from": plan.origin,
    "source": str(source.resolve()),
  }
  before = files.read_json(state)
  if before and {k: before.get(k) for k in record} != record:
    raise InputError(
      f"{state}: says that {out} was prepared from {before.get('from')} of"
      f" {before.get('source')}; give another --out, or remove these label maps"
      " and this file"
    )
  notes = list(plan.notes)
  record = {**record, "notes": notes}
  files.write_text(state, json.dumps({**record, "complete": False}, indent=2))
  kept = 0
  for path, make in progress_bar.tracked(
    plan.maps.items(), "label maps", total=len(plan.maps), title=name
  ):
    if path.is_file():
      kept += 1
    else:
      _save(path, make())
  for path, text in plan.lists.items():
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, text)
  if plan.compare:
    notes.append(_difference(plan, compared))
  record = {**record, "notes": notes, "complete": True}
  files.write_text(state, json.dumps(record, indent=2))
  there = f", {kept} of which were there" if kept else ""
  return [f"{out}: {len(plan.maps)} label maps{there}", *notes]


def _save(path: Path, labels: Labels) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  new = path.with_name(f".{path.name}.{os.getpid()}.new")
  try:
    Image.fromarray(labels.astype(np.uint8)).save(new, "PNG")
    new.replace(path)
  except OSError as error:
    raise files.unwritable("out", path.parent, error) from error
  finally:
    new.unlink(missing_ok=True)


def _difference(plan: Plan, compared: int) -> str:
  """Returns how far the other source is from the written label maps."""
  paths = sorted(plan.compare)
  chosen = [paths[i] for i in spread(len(paths), compared)]
  count = len(CLASS_NAMES["coco"]) + 1
  confusion = Confusion(count)
  for path in progress_bar.tracked(chosen, "pictures", title="compare"):
    labels = label_maps.read_labels(path, max_label=count - 1)
    other = plan.compare[path]()
    if labels.shape != other.shape:
      raise InputError(
        f"{path}: labels are {labels.shape[1]}x{labels.shape[0]} but the"
        f" instances {other.shape[1]}x{other.shape[0]}; one is of another data"
        " set"
      )
    confusion.add(labels, other)
  return (
    f"on {len(chosen)} pictures the instances' JSON gives"
    f" {confusion.pixel_accuracy():.2f} % of the pixels the same label as the"
    f" stuffthingmaps (as a prediction it has mIoU {confusion.mean_iou():.2f})"
  )
