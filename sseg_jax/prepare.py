"""Turns a folder of captioned pictures into records to train on.

    python -m sseg_jax.prepare --source=FOLDER --out=FOLDER --val_size=1000

Writes OUT/train and, with --val_size, OUT/val; prints what was kept and what
was not, and why. OUT/train's manifest is the last file written: a run that was
interrupted is started again with the same command. With --add_pseudo_masks it
stores pseudo-masks in such records instead; see `caching.py`.
"""

import argparse
import collections
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from sseg_jax.data import manifest, records, reencode, sources
from sseg_jax.errors import InputError, reported

_CHUNK = 32  # pictures a worker takes at a time


@dataclasses.dataclass(frozen=True)
class Report:
  """What became of the pictures.

  Attributes:
    read: pictures named by the source.
    train: records written for training.
    val: records held out.
    rejected: reason -> {"count", "examples"}.
    seconds: wall clock.
  """

  read: int
  train: int
  val: int
  rejected: dict[str, dict]
  seconds: float

  def __str__(self) -> str:
    """Returns the report as lines to print."""
    kept = self.train + self.val
    lines = [
      f"kept {kept} of {self.read} pictures ({kept / max(1, self.read):.1%}):"
      f" {self.train} train, {self.val} val, in {self.seconds:.1f} s"
    ]
    for reason, entry in sorted(self.rejected.items()):
      names = ", ".join(entry["examples"][:3])
      more = ", …" if entry["count"] > 3 else ""
      lines.append(f"  {reason}: {entry['count']} ({names}{more})")
    return "\n".join(lines)


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
) -> Report:
  """Writes OUT/train and OUT/val; the same bytes for any number of workers.

  The held-out pictures are those whose keys hash lowest with `seed`, so a
  source that grows keeps most of them. The others stay in the source's order.

  Raises:
    InputError: bad source, a finished OUT without `overwrite`, or too few
      usable pictures.
  """
  start = time.monotonic()
  train, val = manifest.join(out, "train"), manifest.join(out, "val")
  if manifest.is_finished(train) and not overwrite:
    raise InputError(
      f"{out} holds prepared records; give --overwrite to replace them, or"
      " another --out"
    )
  items = sources.read_items(source, captions)
  settings = {
    "source": str(source),
    "image_size": image_size,
    "quality": quality,
    "seed": seed,
    "read": len(items),
  }
  # From here on OUT is unfinished until train's manifest is back.
  manifest.clear(train)
  manifest.clear(val)
  convert = functools.partial(_convert, short_side=image_size, quality=quality)
  rejected: list[tuple[str, str]] = []  # reason, key
  tried: set[str] = set()
  if val_size:
    candidates = sorted(items, key=lambda item: _hash(item.key, seed))
    with records.RecordWriter(
      val, shard_size=shard_size, split="val"
    ) as writer:
      for item, result in _convert_all(convert, candidates, workers):
        tried.add(item.key)
        if isinstance(result, bytes):
          writer.write(_record(item, result))
          if writer.total == val_size:
            break
        else:
          rejected.append((result, item.key))
      writer.info |= settings
    held_out = writer.total
  else:
    held_out = 0
  rest = [item for item in items if item.key not in tried]
  with records.RecordWriter(train, shard_size=shard_size) as writer:
    for item, result in _convert_all(convert, rest, workers):
      if isinstance(result, bytes):
        writer.write(_record(item, result))
      else:
        rejected.append((result, item.key))
    for reason, key in rejected:
      writer.reject(reason, key)
    writer.info |= settings | {"val": held_out}
    report = Report(
      read=len(items),
      train=writer.total,
      val=held_out,
      rejected=writer.rejected,
      seconds=time.monotonic() - start,
    )
    if not writer.total:
      raise InputError(
        f"{source}: nothing is left to train on; lower --val_size={val_size} or"
        f" repair the source: {report}".replace("\n", ";")
      )
  return report


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
      if not item.captions:
        raise reencode.Rejected("empty_caption")
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
  """Yields every item with its result, in order, whoever did the work."""
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
    # A window of chunks, as `map` would hold all pictures at once.
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


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m sseg_jax.prepare",
    description="Turns a folder of captioned pictures into records.",
    epilog="With --add_pseudo_masks it stores pseudo-masks in finished records,"
    " and has other flags: --add_pseudo_masks --help.",
  )
  add = parser.add_argument
  add("--source", required=True, help="folder of pictures and captions")
  add("--out", required=True, help="folder for the records: OUT/train, OUT/val")
  add(
    "--captions",
    default="auto",
    help="a .jsonl or .tsv; auto looks for captions.jsonl, captions.tsv, the"
    " only .tsv, then one .txt a picture",
  )
  add("--val_size", type=int, default=0, help="pictures held out")
  add("--shard_size", type=int, default=1000, help="records a file")
  add(
    "--image_size",
    type=int,
    default=0,
    help="shrink the short side to it; smaller pictures stay; 0 keeps all",
  )
  add("--quality", type=int, default=95, help="of the JPEGs, 1 to 95")
  add("--seed", type=int, default=0, help="chooses the held-out pictures")
  add(
    "--workers",
    type=int,
    default=os.cpu_count() or 1,
    help="processes; 0 works in this one",
  )
  add("--overwrite", action="store_true", help="replace finished records")
  add("--json", action="store_true", help="print the report as JSON")
  return parser


@reported
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command."""
  if "--add_pseudo_masks" in (sys.argv[1:] if argv is None else argv):
    from sseg_jax import caching

    return caching.main(argv)
  args = vars(_parser().parse_args(argv))
  as_json = args.pop("json")
  for name, low in (("val_size", 0), ("shard_size", 1), ("image_size", 0)):
    if args[name] < low:
      raise InputError(f"--{name}={args[name]}: must be at least {low}")
  if not 1 <= args["quality"] <= 95:
    raise InputError(f"--quality={args['quality']}: must be 1 to 95")
  report = prepare(**args)
  print(json.dumps(dataclasses.asdict(report)) if as_json else report)
  return 0


if __name__ == "__main__":
  sys.exit(main())
