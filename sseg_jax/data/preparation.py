"""Turns captioned pictures, of a folder or the web, into records.

`prepare` writes OUT/train and, with `val_size`, OUT/val. It counts what was
kept, what was left out, and why, and stores the counts in OUT/train's manifest
and in OUT/report.html. `sources/` says what is read.

Pictures are converted part by part into OUT/parts (`staging.py`). Then all of
them are compared, some are held out (`survivors.py`), and the rest is written
into shards (`assembly.py`). OUT/train's manifest is the last file written:
after an interruption, the same call goes on where it was.
"""

import dataclasses
import json
import os
import time
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
from etils import epath

from sseg_jax import files
from sseg_jax.data import (
  assembly,
  conversion,
  manifest,
  staging,
  survival,
  survivors,
  tensorflow_error,
  unfinished,
)
from sseg_jax.data.options import HOW, Options
from sseg_jax.data.sources import streams
from sseg_jax.data.sources.rows import few, shown
from sseg_jax.errors import InputError, Unavailable
from sseg_jax.runtime import lease
from sseg_jax.runtime.progress_bar import progress_bar


@dataclasses.dataclass(frozen=True)
class Report:
  """Counts of the pictures that were written and rejected.

  Attributes:
    read: pictures named by the source, and entries of its captions that name
      none: train + val + all that were rejected.
    train: records written for training.
    val: records held out.
    rejected: reason -> {"count", "examples"}.
    seconds: wall clock.
    captions: where the captions were read.
    captions_left_out: the same as `rejected`, for captions that cannot be used
      of pictures that have others.
    notes: what else was seen in the source, as sentences.
  """

  read: int
  train: int
  val: int
  rejected: dict[str, dict]
  seconds: float
  captions: str = ""
  captions_left_out: dict[str, dict] = dataclasses.field(default_factory=dict)
  notes: tuple[str, ...] = ()

  def __str__(self) -> str:
    """Returns the report as lines to print."""
    kept = self.train + self.val
    lines = [
      f"kept {kept} of {self.read} pictures ({kept / max(1, self.read):.1%}):"
      f" {self.train} train, {self.val} val, in {self.seconds:.1f} s"
    ]
    if self.captions:
      lines[0] += f"; captions: {self.captions}"
    lines += _lines(self.rejected)
    if self.captions_left_out:
      lines.append("captions left out of pictures that have others:")
      lines += _lines(self.captions_left_out)
    lines += [f"note: {note}" for note in self.notes]
    return "\n".join(lines)


def _lines(counted: dict[str, dict]) -> list[str]:
  return [
    f"  {reason}: {entry['count']} ({few(entry['examples'])})"
    for reason, entry in sorted(counted.items())
  ]


def prepare(source: str, out: str, **options: Any) -> Report:
  """Writes OUT/train and OUT/val; the same bytes for any number of workers.

  An interrupted call with the same arguments is continued.

  Args:
    source: folder of pictures and captions, or another source that
      `sources.streams.find` knows.
    out: folder for the records.
    **options: the fields of `Options`.

  Raises:
    InputError: an option out of its range, bad source, a finished OUT without
      `overwrite`, an OUT that cannot be written, or too few usable pictures.
    Unavailable: a worker process was ended from outside, the disk is full, or
      a pipeline of Apache Beam failed.
  """
  chosen = Options(**options)
  source, out = files.expand(source), files.expand(out)
  _check_places(source, out)
  try:
    return _prepare(source, out, chosen)
  except tensorflow_error("ResourceExhaustedError") as error:
    raise files.full("--out", out) from error
  except tensorflow_error() as error:
    told = shown(getattr(error, "message", str(error)), 300)
    raise InputError(
      f"--out={out} cannot be written ({told}); make room,"
      " or choose another folder"
    ) from error
  except OSError as error:
    if error.errno in files.FULL:
      raise files.full("--out", out) from error
    raise files.unwritable("--out", out, error) from error
  except BrokenProcessPool as error:
    raise Unavailable(
      "a worker process was ended, perhaps because the memory is full; start"
      f" again with fewer than --workers={chosen.workers}"
    ) from error


def _check_places(source: str, out: str) -> None:
  """Refuses an OUT that is a file, or whose splits would lie in the source."""
  if "://" in out:
    return
  if os.path.exists(out) and not os.path.isdir(out):
    raise InputError(f"--out={out} is a file; give a folder")
  inner, outer = os.path.realpath(source), os.path.realpath(out)
  if inner == outer:
    raise InputError(
      f"--out={out} is the source; give another folder, such as"
      f" {os.path.join(out, 'records')}"
    )
  for split in ("train", "val"):
    place = os.path.join(outer, split)
    if inner == place or inner.startswith(place + os.sep):
      raise InputError(
        f"--out={out}: the records would be written to {split}/, which holds"
        f" the source {source}; give another folder"
      )


