"""ADE20K-150, Cityscapes-19 and COCO-Stuff-171: no class is a background.

Each has numbers of its own in its files; `Scenes` maps them to 0..c-1, and to
255 where a pixel has none of the classes. Such pixels are not scored.
"""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Int

from sseg_jax.benchmarks import alignment, pairs
from sseg_jax.benchmarks.sample import Sample
from sseg_jax.errors import InputError
from sseg_jax.images import reader
from sseg_jax.prompts import CLASS_NAMES

_ADE_SPLITS = {"val": "validation", "train": "training"}
# Numbers that label maps of Cityscapes have for the 19 classes, in order; the
# 15 others below 34 are not scored (cityscapesscripts, helpers/labels.py).
CITYSCAPES_IDS = (
  *(7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33),
)
_CITYSCAPES_MAX = 33
# COCO's numbers less one, as COCO-Stuff's maps have them: 0..181 without these
# eleven, which COCO has never used.
COCO_GAPS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
STUFF_IDS = tuple(i for i in range(182) if i not in COCO_GAPS)


class Scenes:
  """One of the three data sets in its published layout."""

  has_background = False

  def __init__(self, root: str | os.PathLike, *, kind: str, split: str = "val"):
    """Lists the pictures that have a label map, and compares their sizes.

    Args:
      root: the data set's folder, or the one that holds it. ADE20K:
        `ADEChallengeData2016` with `images/` and `annotations/`. Cityscapes:
        `leftImg8bit/` and `gtFine/`, whose `_labelTrainIds.png` or
        `_labelIds.png` are read. COCO-Stuff: `val2017/` or `images/val2017/`,
        and below `annotations/` or `stuffthingmaps/` the same folder with
        `ID_labelTrainIds.png` or the published `ID.png`.
      kind: "ade20k", "cityscapes" or "coco_stuff".
      split: "val", "train", or the name of another folder.

    Raises:
      InputError: names what is missing or does not fit.
    """
    self.name = kind
    self.split: str | None = split
    self.class_names = CLASS_NAMES[kind]
    find = {"ade20k": _ade, "cityscapes": _cityscapes, "coco_stuff": _stuff}
    self._pairs, self._ids = find[kind](Path(root), split)

  def __len__(self) -> int:
    """Number of pictures of the split."""
    return len(self._pairs)

  def __getitem__(self, index: int) -> Sample:
    """Reads a picture and its labels; InputError names a wrong file."""
    item = self._pairs[index]
    image = reader.read_image(item.picture)
    labels = alignment.read_labels(
      item.labels,
      item.picture,
      max_label=int(np.flatnonzero(self._ids[:255] >= 0)[-1]),
      size=image.shape[:2],
    )
    mapped = self._ids[labels]
    if (mapped < 0).any():
      raise InputError(
        f"{item.labels}: label {labels[mapped < 0][0]} is none of {self.name}'s"
        " numbers; take the published label maps"
      )
    return Sample(item.id, image, mapped)


def _table(ids: tuple[int, ...], ignored: tuple[int, ...] = ()) -> np.ndarray:
  """Returns labels by the numbers in files; -1 for those not allowed."""
  table = np.full(256, -1, np.int32)
  table[list(ignored)] = 255
  table[list(ids)] = np.arange(len(ids))
  return table


def _listed(
  images: Path, choices: list[tuple[Path, str, np.ndarray]], ending: str = ""
) -> tuple[list[pairs.Pair], Int[np.ndarray, "256"]]:
  """Takes the choice with most label maps, of equal ones the first.

  Args:
    images: folder of the pictures.
    choices: folder, ending and numbers of label maps.
    ending: as for `pairs.pair`.

  Returns:
    Pictures with their label maps, and the labels of the maps' numbers with
    255 for the ignored ones. InputError if there are none.
  """
  if not images.is_dir():
    raise InputError(
      f"{images}: no such folder; give the folder of the data set, with its"
      " published sub-folders, and one of its splits"
    )
  found = [pairs.maps_in(folder, suffix) for folder, suffix, _ in choices]
  best = max(range(len(found)), key=lambda i: len(found[i]))
  folder, suffix, table = choices[best]
  if not found[best]:
    places = ", ".join(f"{folder}/*{suffix}" for folder, suffix, _ in choices)
    raise InputError(
      f"{images}: has no label maps; they are sought as {places}"
    )
  table = table.copy()
  if table[255] < 0:
    table[255] = 255
  return pairs.pair(images, folder, found[best], suffix, ending), table


def _ade(root: Path, split: str):
  name = "ADEChallengeData2016"
  places = (root / name, root, root.parent / name)
  base = next((p for p in places if (p / "annotations").is_dir()), places[0])
  split = _ADE_SPLITS.get(split, split)
  # 0 is what has none of the 150 names.
  table = _table(tuple(range(1, 151)), ignored=(0,))
  maps = base / "annotations" / split
  return _listed(base / "images" / split, [(maps, ".png", table)])


def _cityscapes(root: Path, split: str):
  maps = root / "gtFine" / split
  others = tuple(range(_CITYSCAPES_MAX + 1))
  choices = [
    (maps, "_gtFine_labelTrainIds.png", _table(tuple(range(19)))),
    (maps, "_gtFine_labelIds.png", _table(CITYSCAPES_IDS, ignored=others)),
  ]
  images = root / "leftImg8bit" / split
  return _listed(images, choices, "_leftImg8bit")


def _stuff(root: Path, split: str):
  split = split if split[-1:].isdigit() else f"{split}2017"
  places = (root / split, root / "images" / split)
  images = next((path for path in places if path.is_dir()), places[0])
  folders = [root / part / split for part in ("annotations", "stuffthingmaps")]
  train_ids, published = _table(tuple(range(171))), _table(STUFF_IDS)
  choices = [(f, "_labelTrainIds.png", train_ids) for f in folders]
  choices += [(f, ".png", published) for f in folders]
  return _listed(images, choices)
