"""Which label maps a published download gives, and how each is made.

A plan is made from `source`, the download, and `out`, the folder that the
reader of the benchmark takes.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from sseg_jax.benchmarks import coco_json, lookup, pairs, scenes
from sseg_jax.benchmarks.coco_masks import segmentation_mask
from sseg_jax.errors import InputError
from sseg_jax.images import label_maps
from sseg_jax.prompts import CLASS_NAMES

Labels = Int[np.ndarray, "h w"]

# Raw numbers of the 459 classes that Pascal Context's 59 have, with 0 for the
# background, in ascending order: mmsegmentation maps by position
# (tools/convert_datasets/pascal_context.py, `np.digitize`).
CONTEXT_IDS = (
  *(0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80),
  *(85, 98, 104, 105, 113, 115, 144, 158, 159, 162, 187, 189, 207, 220, 232),
  *(258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366),
  *(368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
)
_TRAINAUG = 10_582  # pictures of VOC's augmented training set
_THINGS = tuple(i for i in scenes.STUFF_IDS if i < 90)


@dataclasses.dataclass(frozen=True)
class Plan:
  """What is to be written.

  Attributes:
    origin: what the label maps are made from, for `prepared_NAME.json`.
    maps: file -> function that returns its labels.
    lists: file -> text.
    notes: lines for the user.
    compare: file -> function that returns what another source has for it.
  """

  origin: str
  maps: dict[Path, Callable[[], Labels]]
  lists: dict[Path, str] = dataclasses.field(default_factory=dict)
  notes: tuple[str, ...] = ()
  compare: dict[Path, Callable[[], Labels]] = dataclasses.field(
    default_factory=dict
  )


# --- Plans: (source, out) -> what is to be written ----------------------------


def _coco(source: Path, out: Path) -> Plan:
  """COCO-Object from COCO-Stuff's maps, or from the instances' JSON."""
  table = _table(dict(zip(_THINGS, range(1, 81), strict=True)))
  table[[*range(91, 182), 255]] = 0
  maps: dict[Path, Callable[[], Labels]] = {}
  painted: dict[Path, Callable[[], Labels]] = {}
  for split in ("train2017", "val2017"):
    folder = out / "annotations" / split
    for path in _stuff_maps(source, split):
      target = folder / f"{path.stem}_instanceTrainIds.png"
      maps[target] = _converter(path, table, 181)
    listing = source / "annotations" / f"instances_{split}.json"
    if listing.is_file():
      for masks in coco_json.read(listing, CLASS_NAMES["coco"]):
        stem = Path(masks.file_name).stem
        painted[folder / f"{stem}_instanceTrainIds.png"] = _painter(masks)
  if maps:
    both = {path: make for path, make in painted.items() if path in maps}
    note = _count_note(maps, 123_287, "pictures of COCO 2017")
    return Plan("stuffthingmaps", maps, notes=note, compare=both)
  if painted:
    note = (
      "these label maps are painted from the instances' JSON and are NOT"
      " IDENTICAL to those that published scores are of: overlaps and crowds"
      " differ; give stuffthingmaps for those",
    )
    return Plan("instances, not identical", painted, notes=note)
  raise InputError(
    f"{source}: has neither stuffthingmaps/val2017/*.png (or train2017) nor"
    " annotations/instances_val2017.json"
  )


def _coco_stuff(source: Path, out: Path) -> Plan:
  """COCO-Stuff's published numbers as 0..170."""
  table = _table({raw: i for i, raw in enumerate(scenes.STUFF_IDS)})
  table[255] = 255
  maps = {
    out / "annotations" / split / f"{path.stem}_labelTrainIds.png": _converter(
      path, table, 181
    )
    for split in ("train2017", "val2017")
    for path in _stuff_maps(source, split)
  }
  if not maps:
    raise InputError(f"{source}: has no stuffthingmaps/val2017/*.png")
  note = _count_note(maps, 123_287, "pictures of COCO 2017")
  return Plan("stuffthingmaps", maps, notes=note)