def _prepare(source: str, out: str, options: Options) -> Report:
  start = time.monotonic()
  train, val = manifest.join(out, "train"), manifest.join(out, "val")
  parts = manifest.join(out, "parts")
  finished = manifest.is_finished(train)
  if finished and not options.overwrite:
    unfinished.tidy(out)
    raise InputError(
      f"{out} holds prepared records, and nothing is left to do; give"
      " --overwrite to replace them, or another --out"
    )
  survivors.excluded_paths(options.exclude_pictures)  # raises before the work
  stream = streams.find(
    source, options.kind, options.captions, (train, val, parts)
  )
  if stream.kind == "folder" and options.val_size >= stream.count:
    raise InputError(
      f"--val_size={options.val_size}: only {stream.count} of"
      f" {stream.count + len(stream.rejected)} pictures have a caption and a"
      " file, and one at least must be left to train on"
    )
  with lease.Lease(out, field="out"):
    plan = unfinished.plan(stream, options)
    if finished or not unfinished.is_planned(parts, plan):
      # From here on OUT is unfinished until train's manifest is back.
      for folder in (train, val):
        manifest.clear(folder)
      unfinished.clear_parts(parts)
    for folder in (train, val, parts) if options.val_size else (train, parts):
      epath.Path(folder).mkdir(parents=True, exist_ok=True)
    files.write_text(epath.Path(parts) / "plan.json", plan)
    with conversion.runner(options) as run:
      done = _convert(stream, parts, options, run)
      report = _assemble(source, out, stream, done, options, run)
    unfinished.clear_parts(parts)
  return dataclasses.replace(report, seconds=time.monotonic() - start)


def _convert(
  stream: streams.Stream, parts: str, options: Options, run: conversion.Run
) -> list[staging.Staged]:
  """Converts the parts that are not finished, and returns all."""
  # Once records are assembled, parts' data are deleted one after the other.
  assembling = (epath.Path(parts) / "chosen.json").exists()
  done: dict[int, staging.Staged] = {}
  for number in range(len(stream.parts)):
    try:
      found = staging.Staged(parts, number)
      if assembling or found.is_whole():
        done[number] = found
    except FileNotFoundError:
      continue
  todo = [n for n in range(len(stream.parts)) if n not in done]
  jobs = [(parts, n, stream.parts[n], options.rules) for n in todo]
  size = {n: part.count for n, part in enumerate(stream.parts)}
  if not stream.count:
    size = dict.fromkeys(size, 1)
  unit = "pictures" if stream.count else "parts"
  bar = progress_bar(sum(size.values()), unit, show=options.progress)
  with bar:
    bar.update(sum(size[n] for n in done))
    made = run(staging.write, jobs)
    for number, _ in zip(todo, made, strict=True):
      bar.update(size[number])
      done[number] = staging.Staged(parts, number)
  return [done[number] for number in range(len(stream.parts))]


def _assemble(
  source: str,
  out: str,
  stream: streams.Stream,
  parts: list[staging.Staged],
  options: Options,
  run: conversion.Run,
) -> Report:
  """Chooses the records, and writes shards, manifests and the report."""
  counts = staging.Counts(read=len(stream.rejected))
  for reason, key in stream.rejected:
    staging.count(counts.rejected, reason, key)
  for reason, key in stream.left_out:
    staging.count(counts.left_out, reason, key)
  for part in parts:
    counts.add(part.counts())
  rows = np.concatenate([part.rows for part in parts])
  state = epath.Path(manifest.join(out, "parts")) / "chosen.json"
  if state.exists():
    told = json.loads(state.read_text())
    excluded = told["excluded"]
    chosen = survivors.choose(rows, options, excluded)
  else:
    excluded = survivors.excluded_pictures(
      options.exclude_pictures, options.workers
    )
    chosen = survivors.choose(rows, options, excluded)
    survivors.count_dropped(counts, chosen, parts)
    told = {
      "excluded": excluded,
      "rejected": counts.rejected,
      "like": survivors.pairs(chosen, parts),
      "samples": survival.samples(chosen.train, rows, parts),
    }
  counts.rejected = told["rejected"]
  report = Report(
    read=counts.read,
    train=len(chosen.train),
    val=len(chosen.val),
    rejected=counts.rejected,
    seconds=0,
    captions=stream.captions,
    captions_left_out=counts.left_out,
    notes=tuple(stream.notes),
  )
  if not report.train:
    unfinished.clear_parts(manifest.join(out, "parts"))
    raise _nothing_left(report, source)
  if not state.exists():
    files.write_text(state, json.dumps(told))
  settings = _settings(source, report, options)
  train, val = manifest.join(out, "train"), manifest.join(out, "val")
  if options.val_size and not manifest.is_finished(val):
    shards = assembly.write_val(val, parts, chosen, options.shard_size, run)
    assembly.finish(val, "val", shards, {}, settings)
  shards = assembly.write_train(train, parts, chosen, options.shard_size, run)
  survival.write(out, report, counts, told)
  settings |= {"val": report.val}
  assembly.finish(train, "train", shards, report.rejected, settings)
  return report


def _settings(source: str, report: Report, options: Options) -> dict[str, Any]:
  """Returns what the manifests keep about the source and the options."""
  kept = dataclasses.asdict(options)
  for name in (*HOW, "captions", "val_size"):
    del kept[name]
  return kept | {
    "source": source,
    "read": report.read,
    "captions": report.captions,
    "captions_left_out": report.captions_left_out,
    "notes": list(report.notes),
  }


def _nothing_left(report: Report, source: str) -> InputError:
  told = str(report).replace("\n", ";")
  if report.val:
    return InputError(
      f"--val_size takes all {report.val} pictures that can be used, and none"
      f" is left to train on; give less than {report.val}: {told}"
    )
  return InputError(
    f"{source}: none of its pictures can be used: {told}; repair the source"
  )
