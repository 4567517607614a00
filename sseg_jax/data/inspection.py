"""A page that shows what a folder of records holds."""

import collections
import dataclasses
import io

import numpy as np
from PIL import Image

from sseg_jax import html_page
from sseg_jax.data import manifest, records
from sseg_jax.data.shards import RecordTable
from sseg_jax.errors import InputError
from sseg_jax.images import drawing, palette, reader

_WORDS = 40
_LONGEST = 60  # captions of this many words or more are counted together


@dataclasses.dataclass
class Statistics:
  """Of the records that were looked at.

  Attributes:
    records: in the folder.
    looked_at: of these.
    unreadable: key or place, and reason, of those that do not decode.
    captions: number of captions.
    pictures_bytes: size of the encoded pictures.
    short_sides: in steps of 32 pixels -> pictures.
    caption_words: words of a caption -> captions.
    words: in small letters -> number.
    masks: number of masks in a record's stored pseudo-masks -> records.
  """

  records: int = 0
  looked_at: int = 0
  unreadable: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  captions: int = 0
  pictures_bytes: int = 0
  short_sides: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  caption_words: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  words: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  masks: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )

  def __str__(self) -> str:
    """Returns the numbers as lines to print."""
    seen = max(1, self.looked_at)
    lines = [
      f"{self.records} records, {self.looked_at} looked at:"
      f" {self.captions / seen:.1f} captions and"
      f" {self.pictures_bytes / seen / 1000:.0f} kB each",
    ]
    if self.masks:
      lines.append(f"  with stored masks: {self.masks.total()}")
    if self.unreadable:
      names = ", ".join(name for name, _ in self.unreadable[:3])
      lines.append(f"  unreadable: {len(self.unreadable)} ({names})")
    return "\n".join(lines)


def inspect(folder: str, *, pictures: int, scan: int) -> tuple[str, Statistics]:
  """Returns an HTML page about a folder of records, and its numbers.

  Args:
    folder: of records, local or remote.
    pictures: number of records that are shown, at equal distances.
    scan: most records that are read for the statistics, likewise.

  Raises:
    InputError: the folder holds no records, or cannot be read.
  """
  table = RecordTable([folder])
  if not len(table):
    raise InputError(f"{folder} holds no records; write it again")
  found = Statistics(records=len(table))
  shown = set(_spread(len(table), pictures).tolist())
  figures = []
  for index in sorted({*_spread(len(table), scan).tolist(), *shown}):
    found.looked_at += 1
    try:
      record = table[index]
      image = reader.decode(record.image, record.key.decode("utf-8", "replace"))
      masks = _masks(record)
    except (ValueError, OSError) as error:
      found.unreadable.append((table.where(index), str(error)))
      continue
    _measure(found, record, image.image, masks)
    if index in shown:
      figures.append(_figure(record, image.image, masks))
  return _page(table.manifests[0], found, figures), found


def _spread(total: int, count: int) -> np.ndarray:
  """Returns `count` numbers below `total` at equal distances, or all."""
  count = min(count, total)
  return np.arange(count) * total // max(1, count)


def _masks(record: records.Record) -> np.ndarray | None:
  """Returns the stored pseudo-masks, else the labels, at their own size."""
  data = record.pseudo_labels or record.labels
  if data is None:
    return None
  with Image.open(io.BytesIO(data)) as image:
    return np.asarray(image)


def _measure(
  found: Statistics,
  record: records.Record,
  image: Image.Image,
  masks: np.ndarray | None,
) -> None:
  found.pictures_bytes += len(record.image)
  found.short_sides[str(min(image.size) // 32 * 32)] += 1
  found.captions += len(record.captions)
  for caption in record.captions:
    words = caption.decode("utf-8", "replace").lower().split()
    length = min(len(words), _LONGEST)
    found.caption_words[str(length)] += 1
    found.words.update(word.strip('.,;:!?"()') for word in words)
  if masks is not None:
    found.masks[str(len(np.unique(masks)))] += 1


def _figure(
  record: records.Record, image: Image.Image, masks: np.ndarray | None
) -> tuple[str, list[str], list[str]]:
  small = image.copy()
  small.thumbnail((200, 200))
  shown = [html_page.thumbnail(small)]
  if masks is not None:
    labels = Image.fromarray(masks).resize(small.size, Image.Resampling.NEAREST)
    colours = palette.palette(256, has_background=False)
    drawn = drawing.overlay(
      np.asarray(small),
      np.asarray(labels).astype(np.int32),
      colours,
      has_background=False,
    )
    shown.append(html_page.thumbnail(Image.fromarray(drawn)))
  texts = [caption.decode("utf-8", "replace") for caption in record.captions]
  return record.key.decode("utf-8", "replace"), texts, shown


def _page(made: manifest.Manifest, found: Statistics, figures: list) -> str:
  size = sum(shard.bytes for shard in made.shards)
  summary = [
    ("records", made.total),
    ("shards", len(made.shards)),
    ("bytes", size),
    ("looked at", found.looked_at),
    ("unreadable", len(found.unreadable)),
    ("with stored masks", found.masks.total()),
  ]
  sections = [
    (made.folder, html_page.table(("", "number"), summary)),
    ("Pictures, captions and stored masks", html_page.sheet(figures)),
  ]
  if found.unreadable:
    sections.append(
      (
        "Unreadable",
        html_page.table(("record", "reason"), found.unreadable[:200]),
      )
    )
  if made.rejected:
    rows = [
      (reason, entry["count"], ", ".join(entry["examples"][:3]))
      for reason, entry in sorted(made.rejected.items())
    ]
    told = html_page.table(("reason", "number", "examples"), rows)
    sections.append(("Left out when the records were written", told))
  words = dict(
    sorted(found.words.items(), key=lambda item: (-item[1], item[0]))[:_WORDS]
  )
  for title, counts, head in (
    ("Short side", found.short_sides, ("pixels from", "pictures")),
    ("Length of the captions", found.caption_words, ("words", "captions")),
    ("Masks in a picture", found.masks, ("masks", "pictures")),
  ):
    if counts:
      ordered = {key: counts[key] for key in sorted(counts, key=int)}
      sections.append((title, html_page.bars(ordered, head)))
  sections.append(
    ("Most frequent words", html_page.bars(words, ("word", "number")))
  )
  return html_page.page("Records", sections)
