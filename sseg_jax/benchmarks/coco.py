"""COCO-Object: the 80 object classes of COCO as semantic masks."""

import collections
import dataclasses
import os
from pathlib import Path

from sseg_jax.benchmarks import alignment, coco_json, lookup, pairs
from sseg_jax.benchmarks.coco_masks import decompress_counts, segmentation_mask
from sseg_jax.benchmarks.sample import Sample, without_background
from sseg_jax.errors import InputError
from sseg_jax.images import reader
from sseg_jax.prompts import CLASS_NAMES

__all__ = ["CocoObject", "decompress_counts", "segmentation_mask"]

_SUFFIX = "_instanceTrainIds.png"


@dataclasses.dataclass(frozen=True)
class _Item:
  """One picture, and either its label map or masks to paint."""

  id: str
  picture: Path
  truth: Path | coco_json.Masks


class CocoObject:
  """COCO-Object in the layout of GroupViT or of COCO itself.

  If `annotations/<split>2017/<id>_instanceTrainIds.png` exist, they are the
  truth (GroupViT, convert_dataset/convert_coco_object.py). Otherwise masks are
  painted from `annotations/instances_<split>2017.json`. This is close to the
  former but not identical, since those come from COCO-Stuff's maps: where
  instances overlap, the smaller one wins here (larger areas are painted first),
  and crowd regions are painted as their class before all single instances.
  Either way no pixel is ignored unless the background is left out.

  Masks have the size of the picture. Where the JSON says another `width` and
  `height`, they are scaled if the ratio is the same. Where the photo has an
  EXIF orientation, `alignment` says how the masks lie; what cannot be known is
  refused.
  """

  def __init__(
    self, root: str | os.PathLike, *, kind: str = "coco", split: str = "val"
  ):
    """Lists the images of a split.

    Args:
      root: the folder `coco`.
      kind: "coco", or "coco80" to leave the background out of the score.
      split: "val" or "train"; a year other than 2017 is written out, "val2014".

    Raises:
      InputError: a file is missing or malformed, or labels do not fit their
        picture. Files are opened only as far as that needs.
    """
    self.name = kind
    self.split: str | None = split
    self.class_names = CLASS_NAMES["coco"]
    self.has_background = kind == "coco"
    split = split if split[-1:].isdigit() else f"{split}2017"
    root = Path(root)
    places = (root / split, root / "images" / split)
    images = next((path for path in places if path.is_dir()), places[0])
    if not images.is_dir():
      raise InputError(
        f"{places[0]}: no such folder (nor {places[1]}); give the folder coco"
        " with the images of the split in it"
      )
    folder = root / "annotations" / split
    maps = pairs.maps_in(folder, _SUFFIX)
    if maps:
      self._items = _mapped(images, folder, maps)
    else:
      path = root / "annotations" / f"instances_{split}.json"
      self._items = _annotated(root, images, path, self.class_names)

  def __len__(self) -> int:
    """Number of pictures of the split."""
    return len(self._items)

  def __getitem__(self, index: int) -> Sample:
    """Reads a picture and reads or paints its labels."""
    item = self._items[index]
    image = reader.read_image(item.picture)
    size = image.shape[:2]
    if isinstance(item.truth, coco_json.Masks):
      turn = _turn(item.truth, alignment.photo(item.picture))
      labels = item.truth.paint(alignment.canvas(size, turn))
      labels = alignment.fit(labels, turn, size)
    else:
      labels = alignment.read_labels(
        item.truth,
        item.picture,
        max_label=len(self.class_names),
        size=size,
      )
    if not self.has_background:
      labels = without_background(labels)
    return Sample(item.id, image, labels)


def _turn(masks: coco_json.Masks, photo: alignment.Photo) -> int:
  return alignment.turn_of(masks.size, photo, place=masks.place, scalable=True)


def _mapped(images: Path, folder: Path, maps: list[Path]) -> list[_Item]:
  """The pictures of GroupViT's label maps."""
  found = pairs.pair(images, folder, maps, _SUFFIX)
  return [_Item(item.id, item.picture, item.labels) for item in found]


def _annotated(
  root: Path, images: Path, path: Path, class_names: tuple[str, ...]
) -> list[_Item]:
  """The pictures of COCO's own annotations."""
  all_masks = coco_json.read(path, class_names)
  found = _find(root, images, [masks.file_name for masks in all_masks])
  stems = collections.Counter(picture.stem for picture in found)
  items = []
  for masks, picture in zip(all_masks, found, strict=True):
    name = masks.file_name.replace("\\", "/")
    unique = stems[picture.stem] == 1
    key = picture.stem if unique else os.path.splitext(name)[0]
    items.append(_Item(key, picture, masks))
  alignment.check_all(
    lambda pair: _turn(pair[0], alignment.photo(pair[1])),
    zip(all_masks, found, strict=True),
  )
  if not any(masks.instances for masks in all_masks):
    raise InputError(
      f"{path}: no annotation has a mask, so that everything would be"
      " background; give annotations with a segmentation"
    )
  return items


def _find(root: Path, images: Path, names: list[str]) -> list[Path]:
  """The files that `file_name` means.

  They are sought below the folder of the split, below `coco` and its `images/`,
  and at last by the name alone in the folder of the split, since many programs
  write other folders in front; with another suffix, if there is but one such.
  """
  listed = lookup.Pictures(images)
  found: list[Path] = []
  missing = []
  for name in names:
    relative = name.replace("\\", "/")
    whole = (base / relative for base in (images, root, root / "images"))
    path = next(filter(lookup.is_file, whole), None)
    if path is None:
      last = relative.rsplit("/", 1)[-1]
      alone = images / last
      stem = os.path.splitext(last)[0] if reader.has_suffix(last) else last
      path = alone if lookup.is_file(alone) else listed.find(stem)
    if path is None:
      missing.append(name)
    else:
      found.append(path)
  if missing:
    more = f" ({len(missing) - 1} more like this)" if missing[1:] else ""
    raise InputError(
      f"{images}: the annotated picture {missing[0]!r} is missing; complete"
      f" the folder or shorten the annotations{more}"
    )
  owner: dict[Path, str] = {}
  for name, path in zip(names, found, strict=True):
    first = owner.setdefault(path, name)
    if first is not name:
      raise InputError(
        f"{path}: is meant by two images, {first!r} and {name!r}; keep one, or"
        " keep the folders that tell them apart"
      )
  return found
