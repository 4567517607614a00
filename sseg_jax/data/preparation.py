"""Turns a folder of captioned pictures into records to train on.

    python -m sseg_jax.prepare --source=FOLDER --out=FOLDER --val_size=1000

Writes OUT/train and, with --val_size, OUT/val; prints what was kept and what
was not, and why, and keeps the same in OUT/train's manifest. Which captions are
read is told in `data/sources/`. OUT/train's manifest is the last file written:
a run that was interrupted is started again with the same command. With
--add_pseudo_masks it stores pseudo-masks in such records instead; see
`pseudo_masks/caching.py`.
"""

import collections
import dataclasses
import functools
import hashlib
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import tqdm

from sseg_jax import files
from sseg_jax.data import (
  import_tensorflow,
  manifest,
  records,
  reencode,
  sources,
)
from sseg_jax.data.sources.rows import few, shown
from sseg_jax.errors import InputError, Unavailable

_CHUNK = 32  # pictures a worker takes at a time
_LONG = 300  # characters of a name that the report keeps


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


def prepare(
  source: str,
  out: str,
  *,
  captions: str = "auto",
  val_size: int = 0,
  shard_size: int = 1000,
  image_size: int = 0,
  quality: int = 95,
  seed: int = 0,
  workers: int = 0,
  overwrite: bool = False,
  progress: bool = False,
) -> Report:
  """Writes OUT/train and OUT/val; the same bytes for any number of workers.

  The held-out pictures are those whose keys hash lowest with `seed`, so a
  source that grows keeps most of them. The others stay in the source's order.
  With `progress`, a bar on stderr tells the rate and the time that is left.

  Raises:
    InputError: bad source, a finished OUT without `overwrite`, an OUT that
      cannot be written, or too few usable pictures.
    Unavailable: a worker process was ended from outside.
  """
  source, out = files.expand(source), files.expand(out)
  _check_places(source, out)
  try:
    return _prepare(
      source,
      out,
      captions=captions,
      val_size=val_size,
      shard_size=shard_size,
      convert=functools.partial(
        _convert, short_side=image_size, quality=quality
      ),
      settings={"image_size": image_size, "quality": quality, "seed": seed},
      workers=workers,
      overwrite=overwrite,
      progress=progress,
    )
  except import_tensorflow().errors.OpError as error:
    raise InputError(
      f"--out={out} cannot be written ({shown(error.message, 300)}); make room,"
      " or choose another folder"
    ) from error
  except BrokenProcessPool as error:
    raise Unavailable(
      f"a worker process was ended, perhaps for want of memory; start again"
      f" with fewer than --workers={workers}"
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


def _prepare(
  source: str,
  out: str,
  *,
  captions: str,
  val_size: int,
  shard_size: int,
  convert,
  settings: dict,
  workers: int,
  overwrite: bool,
  progress: bool,
) -> Report:
  start = time.monotonic()
  train, val = manifest.join(out, "train"), manifest.join(out, "val")
  if manifest.is_finished(train) and not overwrite:
    raise InputError(
      f"{out} holds prepared records; give --overwrite to replace them, or"
      " another --out"
    )
  found = sources.read_items(source, captions, exclude=(train, val))
  if val_size >= len(found):
    raise InputError(
      f"--val_size={val_size}: only {len(found)} of {found.read} pictures have"
      " a caption and a file, and one at least must be left to train on"
    )
  left_out = _counted(found.left_out)
  settings = settings | {
    "source": source,
    "read": found.read,
    "captions": found.captions,
    "captions_left_out": left_out,
    "notes": found.notes,
  }
  # From here on OUT is unfinished until train's manifest is back.
  manifest.clear(train)
  manifest.clear(val)
  rejected = list(found.rejected)  # reason, key
  tried: set[str] = set()
  held_out = 0
  bar = tqdm.tqdm(total=len(found), unit="picture", disable=not progress)
  with bar:
    if val_size:
      seed = settings["seed"]
      candidates = sorted(found, key=lambda item: _hash(item.key, seed))
      with records.RecordWriter(
        val, shard_size=shard_size, split="val"
      ) as writer:
        for item, result in _convert_all(convert, candidates, workers):
          bar.update()
          tried.add(item.key)
          if isinstance(result, bytes):
            writer.write(_record(item, result))
            if writer.total == val_size:
              break
          else:
            rejected.append((result, item.key))
        writer.info |= settings
      held_out = writer.total
    rest = [item for item in found if item.key not in tried]
    try:
      with records.RecordWriter(train, shard_size=shard_size) as writer:
        for item, result in _convert_all(convert, rest, workers):
          bar.update()
          if isinstance(result, bytes):
            writer.write(_record(item, result))
          else:
            rejected.append((result, item.key))
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
          captions_left_out=left_out,
          notes=tuple(found.notes),
        )
        if not writer.total:
          raise _nothing_left(report, source)
    except InputError:
      manifest.clear(val)  # of no use without its training split
      raise
  return report


def _counted(pairs: Iterable[tuple[str, str]]) -> dict[str, dict]:
  """Returns reason -> {"count", "examples"}, as the manifest has it."""
  counted: dict[str, dict] = {}
  for reason, name in pairs:
    entry = counted.setdefault(reason, {"count": 0, "examples": []})
    entry["count"] += 1
    if len(entry["examples"]) < records.MAX_EXAMPLES:
      entry["examples"].append(shown(name, _LONG))
  return counted


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


def _convert(
  items: Sequence[sources.Item], short_side: int, quality: int
) -> list[bytes | str]:
  """Returns each picture's JPEG, or the reason why there is none."""
  results: list[bytes | str] = []
  for item in items:
    try:
      try:
        data = item.image.read_bytes()
      except OSError:
        raise reencode.Rejected("missing_image") from None
      results.append(
        reencode.to_jpeg(data, short_side=short_side, quality=quality)
      )
    except reencode.Rejected as error:
      results.append(str(error))
  return results


def _convert_all(
  convert, items: Sequence[sources.Item], workers: int
) -> Iterator[tuple[sources.Item, bytes | str]]:
  """Yields every item with its result, in order, for any number of workers."""
  chunks = (
    items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)
  )
  if workers < 1:
    for chunk in chunks:
      yield from zip(chunk, convert(chunk), strict=True)
    return
  # Not fork: TensorFlow's threads would not survive in the children.
  context = multiprocessing.get_context("spawn")
  with ProcessPoolExecutor(workers, mp_context=context) as pool:
    # Only some chunks are pending, because `map` would hold all pictures.
    pending: collections.deque = collections.deque()
    try:
      for chunk in chunks:
        pending.append((chunk, pool.submit(convert, chunk)))
        if len(pending) > 2 * workers:
          done, future = pending.popleft()
          yield from zip(done, future.result(), strict=True)
      while pending:
        done, future = pending.popleft()
        yield from zip(done, future.result(), strict=True)
    finally:  # the caller may stop early
      pool.shutdown(wait=True, cancel_futures=True)
