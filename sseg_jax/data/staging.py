"""Converted parts of a source, kept in files until all parts are there.

A part is two files: NUMBER.data, with the records one after the other, and
NUMBER.done, written last, with the part's counts and a row of numbers for each
record. So a part whose process was ended is made again, and all others are
kept. Needs no TensorFlow, which takes seconds to import in each process.
"""

import base64
import collections
import dataclasses
import hashlib
import itertools
import json
import os
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from sseg_jax.data import manifest, reencode
from sseg_jax.data.sources import streams
from sseg_jax.data.sources.rows import shown
from sseg_jax.data.sources.samples import Part, Sample

MAX_EXAMPLES = 20  # names kept for each reason; as in records.py
_LONG = 300  # characters of a name that are kept
_WORDS = 20_000  # words of a part whose number is kept
# Of each record: which are held out; the picture; its likeness; its place.
ROW = np.dtype(
  [("split", "<u8"), ("picture", "<u8"), ("likeness", "<u8"), ("end", "<u8")]
)


@dataclasses.dataclass(frozen=True)
class Rules:
  """How samples are converted, and which are left out.

  Attributes:
    image_size: larger pictures are shrunk until their short side has this many
      pixels; 0 keeps every size.
    quality: of the JPEGs.
    min_size: least short side of a picture; 0 takes all.
    max_aspect: largest ratio of the sides; 0 takes all.
    min_words: least words of a caption.
    max_words: most words of a caption; 0 takes all.
    seed: chooses the held-out pictures.
    likeness: whether the numbers of `images/likeness.py` are computed.
  """

  image_size: int = 0
  quality: int = 95
  min_size: int = 0
  max_aspect: float = 0
  min_words: int = 0
  max_words: int = 0
  seed: int = 0
  likeness: bool = False


@dataclasses.dataclass
class Counts:
  """What a part, or several, held.

  Attributes:
    read: samples.
    rejected: reason -> {"count", "examples"}.
    left_out: the same for captions of pictures that have others.
    short_sides: short side of the stored pictures, in steps of 32 -> number.
    caption_words: words of a caption -> number.
    words: word in small letters -> number.
    captions: number of captions.
    bytes: of the stored pictures.
  """

  read: int = 0
  rejected: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
  left_out: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
  short_sides: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  caption_words: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  words: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  captions: int = 0
  bytes: int = 0

  def add(self, other: "Counts") -> None:
    """Adds the counts of a later part."""
    self.read += other.read
    self.captions += other.captions
    self.bytes += other.bytes
    for mine, theirs in (
      (self.rejected, other.rejected),
      (self.left_out, other.left_out),
    ):
      for reason, entry in theirs.items():
        count(mine, reason, *entry["examples"], number=entry["count"])
    self.short_sides.update(other.short_sides)
    self.caption_words.update(other.caption_words)
    self.words.update(other.words)
    if len(self.words) > 10 * _WORDS:
      self.words = collections.Counter(dict(self.words.most_common(5 * _WORDS)))


def count(
  counted: dict[str, dict[str, Any]],
  reason: str,
  *names: str,
  number: int = 1,
) -> None:
  """Counts rejections in `counted`, and keeps the first names of a reason."""
  entry = counted.setdefault(reason, {"count": 0, "examples": []})
  entry["count"] += number
  room = MAX_EXAMPLES - len(entry["examples"])
  entry["examples"] += [shown(name, _LONG) for name in names[:room]]


def write(folder: str, number: int, part: Part, rules: Rules) -> None:
  """Reads a part, converts its samples and writes the part's two files."""
  place = epath.Path(folder)
  counts, rows, end = Counts(), [], 0
  with (place / f"{number:06d}.data").open("wb") as file:
    for key, sample, captions, image in usable(part, rules, counts):
      head = json.dumps(
        [key, captions, sample.source, sample.license, len(image.jpeg)]
      ).encode()
      file.write(len(head).to_bytes(4, "little") + head + image.jpeg)
      end += 4 + len(head) + len(image.jpeg)
      rows.append(
        (
          _number(f"{rules.seed}/{key}".encode()),
          _number(image.jpeg),
          image.likeness,
          end,
        )
      )
  if len(counts.words) > _WORDS:
    counts.words = collections.Counter(dict(counts.words.most_common(_WORDS)))
  table = np.array(rows, ROW).tobytes()
  text = json.dumps(
    {
      "counts": vars(counts),
      "bytes": end,
      "rows": base64.b64encode(zlib.compress(table)).decode(),
    }
  )
  done = place / f"{number:06d}.done"
  new = place / f"{number:06d}.done.new"
  new.write_text(text)
  new.replace(done)


