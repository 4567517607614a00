"""Writes a benchmark's pictures and label maps as records to train on."""

import dataclasses
import io
import time

import numpy as np
from PIL import Image

from sseg_jax import benchmarks, prompts
from sseg_jax.data import label_classes, records
from sseg_jax.errors import InputError
from sseg_jax.runtime import progress_bar


@dataclasses.dataclass(frozen=True)
class Report:
  """What `write` did.

  Attributes:
    records: number of pictures.
    classes: names of the labels 0, 1, ….
    seconds: wall clock.
  """

  records: int
  classes: tuple[str, ...]
  seconds: float

  def __str__(self) -> str:
    """Returns the report as a line to print."""
    return (
      f"{self.records} labelled pictures of {len(self.classes)} classes in"
      f" {self.seconds:.1f} s"
    )


def write(
  spec: str,
  out: str,
  *,
  data_root: str = ".",
  split: str = "train",
  shard_size: int = 1000,
  quality: int = 95,
  overwrite: bool = False,
  progress: bool = False,
) -> Report:
  """Writes records with labels, and their class list, for task="supervised".

  Args:
    spec: a benchmark, see `benchmarks.open_benchmark`.
    out: folder for the records.
    data_root: holds `VOCdevkit/` and `coco/`.
    split: part of the benchmark.
    shard_size: records in a file.
    quality: of the JPEGs, 1 to 95.
    overwrite: whether finished records in `out` are replaced.
    progress: whether a terminal shows a progress bar.

  Raises:
    InputError: for a bad benchmark, too many classes, and an `out` that is
      finished or cannot be written.
  """
  start = time.monotonic()
  if not 1 <= quality <= 95:
    raise InputError(f"--quality={quality}: must be 1 to 95")
  opened = benchmarks.open_benchmark(spec, data_root, split=split)
  first = prompts.BACKGROUND[:1] if opened.has_background else ()
  names = first + tuple(opened.class_names)
  if len(names) > label_classes.MOST:
    raise InputError(
      f"benchmark={spec}: has {len(names)} labels, and label maps of records"
      f" hold {label_classes.MOST}; take fewer classes"
    )
  with (
    records.RecordWriter(
      out, shard_size=shard_size, split="train", overwrite=overwrite
    ) as writer,
    progress_bar.progress_bar(len(opened), "pictures", show=progress) as bar,
  ):
    for i in range(len(opened)):
      sample = opened[i]
      writer.write(
        records.Record(
          key=sample.id.encode(errors="surrogateescape"),
          image=_jpeg(sample.image, quality),
          labels=records.encode_png(sample.labels.astype(np.uint8)),
        )
      )
      bar.update()
    writer.info[label_classes.KEY] = list(names)
    writer.info["benchmark"] = {"name": opened.name, "split": opened.split}
  return Report(len(opened), names, time.monotonic() - start)


def _jpeg(image: np.ndarray, quality: int) -> bytes:
  # The picture as benchmarks score it: upright, with its colours converted.
  out = io.BytesIO()
  Image.fromarray(image).save(out, "JPEG", quality=quality, subsampling=0)
  return out.getvalue()