def _cityscapes(source: Path, out: Path) -> Plan:
  """Cityscapes' labelIds as labelTrainIds."""
  table = _table({raw: i for i, raw in enumerate(scenes.CITYSCAPES_IDS)}, 255)
  folder = source if source.name == "gtFine" else source / "gtFine"
  ending = "_gtFine_labelIds.png"
  maps: dict[Path, Callable[[], Labels]] = {}
  for path in pairs.maps_in(folder, ending):
    name = path.name.replace("labelIds", "labelTrainIds")
    target = out / "gtFine" / path.parent.relative_to(folder) / name
    maps[target] = _converter(path, table, 33)
  if not maps:
    raise InputError(f"{folder}: has no *{ending}; give the folder of gtFine")
  note = _count_note(maps, 5_000, "pictures of Cityscapes, test counted")
  return Plan("labelIds", maps, notes=note)


def _context(source: Path, out: Path) -> Plan:
  """Pascal Context from trainval_merged.json, and its lists.

  As the `detail` API's getMask: segments in the order of the file, each over
  those before it.
  """
  path = source if source.is_file() else source / "trainval_merged.json"
  try:
    data = json.loads(path.read_bytes())
    images: dict[Any, tuple[str, tuple[int, int], str, list]] = {
      entry["image_id"]: (
        Path(entry["file_name"]).stem,
        (int(entry["height"]), int(entry["width"])),
        str(entry["phase"]),
        [],
      )
      for entry in data["images"]
    }
    for segment in data["annos_segmentation"]:
      parts = images[segment["image_id"]][-1]
      parts.append((int(segment["category_id"]), segment["segmentation"]))
  except OSError as error:
    raise InputError(
      f"{path}: cannot be read ({error.strerror}); give trainval_merged.json,"
      " or its folder"
    ) from error
  except (ValueError, TypeError, LookupError) as error:
    raise InputError(
      f"{path}: is not the JSON of the detail API ({error!r}); give"
      " trainval_merged.json"
    ) from error
  base = out / "VOC2010"
  maps: dict[Path, Callable[[], Labels]] = {}
  lists: dict[Path, str] = {}
  notes: list[str] = []
  for phase, wanted in (("train", 4_996), ("val", 5_104)):
    names = []
    for stem, size, of, segments in images.values():
      if of == phase:
        names.append(stem)
        target = base / "SegmentationClassContext" / f"{stem}.png"
        maps[target] = _context_painter(path, stem, size, segments)
    listing = base / "ImageSets" / "SegmentationContext" / f"{phase}.txt"
    lists[listing] = "".join(f"{name}\n" for name in sorted(names))
    notes += _count_note(names, wanted, f"pictures of {phase} (detail API)")
  if not maps:
    raise InputError(f"{path}: lists no picture of the phases train and val")
  return Plan("trainval_merged.json", maps, lists, tuple(notes))


def _voc(source: Path, out: Path) -> Plan:
  """VOC 2012's augmented training set from SBD's .mat files.

  Pictures that VOC itself has labelled for training keep VOC's label maps, as
  in DeepLab's and mmsegmentation's training.
  """
  places = (source, source / "dataset", source / "benchmark_RELEASE/dataset")
  base = next((p for p in places if (p / "cls").is_dir()), None)
  if base is None:
    raise InputError(f"{source}: has no cls/*.mat, nor has its dataset/")
  year = next((p for p in (out / "VOC2012", out) if _lists(p).is_dir()), None)
  if year is None:
    raise InputError(
      f"{out}: has no VOC2012/ImageSets/Segmentation; unpack VOC 2012 there"
      " first, since the augmented set is joined from both"
    )
  sbd = _names(base / "train.txt") | _names(base / "val.txt")
  train, val = (_names(_lists(year) / f"{s}.txt") for s in ("train", "val"))
  trainaug, aug = sorted((train | sbd) - val), sorted(sbd - train - val)
  maps: dict[Path, Callable[[], Labels]] = {}
  for name in trainaug:
    own = year / "SegmentationClass" / f"{name}.png"
    target = year / "SegmentationClassAug" / f"{name}.png"
    if name in train:
      maps[target] = _converter(own, np.arange(256), 20)
    else:
      maps[target] = _mat_reader(base / "cls" / f"{name}.mat")
  lists = {
    _lists(year) / "trainaug.txt": "".join(f"{n}\n" for n in trainaug),
    _lists(year) / "aug.txt": "".join(f"{n}\n" for n in aug),
  }
  note = _count_note(trainaug, _TRAINAUG, "pictures of trainaug")
  return Plan("SBD", maps, lists, note)


