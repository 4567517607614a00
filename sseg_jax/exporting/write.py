"""Writes a checkpoint in one format, and verifies it before it says done."""

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sseg_jax import files
from sseg_jax.checkpoints import exported
from sseg_jax.errors import InputError
from sseg_jax.exporting import (
  card,
  folder,
  formats,
  to_transformers,
  verify,
)
from sseg_jax.exporting.source import Source
from sseg_jax.images import reader


@dataclasses.dataclass(frozen=True)
class Written:
  """A format that was written and verified.

  Attributes:
    name: of the format.
    path: its folder.
    refine: whether its masks are refined, as `evaluate.refine`.
    report: of the verification; None for transformers.
    notes: what a user should know, lines.
  """

  name: str
  path: Path
  refine: str
  report: verify.Report | None
  notes: tuple[str, ...] = ()


class NotWritten(Exception):
  """A format could not be written or verified; the message is one line."""


def prepare(out: Path, names: Sequence[str]) -> None:
  """Makes the folder of the formats' folders.

  Raises:
    InputError: if a format's folder exists already, or none can be made.
  """
  for name in names:
    if os.path.lexists(out / name):
      raise InputError(
        f"out={out}: {name} exists there already; give another folder, or"
        " remove it"
      )
  try:
    out.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise files.unwritable("out", out, error) from error
  if not os.access(out, os.W_OK | os.X_OK):
    raise InputError(f"out={out}: nothing may be written there; give another")


def write_all(
  source: Source,
  names: Sequence[str],
  out: Path,
  images: Sequence[Path] | None,
  tell: Callable[[str], None],
) -> tuple[list[Written], list[str]]:
  """Writes several formats; one that fails leaves the others.

  Args:
    source: the checkpoint.
    names: of the formats.
    out: from `prepare`.
    images: files of pictures to verify with; None for three that are drawn.
    tell: gets a line as soon as a format is done.

  Returns:
    What was written, and a line about each format that was not.

  Raises:
    InputError: if a picture cannot be read.
  """
  if images:
    pixels = [reader.read_image(image) for image in images]
  else:
    pixels = verify.pictures(source.segmenter.image_size)
  written, failed = [], []
  for name in names:
    try:
      done = write(source, name, out, pixels)
    except NotWritten as error:
      failed.append(str(error))
      continue
    written.append(done)
    assert done.report is not None
    tell(f"{done.path}: {done.report.line()}")
    for note in done.notes:
      tell(f"  {note}")
  return written, failed


def write(
  source: Source, name: str, out: Path, images: Sequence[np.ndarray]
) -> Written:
  """Writes OUT/NAME: to a folder of another name first, verified, then renamed.

  If the format cannot hold the refinement of masks, it is written without, and
  the difference is measured.

  Args:
    source: the checkpoint.
    name: of the format.
    out: folder of the formats' folders; exists.
    images: pictures to verify with, uint8 [h, w, 3] each.

  Raises:
    NotWritten: if the format's writer fails or the file gives something else.
      Nothing of it is left in `out`.
  """
  refine, reason = source.config.evaluate.refine, ""
  notes: list[str] = []
  for wanted in dict.fromkeys([refine, "none"]):
    part = out / f".{name}.{os.getpid()}.part"
    try:
      part.mkdir()
      fields, report = _fill(part, source, name, wanted, images)
      if wanted != refine:
        share = 100 * fields["equal_to_refined"]
        notes.append(
          f"written without refinement of masks ({reason}); {share:.1f} % of"
          " the labels equal those with it"
        )
      os.replace(part, out / name)
      return Written(name, out / name, wanted, report, tuple(notes))
    except (InputError, KeyboardInterrupt):
      raise
    # Converters raise exceptions of all kinds.
    except Exception as error:
      reason = _reason(error)
    finally:
      folder.remove(part)
  raise NotWritten(f"{name}: not written: {reason}")


def _fill(
  part: Path,
  source: Source,
  name: str,
  refine: str,
  images: Sequence[np.ndarray],
) -> tuple[dict[str, Any], verify.Report]:
  made = formats.FORMATS[name]
  towers = source.towers(refine)
  fields = folder.fields(source, refine)
  fields |= {"format": name, "dynamic": list(made.dynamic)}
  made.write(towers, part, fields)
  fixed = "fixed_list" in fields
  folder.add_runner(part, name, fields["context_length"], fixed)
  save_fields(part, fields)
  report = verify.check(part, fields, source, towers, images)
  if refine != source.config.evaluate.refine:
    fields["equal_to_refined"] = _equal_to_refined(source, images)
  fields["verified"] = dataclasses.asdict(report)
  save_fields(part, fields)
  found = f"Against this package, when it was written: {report.line()}."
  text = card.text(source, name, made, fields, found)
  (part / "README.md").write_text(text, encoding="utf-8")
  return fields, report


def transformers_alone(
  source: Source,
  names: Sequence[str],
  out: Path,
  images: Sequence[Path] | None,
  tell: Callable[[str], None],
) -> tuple[list[Written], list[str]]:
  """Writes OUT/transformers for that package; arguments as `write_all`'s.

  Raises:
    InputError: if its MaskFormer cannot be this network.
  """
  del images
  (name,) = names
  part = out / f".{name}.{os.getpid()}.part"
  try:
    part.mkdir()
    difference, found, known = to_transformers.write(source, part)
    text = card.of_masks(source, difference)
    (part / "README.md").write_text(text, encoding="utf-8")
    note = (
      f"{found} of {known} tensors, the others are computed or of the class"
      f" head; loaded there, masks differ by {difference:.1e} of the largest"
    )
    tell(f"{out / name}: {folder.size(part) / 1e6:.1f} MB, {note}")
    os.replace(part, out / name)
  except InputError:
    raise
  # That package and PyTorch raise exceptions of all kinds.
  except Exception as error:
    return [], [f"{name}: not written: {_reason(error)}"]
  finally:
    folder.remove(part)
  return [Written(name, out / name, "none", None, (note,))], []


def save_fields(part: Path, fields: dict[str, Any]) -> None:
  """Writes `config.json`."""
  text = json.dumps(fields, indent=1, ensure_ascii=False)
  (part / exported.CONFIG).write_text(text + "\n", encoding="utf-8")


def _equal_to_refined(source: Source, images: Sequence[np.ndarray]) -> float:
  with_it, without = (
    [source.wanted(refine, image)[1] for image in images]
    for refine in (source.config.evaluate.refine, "none")
  )
  equal = [(a == b).mean() for a, b in zip(with_it, without, strict=True)]
  return float(np.mean(equal))


def _reason(error: Exception) -> str:
  """Returns the first line of an error, short."""
  lines = str(error).strip().splitlines()
  if isinstance(error, verify.Failed):
    return f"the check failed: {lines[0]}"
  return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]
