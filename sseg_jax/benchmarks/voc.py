"""Pascal VOC 2012 and Pascal Context, with and without background."""

import dataclasses
import os
from pathlib import Path

from sseg_jax import pictures
from sseg_jax.benchmarks.sample import Sample, without_background
from sseg_jax.errors import InputError
from sseg_jax.prompts import CLASS_NAMES


@dataclasses.dataclass(frozen=True)
class _Layout:
  """Folders of one data set below VOCdevkit (mmsegmentation's convention)."""

  year: str
  labels: str
  lists: str
  names: str
  has_background: bool


_VOC = _Layout(
  "VOC2012", "SegmentationClass", "ImageSets/Segmentation", "voc", True
)
# Context's converted maps have 0 for everything outside the 59 classes.
_CONTEXT = _Layout(
  "VOC2010",
  "SegmentationClassContext",
  "ImageSets/SegmentationContext",
  "context",
  True,
)
_LAYOUTS = {
  "voc": _VOC,
  "voc20": dataclasses.replace(_VOC, has_background=False),
  "context": _CONTEXT,
  "context59": dataclasses.replace(_CONTEXT, has_background=False),
}


class Pascal:
  """A Pascal data set in its official layout."""

  def __init__(
    self, root: str | os.PathLike, *, kind: str = "voc", split: str = "val"
  ):
    """Reads the list of the split.

    Args:
      root: `VOCdevkit`, the folder that holds it, or the year's folder.
      kind: "voc", "voc20", "context" or "context59"; those with a number leave
        the background out of the score.
      split: name of a list, e.g. "val", "train" or "trainaug".
    """
    layout = _LAYOUTS[kind]
    self.name = kind
    self.split: str | None = split
    self.class_names = CLASS_NAMES[layout.names]
    self.has_background = layout.has_background
    self.root = _find(Path(root), layout)
    self._labels = layout.labels
    if split == "trainaug":
      # The augmented set's maps have a folder of their own.
      self._labels += "Aug"
    listing = self.root / layout.lists / f"{split}.txt"
    try:
      self._ids = listing.read_text().split()
    except OSError as error:
      known = sorted(path.stem for path in listing.parent.glob("*.txt"))
      raise InputError(
        f"{listing}: no list of split={split!r}; there are"
        f" {', '.join(known) or 'none'}"
      ) from error
    if not self._ids:
      raise InputError(f"{listing}: the list is empty; choose another split")

  def __len__(self) -> int:
    """Number of pictures of the split."""
    return len(self._ids)

  def __getitem__(self, index: int) -> Sample:
    """Reads a picture and its palette indices."""
    key = self._ids[index]
    image = pictures.read_image(self.root / "JPEGImages" / f"{key}.jpg")
    labels = pictures.read_labels(
      self.root / self._labels / f"{key}.png",
      max_label=len(self.class_names),
      size=image.shape[:2],
    )
    if not self.has_background:
      labels = without_background(labels)
    return Sample(key, image, labels)


def _find(root: Path, layout: _Layout) -> Path:
  candidates = (
    root / layout.year,
    root / "VOCdevkit" / layout.year,
    root,
  )
  for path in candidates:
    if (path / layout.lists).is_dir():
      return path
  raise InputError(
    f"{root}: no {layout.year}/{layout.lists} here; give VOCdevkit or the"
    " folder that holds it"
  )
