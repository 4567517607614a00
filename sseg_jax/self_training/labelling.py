"""The labelling job: a teacher's labels of pictures, as records.

Started again, it continues after its last complete shard. `labels.json` in its
folder says what the labels were made with; a folder of other labels is refused.
"""

import collections
import dataclasses
import hashlib
import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from sseg_jax import files
from sseg_jax.data import (
  import_tensorflow,
  label_classes,
  manifest,
  pseudo_labels,
  records,
  soft_labels,
)
from sseg_jax.errors import InputError
from sseg_jax.images import drawing, reader, sheet
from sseg_jax.images.label_maps import IGNORED
from sseg_jax.inference import batches
from sseg_jax.runtime import lease, progress_bar
from sseg_jax.self_training.pictures import Part, pixels_of
from sseg_jax.self_training.teacher import Answer, Teacher

MADE_WITH = "labels.json"
SHEET = "labels.png"
_SPLIT = "train"
_SHOWN = 16  # pictures of the contact sheet
# What a difference of `MADE_WITH` is called in a message.
_CALLED = {
  "teacher_sha256": "another teacher",
  "classes": "another class list",
  "threshold": "another background threshold",
  "labels": "another self_training.labels",
  "soft_classes": "another number of classes a pixel",
  "flip": "another self_training.flip",
  "scales": "other self_training.scales",
  "min_score": "another min_score",
  "keep_share": "another keep_share",
  "class_share": "another class_share",
  "class_share_images": "another class_share_images",
  "class_scores": "other least scores of class_share",
  "evaluate": "another setting of the teacher's evaluate fields",
  "pictures_sha256": "other pictures",
}


@dataclasses.dataclass(frozen=True)
class Report:
  """What the folder of labels holds.

  Attributes:
    records: labelled pictures.
    rejected: reason -> {"count": int, "examples": names}.
    shares: of all pixels, in percent, the share of each label.
    ignored: the share of ignored pixels.
  """

  records: int
  rejected: dict[str, dict[str, Any]]
  shares: dict[str, float]
  ignored: float

  def __str__(self) -> str:
    """Returns the report as a line to print."""
    text = (
      f"{self.records} labelled pictures; {self.ignored:.1f} % of the pixels"
      " ignored"
    )
    for reason, entry in sorted(self.rejected.items()):
      text += f"; {reason}: {entry['count']} ({', '.join(entry['examples'])})"
    return text


def label(
  teacher: Teacher,
  parts: Sequence[Part],
  out: str,
  *,
  batch_size: int = 32,
  process_index: int = 0,
  process_count: int = 1,
  progress: bool = False,
  check: Callable[[], None] = lambda: None,
) -> None:
  """Writes the shards of this process that are missing; see `finish`.

  Args:
    teacher: labels the pictures.
    parts: the pictures; each part becomes a shard.
    out: folder for the records.
    batch_size: pictures of one size labelled at once.
    process_index: takes every `process_count`-th part, from this one on.
    process_count: processes that share the work.
    progress: whether a terminal shows a progress bar.
    check: is called before each picture; it may raise to end the job.

  Raises:
    InputError: if `out` holds other records, or cannot be written.
  """
  made_with = described(teacher, parts)
  # Each process has its own lease, because others may write other shards.
  with lease.Lease(out, f"lease-{process_index}.json", field="labels"):
    _check_folder(out, made_with)
    todo = [
      i
      for i in range(process_index, len(parts), process_count)
      if not _finished(out, i, parts, made_with)
    ]
    total = sum(parts[i].size for i in todo)
    with progress_bar.progress_bar(
      total, "pictures", title="labels", show=progress
    ) as bar:

      def moved() -> None:
        check()
        bar.update()

      for i in todo:
        _write(teacher, parts, i, out, made_with, batch_size, moved)


def described(teacher: Teacher, parts: Sequence[Part]) -> dict[str, Any]:
  """Returns all that the labels depend on, as `labels.json` keeps it."""
  digests = json.dumps([[part.size, part.digest] for part in parts])
  found = hashlib.sha256(digests.encode()).hexdigest()
  return teacher.made_with | {"pictures_sha256": found}


def _check_folder(out: str, made_with: dict[str, Any]) -> None:
  """Refuses a folder of other labels, and of records that are no labels."""
  place = epath.Path(out) / MADE_WITH
  remedy = "delete the folder, or choose another --workdir"
  if not place.exists():
    if manifest.is_finished(out):
      raise InputError(
        f"{out} holds records that are not labels of a teacher; {remedy}"
      )
    text = json.dumps(made_with, indent=2) + "\n"
    files.write_text(place, text)
    return
  stored = files.read_json(place)
  if not isinstance(stored, dict):
    raise InputError(f"{place} is damaged; {remedy}")
  stored.setdefault("keep_share", 1.0)  # labels of earlier versions
  defaults = {"class_share": 1.0, "labels": "hard"}
  defaults |= {"flip": False, "scales": [1.0]}
  made_with, stored = defaults | made_with, defaults | stored
  for name, value in json.loads(json.dumps(made_with)).items():
    if stored.get(name) != value:
      raise InputError(
        f"{out} holds labels made with {_CALLED[name]}"
        f" ({_short(stored.get(name))}, not {_short(value)}); {remedy}"
      )


def _short(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) < 60 else f"{text[:24]}…{text[-24:]}"


def _name(number: int, count: int) -> str:
  return f"{_SPLIT}-{number:05d}-of-{count:05d}.tfrecord"


def _finished(
  out: str, number: int, parts: Sequence[Part], made_with: dict[str, Any]
) -> manifest.Shard | None:
  shard = pseudo_labels.finished_shard(
    out, _name(number, len(parts)), _fingerprint(made_with, parts[number])
  )
  return shard if shard and _counts(out, number).exists() else None