PLANS: dict[str, Callable[[Path, Path], Plan]] = {
  "voc": _voc,
  "context": _context,
  "coco": _coco,
  "coco_stuff": _coco_stuff,
  "cityscapes": _cityscapes,
}


# --- What the plans share -----------------------------------------------------


def _table(labels: dict[int, int], other: int = -1) -> np.ndarray:
  table = np.full(256, other, np.int32)
  table[list(labels)] = list(labels.values())
  return table


def _count_note(found: Iterable, wanted: int, what: str) -> tuple[str, ...]:
  count = len(list(found))
  if count == wanted:
    return (f"all {wanted:,} {what} are there",)
  return (
    f"there are {count:,} {what}, but the full data set has {wanted:,}: scores"
    " on a part cannot be compared with published ones",
  )


def _stuff_maps(source: Path, split: str) -> list[Path]:
  places = (
    source / "stuffthingmaps" / split,
    source / split,
    source / "annotations" / split,
  )
  found = (pairs.maps_in(place, ".png") for place in places)
  return next(filter(None, found), [])


def _converter(path: Path, table: np.ndarray, largest: int):
  def convert() -> Labels:
    labels = label_maps.read_labels(path, max_label=largest)
    mapped = table[labels]
    if (mapped < 0).any():
      raise InputError(
        f"{path}: label {labels[mapped < 0][0]} is not a number of this data"
        " set; take its published label maps"
      )
    return mapped

  return convert


def _painter(masks: coco_json.Masks):
  def paint() -> Labels:
    if masks.size is None:
      raise InputError(f"{masks.place}: has no width and height; add them")
    return masks.paint(masks.size)

  return paint


def _context_painter(
  path: Path,
  stem: str,
  size: tuple[int, int],
  segments: list[tuple[int, Any]],
):
  def paint() -> Labels:
    raw = np.zeros(size, np.int32)
    for category, segmentation in segments:
      try:
        raw[segmentation_mask(segmentation, size)] = category
      except ValueError as error:
        raise InputError(f"{path}: picture {stem}: {error}") from error
    strange = np.setdiff1d(raw, CONTEXT_IDS)
    if len(strange):
      raise InputError(
        f"{path}: picture {stem} has category {strange[0]}, which is none of"
        " the 59; take the published trainval_merged.json"
      )
    return np.digitize(raw.ravel(), CONTEXT_IDS, right=True).reshape(size)

  return paint


def _mat_reader(path: Path):
  def read() -> Labels:
    from scipy import io

    try:
      found = io.loadmat(path, squeeze_me=True, struct_as_record=False)
      labels = np.atleast_2d(found["GTcls"].Segmentation).astype(np.int32)
    except Exception as error:
      raise InputError(
        f"{path}: cannot be read as a label map of SBD"
        f" ({type(error).__name__}: {error}); unpack benchmark.tgz again"
      ) from error
    label_maps.check_labels(labels, 20, path)
    return labels

  return read


def _lists(year: Path) -> Path:
  return year / "ImageSets" / "Segmentation"


def _names(path: Path) -> set[str]:
  try:
    return {line.strip() for line in lookup.read_lines(path, "the list")} - {""}
  except OSError as error:
    raise InputError(
      f"{path}: the list cannot be read ({error.strerror}); it belongs to the"
      " download"
    ) from error
