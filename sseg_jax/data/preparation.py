"""Turns a folder of captioned pictures into records to train on.

`prepare` writes OUT/train and, with `val_size`, OUT/val. It counts what was
kept, what was left out, and why, and stores the counts in OUT/train's manifest.
That manifest is the last file written: after an interruption, call `prepare`
again. `sources/` says which captions are read.
"""

import dataclasses
import functools
import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import tqdm

from sseg_jax import files
from sseg_jax.data import (
  conversion,
  import_tensorflow,
  manifest,
  records,
  sources,
)
from sseg_jax.data.sources.folder import Found
from sseg_jax.data.sources.rows import few, shown
from sseg_jax.errors import InputError, Unavailable
from sseg_jax.runtime.progress_bar import progress_bar

_LONG = 300  # characters of a name that the report keeps


@dataclasses.dataclass(frozen=True)
class Options:
  """How `prepare` reads a source and writes records.

  Attributes:
    captions: file of the captions; "auto" searches the source for one.
    val_size: number of pictures held out for validation.
    shard_size: number of records in a file.
    image_size: larger pictures are shrunk until their short side has this many
      pixels; 0 keeps every size.
    quality: of the JPEGs, 1 to 95.
    seed: chooses the held-out pictures.
    workers: number of processes that convert pictures; 0 uses this process.
    overwrite: whether finished records in OUT are replaced.
    progress: whether a terminal shows a progress bar.
  """

  captions: str = "auto"
  val_size: int = 0
  shard_size: int = 1000
  image_size: int = 0
  quality: int = 95
  seed: int = 0
  workers: int = 0
  overwrite: bool = False
  progress: bool = False

  def __post_init__(self):
    """Raises InputError if a number is out of its range."""
    for name, low in (
      ("val_size", 0),
      ("shard_size", 1),
      ("image_size", 0),
      ("workers", 0),
    ):
      if (value := getattr(self, name)) < low:
        raise InputError(f"--{name}={value}: must be at least {low}")
    if not 1 <= self.quality <= 95:
      raise InputError(f"--quality={self.quality}: must be 1 to 95")


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

  The held-out pictures are those whose keys hash lowest with `seed`, so a
  source that grows keeps most of them. The others stay in the source's order.

  Args:
    source: folder of pictures and captions.
    out: folder for the records.
    **options: the fields of `Options`.

  Raises:
    InputError: an option out of its range, bad source, a finished OUT without
      `overwrite`, an OUT that cannot be written, or too few usable pictures.
    Unavailable: a worker process was ended from outside.
  """
  chosen = Options(**options)
  source, out = files.expand(source), files.expand(out)
  _check_places(source, out)
  try:
    return _prepare(source, out, chosen)
  except import_tensorflow().errors.OpError as error:
    raise InputError(
      f"--out={out} cannot be written ({shown(error.message, 300)}); make room,"
      " or choose another folder"
    ) from error
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
  if manifest.is_finished(train) and not options.overwrite:
    raise InputError(
      f"{out} holds prepared records; give --overwrite to replace them, or"
      " another --out"
    )
  found = sources.read_items(source, options.captions, exclude=(train, val))
  if options.val_size >= len(found):
    raise InputError(
      f"--val_size={options.val_size}: only {len(found)} of {found.read}"
      " pictures have a caption and a file, and one at least must be left to"
      " train on"
    )
  settings = _settings(source, found, options)
  # From here on OUT is unfinished until train's manifest is back.
  manifest.clear(train)
  manifest.clear(val)
  rest, rejected, held_out = list(found), list(found.rejected), 0
  with progress_bar(len(found), "pictures", show=options.progress) as bar:
    if options.val_size:
      candidates = sorted(found, key=lambda i: _hash(i.key, options.seed))
      with records.RecordWriter(
        val, shard_size=options.shard_size, split="val"
      ) as writer:
        tried, bad = _write(writer, candidates, options, bar, options.val_size)
        writer.info |= settings
      held_out = writer.total
      rejected += bad
      keys = {item.key for item in candidates[:tried]}
      rest = [item for item in rest if item.key not in keys]
    try:
      with records.RecordWriter(train, shard_size=options.shard_size) as writer:
        rejected += _write(writer, rest, options, bar)[1]
        for reason, key in rejected:
          writer.reject(reason, shown(key, _LONG))
        writer.info |= settings | {"val": held_out}
        report = Report(
          read=found.read,
          train=writer.total,
          val=held_out,
          rejected=writer.rejected,
          seconds=time.monotonic() - start,
          captions=found.captions,
          captions_left_out=settings["captions_left_out"],
          notes=tuple(found.notes),
        )
        if not writer.total:
          raise _nothing_left(report, source)
    except InputError:
      manifest.clear(val)  # of no use without its training split
      raise
  return report


def _settings(source: str, found: Found, options: Options) -> dict[str, Any]:
  """Returns what the manifests keep about the source and the options."""
  left_out: dict[str, dict] = {}
  for reason, name in found.left_out:
    records.count_rejection(left_out, reason, shown(name, _LONG))
  return {
    "image_size": options.image_size,
    "quality": options.quality,
    "seed": options.seed,
    "source": source,
    "read": found.read,
    "captions": found.captions,
    "captions_left_out": left_out,
    "notes": found.notes,
  }


def _write(
  writer: records.RecordWriter,
  items: Sequence[sources.Item],
  options: Options,
  bar: tqdm.tqdm,
  limit: int | None = None,
) -> tuple[int, list[tuple[str, str]]]:
  """Converts pictures and writes their records, at most `limit`.

  Returns:
    How many items were tried, and reason and key of those that are rejected.
  """
  convert = functools.partial(
    conversion.to_jpegs,
    short_side=options.image_size,
    quality=options.quality,
  )
  tried, rejected = 0, []
  for item, result in conversion.converted(convert, items, options.workers):
    bar.update()
    tried += 1
    if isinstance(result, str):
      rejected.append((result, item.key))
      continue
    writer.write(_record(item, result))
    if writer.total == limit:
      break
  return tried, rejected


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


def _hash(key: str, seed: int) -> bytes:
  return hashlib.sha256(f"{seed}/{key}".encode()).digest()


def _record(item: sources.Item, image: bytes) -> records.Record:
  return records.Record(
    key=item.key.encode(),
    image=image,
    captions=tuple(caption.encode() for caption in item.captions),
    source=item.source.encode() or None,
    license=item.license.encode() or None,
  )