def usable(
  part: Part, rules: Rules, counts: Counts
) -> Iterator[tuple[str, Sample, list[str], reencode.Converted]]:
  """Yields what a part holds for records; counts it, and what is left out.

  Args:
    part: of a source.
    rules: how pictures are converted, and which are left out.
    counts: is added to.

  Yields:
    Key, unique within the source; sample; captions that are taken; picture.
  """
  for sample in unique(streams.READERS[part.kind](part)):
    counts.read += 1
    key = sample.key
    if part.kind != "folder":
      key = f"{part.name}/{key}" if key else part.name
    try:
      captions, image = _usable(sample, rules, counts, key)
    except reencode.Rejected as error:
      count(counts.rejected, str(error), key)
      continue
    _measure(counts, captions, image)
    yield key, sample, captions, image


def unique(samples: Iterator[Sample]) -> Iterator[Sample]:
  """Gives a key that comes again a "+", so that keys are unique in a part."""
  seen: set[str] = set()
  for sample in samples:
    key = sample.key
    while key and key in seen:
      key += "+"
    seen.add(key)
    yield dataclasses.replace(sample, key=key)


def _usable(
  sample: Sample, rules: Rules, counts: Counts, key: str
) -> tuple[list[str], reencode.Converted]:
  """Returns the captions and the picture to store; raises Rejected."""
  if sample.reason:
    raise reencode.Rejected(sample.reason)
  captions, left_out = [], list(sample.left_out)
  for caption in sample.captions:
    words = len(caption.split())
    if words < rules.min_words:
      left_out.append("caption_too_short")
    elif rules.max_words and words > rules.max_words:
      left_out.append("caption_too_long")
    else:
      captions.append(caption)
  if not captions:
    raise reencode.Rejected(left_out[-1] if sample.captions else left_out[0])
  image = reencode.convert(
    sample.image,
    short_side=rules.image_size,
    quality=rules.quality,
    min_size=rules.min_size,
    max_aspect=rules.max_aspect,
    with_likeness=rules.likeness,
  )
  for reason in left_out:
    count(counts.left_out, reason, key)
  return captions, image


def _measure(
  counts: Counts, captions: list[str], image: reencode.Converted
) -> None:
  counts.bytes += len(image.jpeg)
  counts.short_sides[str(min(image.size) // 32 * 32)] += 1
  counts.captions += len(captions)
  for caption in captions:
    words = caption.lower().split()
    counts.caption_words[str(len(words))] += 1
    counts.words.update(w for w in (w.strip('.,;:!?"()') for w in words) if w)


def _number(data: bytes) -> int:
  return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


class Staged:
  """A finished part.

  Args:
    folder: of the parts.
    number: of the part.

  Attributes:
    folder: the argument.
    number: the argument.
    path: of the records.
    rows: array of `ROW`, one for each record.

  Raises:
    FileNotFoundError: the part is not finished.
  """

  def __init__(self, folder: str, number: int):
    place = epath.Path(folder)
    self.folder, self.number = folder, number
    self.path = place / f"{number:06d}.data"
    self._done = place / f"{number:06d}.done"
    try:
      raw = json.loads(self._done.read_text())
      self._bytes = raw["bytes"]
      data = zlib.decompress(base64.b64decode(raw["rows"]))
      self.rows = np.frombuffer(data, ROW)
    except (OSError, ValueError, KeyError, TypeError, zlib.error) as error:
      raise FileNotFoundError(f"{self._done}: {error}") from error

  def counts(self) -> Counts:
    """Returns what the part held; not kept, as its words are many."""
    found = json.loads(self._done.read_text())["counts"]
    for name in ("short_sides", "caption_words", "words"):
      found[name] = collections.Counter(found[name])
    return Counts(**found)

  def is_whole(self) -> bool:
    """Whether the data's size is that of the finished part."""
    return (
      self.path.exists() and manifest.size(os.fspath(self.path)) == self._bytes
    )

  def read(self, rows: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yields the fields of records, by their increasing numbers."""
    with self.path.open("rb") as file:
      for row in rows.tolist():
        start = int(self.rows["end"][row - 1]) if row else 0
        file.seek(start)
        data = file.read(int(self.rows["end"][row]) - start)
        size = int.from_bytes(data[:4], "little")
        key, captions, source, license_, length = json.loads(data[4 : 4 + size])
        yield {
          "key": key.encode(),
          "image": data[4 + size : 4 + size + length],
          "captions": tuple(caption.encode() for caption in captions),
          "source": source.encode() or None,
          "license": license_.encode() or None,
        }


def positions(parts: list[Staged]) -> np.ndarray:
  """Returns the number of the first record of each part, and their sum."""
  return np.array(
    [*itertools.accumulate((len(p.rows) for p in parts), initial=0)]
  )