def _fingerprint(made_with: dict[str, Any], part: Part) -> str:
  text = json.dumps([made_with, part.digest], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _counts(out: str, number: int) -> epath.Path:
  """What was counted in a shard: pixels of each label, and rejections."""
  return epath.Path(out) / f"counts-{number:05d}.json"


def _write(
  teacher: Teacher,
  parts: Sequence[Part],
  number: int,
  out: str,
  made_with: dict[str, Any],
  batch_size: int,
  moved: Callable[[], None],
) -> None:
  """Labels one part and writes it as a shard."""
  tf = import_tensorflow()
  part, pixels = parts[number], np.zeros(IGNORED + 1, np.int64)
  rejected: list[tuple[str, str]] = []

  def found() -> Iterator[records.Record]:
    for record, answer in labelled(teacher, part, batch_size, rejected, moved):
      nonlocal pixels
      pixels += np.bincount(answer.labels.ravel(), minlength=len(pixels))
      yield dataclasses.replace(record, **answer.encoded())
    # Written before the shard counts as finished.
    text = json.dumps({"pixels": pixels.tolist(), "rejected": rejected})
    files.write_text(_counts(out, number), text + "\n")

  try:
    pseudo_labels.write_records(
      out,
      number,
      _SPLIT,
      _name(number, len(parts)),
      found(),
      _fingerprint(made_with, part),
    )
  except (tf.errors.OpError, OSError) as error:
    reason = getattr(error, "message", None) or error
    raise InputError(
      f"{out}: shard {number} cannot be written ({reason}); make room and start"
      " again: it goes on after the last whole shard"
    ) from error


def labelled(
  teacher: Teacher,
  part: Part,
  batch_size: int,
  rejected: list[tuple[str, str]],
  moved: Callable[[], None],
) -> Iterator[tuple[records.Record, Answer]]:
  """Yields the records of a part in order, each with its labels.

  Args:
    teacher: labels the pictures.
    part: the pictures.
    batch_size: pictures of one size labelled at once.
    rejected: gets name and reason of each picture that cannot be used.
    moved: is called for each picture.
  """
  # Pictures of one size are looked for among so many.
  for whole, images in pixels_of(part, 4 * batch_size, rejected, moved):
    answers: dict[int, Answer] = {}
    for indices in batches.of_one_shape(images, batch_size):
      found = teacher.answer(np.stack([images[i] for i in indices]))
      answers.update(zip(indices, found, strict=True))
    for i, record in enumerate(whole):
      yield record, answers[i]


def finish(teacher: Teacher, parts: Sequence[Part], out: str) -> Report:
  """Writes manifest and contact sheet, when all shards are there.

  Call it in one process, after `label` in all of them.

  Args:
    teacher: as for `label`.
    parts: as for `label`.
    out: as for `label`.

  Raises:
    InputError: if no picture could be labelled.
  """
  made_with = described(teacher, parts)
  shards, pixels = [], np.zeros(IGNORED + 1, np.int64)
  rejected: dict[str, dict[str, Any]] = {}
  for i in range(len(parts)):
    shard = _finished(out, i, parts, made_with)
    if shard is None:
      raise InputError(f"{out}: shard {i} is missing; start again to write it")
    shards.append(shard)
    counted = json.loads(_counts(out, i).read_text())
    pixels += np.asarray(counted["pixels"], np.int64)
    for name, reason in counted["rejected"]:
      records.count_rejection(rejected, reason, name)
  total = sum(shard.count for shard in shards)
  if not total:
    raise InputError(
      f"self_training.pictures: none of {sum(p.size for p in parts)} pictures"
      f" can be used ({', '.join(sorted(rejected))}); name another folder"
    )
  if not manifest.is_finished(out):
    manifest.write_manifest(
      out,
      {
        "split": _SPLIT,
        "total": total,
        "labels": True,
        "pseudo_labels": False,
        # An empty shard would only be skipped.
        "shards": [dataclasses.asdict(s) for s in shards if s.count],
        "rejected": rejected,
        "info": {
          label_classes.KEY: list(teacher.names),
          "self_training": made_with,
          **({soft_labels.KEY: soft_labels.KEPT} if teacher.soft else {}),
        },
      },
    )
    _draw(teacher, out)
  shares = 100 * pixels / max(1, pixels.sum())
  names = teacher.names
  return Report(
    total,
    rejected,
    {name: round(float(shares[i]), 3) for i, name in enumerate(names)},
    round(float(shares[IGNORED]), 3),
  )


def _draw(teacher: Teacher, out: str) -> None:
  """Draws the first pictures with their labels to `SHEET`."""
  if "://" in out:
    return  # Pillow writes local files alone
  names = teacher.names
  has_background = teacher.threshold is not None
  colours = drawing.palette(len(names), has_background=has_background)
  rows = []
  for record in itertools.islice(records.read(out), _SHOWN):
    image = np.asarray(reader.decode(record.image, "picture").image)
    labels = decoded(record)
    picture = drawing.overlay(
      image, labels, colours, has_background=has_background
    )
    common = collections.Counter(labels[labels != IGNORED].tolist())
    title = ", ".join(names[i] for i, _ in common.most_common(4))
    rows.append((title or "ignored", picture))
  sheet.sheet(rows).save(f"{out}/{SHEET}")


def decoded(record: records.Record) -> np.ndarray:
  """Returns the label map of a record, int32 [h,w]."""
  assert record.labels is not None
  return np.asarray(Image.open(io.BytesIO(record.labels))).astype(np.int32)
