"""COCO-Object: the 80 object classes of COCO as semantic masks."""

import json
import os
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from sseg_jax import pictures
from sseg_jax.benchmarks.sample import Sample, without_background
from sseg_jax.errors import InputError
from sseg_jax.prompts import CLASS_NAMES

_SUFFIX = "_instanceTrainIds.png"


class CocoObject:
  """COCO-Object in the layout of GroupViT or of COCO itself.

  If `annotations/<split>2017/<id>_instanceTrainIds.png` exist, they are the
  truth (GroupViT, convert_dataset/convert_coco_object.py). Otherwise masks are
  painted from `annotations/instances_<split>2017.json`. This is close to the
  former but not identical, since those come from COCO-Stuff's maps: where
  instances overlap, the smaller one wins here (larger areas are painted first),
  and crowd regions are painted as their class before all single instances.
  Either way no pixel is ignored unless the background is left out.
  """

  def __init__(
    self, root: str | os.PathLike, *, kind: str = "coco", split: str = "val"
  ):
    """Lists the images of a split.

    Args:
      root: the folder `coco`.
      kind: "coco", or "coco80" to leave the background out of the score.
      split: "val" or "train"; a year other than 2017 is written out, "val2014".
    """
    self.name = kind
    self.split: str | None = split
    self.class_names = CLASS_NAMES["coco"]
    self.has_background = kind == "coco"
    split = split if split[-1:].isdigit() else f"{split}2017"
    root = Path(root)
    places = (root / split, root / "images" / split)
    self._images = next((path for path in places if path.is_dir()), places[0])
    if not self._images.is_dir():
      raise InputError(
        f"{places[0]}: no such folder (nor {places[1]}); give the folder coco"
        " with the images of the split in it"
      )
    self._maps = root / "annotations" / split
    maps = sorted(self._maps.glob(f"*{_SUFFIX}"))
    self._instances: dict[str, list] = {}
    if maps:
      self._files = [f"{path.name.removesuffix(_SUFFIX)}.jpg" for path in maps]
    else:
      self._files = self._read(root / "annotations" / f"instances_{split}.json")
    for file in self._files:
      if not (self._images / file).is_file():
        raise InputError(
          f"{self._images / file}: this annotated picture is missing; complete"
          " the folder or shorten the annotations"
        )

  def _read(self, path: Path) -> list[str]:
    """Reads the instances; returns the files in order of their ids."""
    try:
      data = json.loads(path.read_bytes())
      categories = {c["id"]: c["name"] for c in data["categories"]}
      images = sorted(data["images"], key=lambda image: image["id"])
      annotations = data["annotations"]
    except OSError as error:
      raise InputError(
        f"{path}: cannot be read, and {self._maps} holds no *{_SUFFIX};"
        " one of them is needed"
      ) from error
    except (ValueError, KeyError, TypeError) as error:
      raise InputError(
        f"{path}: not COCO's instance format ({error!r}); download it again"
      ) from error
    if not images:
      raise InputError(f"{path}: lists no images; choose another split")
    labels = {name: i + 1 for i, name in enumerate(self.class_names)}
    unknown = sorted(set(categories.values()) - set(labels))
    if unknown:
      raise InputError(
        f"{path}: category {unknown[0]!r} is not one of COCO's 80; use a folder"
        " benchmark for other classes"
      )
    files = {image["id"]: image["file_name"] for image in images}
    self._instances = {file: [] for file in files.values()}
    for a in annotations:
      if a["image_id"] in files:
        label = labels[categories[a["category_id"]]]
        self._instances[files[a["image_id"]]].append((label, a))
    return list(files.values())

  def __len__(self) -> int:
    """Number of pictures of the split."""
    return len(self._files)

  def __getitem__(self, index: int) -> Sample:
    """Reads a picture and reads or paints its labels."""
    file = self._files[index]
    key = Path(file).stem
    image = pictures.read_image(self._images / file)
    if file in self._instances:
      labels = _paint(self._instances[file], image.shape[:2], file)
    else:
      labels = pictures.read_labels(
        self._maps / f"{key}{_SUFFIX}",
        max_label=len(self.class_names),
        size=image.shape[:2],
      )
    if not self.has_background:
      labels = without_background(labels)
    return Sample(key, image, labels)


def _paint(
  instances: list, size: tuple[int, int], file: str
) -> Int[np.ndarray, "h w"]:
  labels = np.zeros(size, np.int32)
  ordered = sorted(
    instances, key=lambda it: (not it[1].get("iscrowd", 0), -it[1]["area"])
  )
  for label, annotation in ordered:
    try:
      mask = segmentation_mask(annotation["segmentation"], size)
    except (ValueError, KeyError, TypeError) as error:
      raise InputError(
        f"{file}: annotation {annotation.get('id')} is broken ({error});"
        " download the annotations again"
      ) from error
    labels[mask] = label
  return labels


def segmentation_mask(
  segmentation: list | dict, size: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
  """Mask of one COCO segmentation: polygons, or run lengths in either form.

  A polygon holds the pixels whose centre is inside, by the even-odd rule;
  COCO's own rasteriser can differ from this by a pixel at edges. ValueError if
  run lengths do not fill the picture.
  """
  h, w = size
  if isinstance(segmentation, list):
    mask = np.zeros(size, bool)
    for polygon in segmentation:
      mask |= _inside(np.asarray(polygon, float).reshape(-1, 2), size)
    return mask
  counts = segmentation["counts"]
  if isinstance(counts, str):
    counts = decompress_counts(counts)
  if tuple(segmentation["size"]) != (h, w) or sum(counts) != h * w:
    raise ValueError(f"run lengths are not for {w}x{h} pixels")
  values = np.arange(len(counts)) % 2 == 1
  return np.repeat(values, counts).reshape(w, h).T  # runs go down columns


def _inside(
  polygon: Float[np.ndarray, "v 2"], size: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
  h, w = size
  x, y = polygon.T
  x2, y2 = np.roll(x, -1), np.roll(y, -1)
  centres = np.arange(h) + 0.5
  crosses = (y[:, None] <= centres) != (y2[:, None] <= centres)
  edge, row = np.nonzero(crosses)
  share = (centres[row] - y[edge]) / (y2[edge] - y[edge])
  at = x[edge] + share * (x2[edge] - x[edge])
  # The first pixel whose centre is right of the crossing.
  column = np.clip(np.ceil(at - 0.5), 0, w).astype(int)
  toggles = np.zeros((h, w + 1), int)
  np.add.at(toggles, (row, column), 1)
  return np.cumsum(toggles, axis=1)[:, :w] % 2 == 1


def decompress_counts(text: str) -> list[int]:
  """Decodes COCO's compressed run lengths.

  Each number is a run of characters that carry five bits each, lowest first,
  with 0x20 for "more follow"; bit 0x10 of the last is the sign. From the fourth
  on, numbers are differences to the one before the last (pycocotools,
  common/maskApi.c, rleFrString).
  """
  counts: list[int] = []
  value = shift = 0
  for character in text:
    bits = ord(character) - 48
    value |= (bits & 0x1F) << shift
    shift += 5
    if not bits & 0x20:
      if bits & 0x10:
        value -= 1 << shift
      if len(counts) > 2:
        value += counts[-2]
      counts.append(value)
      value = shift = 0
  return counts
