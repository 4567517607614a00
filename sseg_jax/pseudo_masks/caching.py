"""Pseudo-masks computed once over a data set and stored in its records.

    python -m sseg_jax.prepare --add_pseudo_masks --records=records/train \
      --out=cached/train --config=configs/photos.py

Then train with `--config.data.train=cached/train
--config.pseudo_masks.mode=cached`. For an un-augmented picture the labels are
those that the training step would have made, to the rounding of a network in
bfloat16, which depends on the batch (`--set=dtype=float32` rounds less). For a
crop, cached training crops the picture's clusters; online training clusters the
crop.

Started again, it continues after its last complete shard. Several processes, on
one machine or many, share the work: give each --process_count and its own
--process_index; the last one to end writes the manifest.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import tqdm

from sseg_jax import config_files, files
from sseg_jax.data import (
  import_tensorflow,
  manifest,
  pseudo_labels,
  tensorflow_error,
)
from sseg_jax.errors import InputError, brief
from sseg_jax.models import teacher
from sseg_jax.pseudo_masks import eye, generator, labelling, region_features
from sseg_jax.runtime import lease, progress_bar


@dataclasses.dataclass(frozen=True)
class Report:
  """What a run of `add_pseudo_masks` did.

  Attributes:
    records: number of records in the shards written by this run.
    written: shards written by this run.
    kept: shards that were there already.
    missing: shards that other processes have yet to write.
    unreadable: records whose picture does not decode; they get empty masks.
    seconds: wall clock.
    examples: the first keys of unreadable records.
  """

  records: int
  written: int
  kept: int
  missing: int
  unreadable: int
  seconds: float
  examples: tuple[str, ...] = ()

  def __str__(self) -> str:
    """Returns the report as a line to print."""
    rate = self.records / max(self.seconds, 1e-9)
    text = (
      f"{self.records} records in {self.written} shards, {rate:.1f}/s;"
      f" {self.kept} shards were there, {self.unreadable} pictures unreadable"
    )
    if self.examples:
      more = ", …" if self.unreadable > len(self.examples) else ""
      text += f" ({', '.join(self.examples)}{more})"
    if self.missing:
      return f"{text}; {self.missing} shards are left to other processes"
    return f"{text}; the data set is complete"


def add_pseudo_masks(
  source: str,
  out: str,
  config: Any,
  *,
  image_size: int = 0,
  first_id: int = 0,
  batch_size: int = 32,
  process_index: int = 0,
  process_count: int = 1,
  features: bool = False,
  region_views: int = 1,
  progress: bool = False,
) -> Report:
  """Copies the records of `source` to `out` with pseudo-masks of `config`.

  Args:
    source: a finished folder of records.
    out: another folder.
    config: a whole config; `pseudo_masks`, `seed` and `dtype` matter.
    image_size: side at which pictures are clustered; 0 for the config's.
    first_id: number of the first record, where `source` is not the first folder
      of `data.train`: the id that the clusters' randomness depends on.
    batch_size: pictures at once.
    process_index: takes every `process_count`-th shard, from this one on.
    process_count: processes that share the work.
    features: whether to store features of the regions too, for a config with
      model.backbone="teacher". Training then runs no vision transformer.
    region_views: how many views of each picture have features: 1 the whole
      picture, 2 the same mirrored too, more also crops
      (`data/region_views.py`). A step takes one of them.
    progress: whether a terminal shows a progress bar.

  Raises:
    InputError: for folders that are missing, the same, or finished with other
      settings, and for pictures that the generator cannot take.
  """
  start = time.monotonic()
  source, out = files.expand(source), files.expand(out)
  if not 0 <= process_index < process_count:
    raise InputError(
      f"process_index={process_index}: must be 0 to process_count - 1 ="
      f" {process_count - 1}"
    )
  if _place(source) == _place(out):
    raise InputError(f"out={out} is the source; give another folder")
  read = manifest.read_manifest(source)
  image_size = image_size or config.image_size
  if region_views != 1 and not features:
    raise InputError(
      f"region_views={region_views}: needs --add_region_features; add it, or"
      " leave this out"
    )
  if features and not teacher.is_eye(config):
    raise InputError(
      f'model.backbone={config.model.backbone!r}: only "teacher" has features'
      " of regions to store; leave out --add_region_features, or use a config"
      " such as configs/photos.py"
    )
  made = generator.build(config)
  _check_generator(made, image_size)
  info = _info(config, made, image_size, first_id)
  if features:
    info["region_features"] = region_features.info(config, region_views)
  if made.frozen and jnp.dtype(config.dtype) != jnp.float32:
    info["batch_size"] = batch_size  # on which the rounding of tokens depends
  if manifest.is_finished(out):
    if manifest.read_manifest(out).info.get("pseudo_masks") == info:
      return Report(0, 0, len(read.shards), 0, 0, time.monotonic() - start)
    raise InputError(
      f"{out} holds finished records made with other settings; delete it or"
      " choose another folder"
    )
  _make_folder(out)
  views = region_views if features else 0
  label = labelling.Labeller(made, image_size, config, batch_size, views)
  marks = [_fingerprint(info, shard) for shard in read.shards]
  mine = range(process_index, len(read.shards), process_count)
  # Each process has its own lease, because others may write other shards.
  with lease.Lease(out, f"lease-{process_index}.json", field="out"):
    total, written = _write_shards(
      read, out, label, first_id, mine, marks, progress
    )
    whole = [
      shard
      for each, mark in zip(read.shards, marks, strict=True)
      if (shard := pseudo_labels.finished_shard(out, each.file, mark))
    ]
    if len(whole) == len(read.shards):
      pseudo_labels.finish(out, read, whole, info)
  return Report(
    total,
    written,
    len(mine) - written,
    len(read.shards) - len(whole),
    label.unreadable,
    time.monotonic() - start,
    tuple(label.examples),
  )


def _make_folder(out: str) -> None:
  tf = import_tensorflow()
  try:
    tf.io.gfile.makedirs(out)
  except tf.errors.OpError as error:
    raise InputError(f"out={out} cannot be made: {error.message}") from error


def _check_generator(made: generator.PseudoMasks, image_size: int) -> None:
  # A scaled picture is rounded to whole patches.
  rounded = isinstance(made, eye.Eye) and made.tokens.scale != 1
  if image_size % made.stride and not rounded:
    raise InputError(
      f"image_size={image_size} is not a multiple of {made.stride}, the"
      " generator's patch or stride"
    )
  if made.k > 256:
    raise InputError(f"pseudo_masks.k={made.k}: a label map holds 256 at most")


def _write_shards(
  read: manifest.Manifest,
  out: str,
  label: labelling.Labeller,
  first_id: int,
  mine: range,
  marks: Sequence[str],
  progress: bool,
) -> tuple[int, int]:
  """Writes those of the shards `mine` that are missing.

  Returns:
    The number of records and of shards written.
  """
  starts = list(
    itertools.accumulate((s.count for s in read.shards), initial=first_id)
  )
  todo = [
    number
    for number in mine
    if not pseudo_labels.finished_shard(
      out, read.shards[number].file, marks[number]
    )
  ]
  total = sum(read.shards[number].count for number in todo)
  with progress_bar.progress_bar(total, "records", show=progress) as bar:
    for number in todo:
      shard = read.shards[number]
      found = label(pseudo_labels.read_shard(read, shard), starts[number])
      found = _counted(found, bar)
      try:
        pseudo_labels.write_shard(
          out,
          number,
          read.split,
          shard.file,
          _counted(found, bar),
          marks[number],
        )
      except tensorflow_error() + (OSError,) as error:
        raise InputError(
          f"{out}: {shard.file} cannot be written ({brief(error)}); make room"
          " and start again: it goes on after the last whole shard"
        ) from error
  return total, len(todo)


def _counted(items: Iterator, bar: tqdm.tqdm) -> Iterator:
  for item in items:
    yield item
    bar.update()


def _place(folder: str) -> str:
  # A bucket's name is no path of this machine.
  return folder.rstrip("/") if "://" in folder else os.path.realpath(folder)


def _info(
  config: Any, made: generator.PseudoMasks, image_size: int, first_id: int
) -> dict[str, Any]:
  """Returns all that the labels depend on, as the manifest keeps it."""
  found = dict(config.pseudo_masks)
  found.pop("mode")
  # The path of the weights does not matter; their content does.
  found.pop("weights")
  return {
    **found,
    "weights_sha256": region_features.digest(made.frozen),
    "dtype": config.dtype,
    "seed": config.seed,
    "image_size": image_size,
    "first_id": first_id,
  }


def _fingerprint(info: dict[str, Any], shard: manifest.Shard) -> str:
  text = json.dumps([info, shard.sha256], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def run(
  records: str,
  out: str,
  config: str,
  set: Sequence[str] = (),
  check: Callable[..., None] = lambda config, data: None,
  **options: Any,
) -> Report:
  """Runs `add_pseudo_masks` as the command asks.

  Args:
    records: a finished folder of records.
    out: another folder.
    config: path of a config file.
    set: overrides of its fields, "FIELD=VALUE" each.
    check: `config_check.check`, which stands above this module.
    **options: the keyword arguments of `add_pseudo_masks`.
  """
  lowest = {"image_size": 0, "first_id": 0, "batch_size": 1, "region_views": 1}
  for name, low in lowest.items():
    if name in options and options[name] < low:
      raise InputError(f"--{name}={options[name]}: must be at least {low}")
  whole = config_files.overridden(
    config_files.load(config), config_files.parse_settings(list(set))
  )
  check(whole, data=False)
  return add_pseudo_masks(records, out, whole, **options)
