"""Reads and checks COCO's instance format."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from sseg_jax.benchmarks import coco_fields, lookup
from sseg_jax.benchmarks.coco_fields import plain, shortened
from sseg_jax.benchmarks.coco_masks import Polygons, Runs, parse
from sseg_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Instance:
  """One annotated thing.

  Attributes:
    label: 1.. in the order of the class list.
    crowd: whether the mask is of many things at once.
    area: in annotated pixels.
    mask: never empty.
  """

  label: int
  crowd: bool
  area: float
  mask: Polygons | Runs


@dataclasses.dataclass(frozen=True)
class Masks:
  """All masks of a picture.

  Attributes:
    file_name: as the JSON has it.
    size: height and width at which it was annotated; None if nothing says so.
    place: names the entry in messages.
    instances: in the order in which they are painted.
  """

  file_name: str
  size: tuple[int, int] | None
  place: str
  instances: tuple[Instance, ...]

  def paint(self, canvas: tuple[int, int]) -> Int[np.ndarray, "h w"]:
    """Labels at the size of `canvas`, 0 where there is no mask."""
    labels = np.zeros(canvas, np.int32)
    for instance in self.instances:
      mask = instance.mask.paint(self.size or canvas, canvas)
      labels[mask] = instance.label
    return labels


def read(path: Path, class_names: tuple[str, ...]) -> list[Masks]:
  """Reads the instances of a file.

  `area` only decides what is painted first; where it is missing or no number
  above 0, it is taken from the mask. Missing `iscrowd` is 0, missing `width`
  and `height` are the picture's. Annotations of pictures that the file does not
  list, and masks without any pixel, are left out, and told in one line; so are
  masks that reach out of the picture.

  Args:
    path: `instances_<split>.json`.
    class_names: what categories may be called; capitals and underscores are
      forgiven. Other categories may be listed but not used.

  Returns:
    One entry for each image, in order of their ids.

  Raises:
    InputError: names the file, the entry, the field and its value.
  """
  data = _load(path)
  categories = _categories(path, data["categories"])
  images = _images(path, data["images"])
  labels = {plain(name): i + 1 for i, name in enumerate(class_names)}
  _tell_missing_classes(path, categories, class_names)
  instances: dict[Any, list[Instance]] = {key: [] for key in images}
  unlisted, empty, outside = [], [], []
  for number, entry in enumerate(data["annotations"]):
    place = coco_fields.place(path, "annotation", number, entry)
    image = images.get(coco_fields.identifier(entry, "image_id", place))
    if image is None:
      unlisted.append(entry.get("id", number))
      continue
    name = categories.get(coco_fields.identifier(entry, "category_id", place))
    if name is None:
      raise InputError(
        f"{place}: category_id={entry['category_id']!r} is not among the"
        " categories of the file; add it there or correct the annotation"
      )
    if plain(name) not in labels:
      raise InputError(
        f"{place}: category {name!r} is not one of COCO's 80; use a folder"
        " benchmark for other classes"
      )
    mask, flat = _mask(entry, image["size"], place)
    if flat:
      empty.append(entry.get("id", number))
    if mask is None:
      continue
    if _reaches_out(mask, image["size"]):
      outside.append(entry.get("id", number))
    area = coco_fields.area(entry.get("area"))
    instances[image["id"]].append(
      Instance(
        labels[plain(name)],
        coco_fields.crowd(entry, place),
        mask.area() if area is None else area,
        mask,
      )
    )
  if unlisted:
    lookup.tell(
      f"{path}: {len(unlisted)} annotations are of images that the file does"
      f" not list and are left out; ids {lookup.named(unlisted)}"
    )
  if empty:
    lookup.tell(
      f"{path}: {len(empty)} annotations have no segmentation, or an outline"
      f" without area, which holds no pixel; ids {lookup.named(empty)}"
    )
  if outside:
    lookup.tell(
      f"{path}: {len(outside)} annotations reach out of their image, whose"
      f" width and height may be wrong; ids {lookup.named(outside)}"
    )
  return [
    _sorted_masks(path, image, instances[key]) for key, image in images.items()
  ]


def _sorted_masks(path: Path, image: dict, found: list[Instance]) -> Masks:
  size = image["size"]
  if size is None:
    sizes = {i.mask.size for i in found if isinstance(i.mask, Runs)}
    if len(sizes) > 1:
      raise InputError(
        f"{path}: image {image['id']!r} has run lengths of several sizes; give"
        " its width and height"
      )
    size = sizes.pop() if sizes else None
  return Masks(
    image["file_name"],
    size,
    f"{path}: image {shortened(image['id'])} ({shortened(image['file_name'])})",
    tuple(sorted(found, key=lambda i: (not i.crowd, -i.area))),
  )


def _load(path: Path) -> dict[str, Any]:
  try:
    data = json.loads(path.read_bytes())
  except OSError as error:
    beside = sorted(p.name for p in path.parent.glob("*.json"))
    raise InputError(
      f"{path}: cannot be read, and {path.parent} has no label maps of this"
      f" split; one of them is needed (there are {lookup.named(beside) or 'no'}"
      f"{'' if beside else ' JSON files'})"
    ) from error
  except (ValueError, RecursionError) as error:
    raise InputError(
      f"{path}: not COCO's instance format, since it is not whole JSON"
      f" ({error}); download it again"
    ) from error
  if not isinstance(data, dict):
    raise InputError(
      f"{path}: not COCO's instance format, which is an object with images,"
      f" categories and annotations; this is a {type(data).__name__}"
    )
  _refuse_other_kinds(path, data)
  for name in ("images", "categories", "annotations"):
    if not isinstance(data.get(name), list):
      raise InputError(
        f"{path}: not COCO's instance format: {name} is missing or no list;"
        " give instances_<split>.json"
      )
    for number, entry in enumerate(data[name]):
      if not isinstance(entry, dict):
        raise InputError(
          f"{path}: not COCO's instance format: {name}[{number}] is"
          f" {shortened(entry)}, not an object"
        )
  if not data["images"]:
    raise InputError(f"{path}: lists no images; choose another split")
  return data


def _refuse_other_kinds(path: Path, data: dict) -> None:
  entries = data.get("annotations")
  first = entries[0] if isinstance(entries, list) and entries else {}
  kind = ""
  if "annotations" not in data and "images" in data:
    kind = "image information without annotations"
  elif isinstance(first, dict) and "segmentation" not in first:
    if "caption" in first:
      kind = "captions"
    elif "segments_info" in first:
      kind = "panoptic annotations"
  if kind:
    raise InputError(
      f"{path}: not COCO's instance format: these are {kind}; give"
      " instances_<split>.json"
    )


def _categories(path: Path, entries: list[dict]) -> dict[Any, str]:
  found: dict[Any, str] = {}
  for number, entry in enumerate(entries):
    place = coco_fields.place(path, "category", number, entry)
    key = coco_fields.identifier(entry, "id", place)
    name = entry.get("name")
    if not isinstance(name, str):
      raise InputError(f"{place}: name={shortened(name)} is no text; name it")
    if key in found:
      raise InputError(
        f"{place}: has the id of the category {found[key]!r}; ids must differ"
      )
    found[key] = name
  return found


def _images(path: Path, entries: list[dict]) -> dict[Any, dict]:
  """Images by id, in the order of their ids."""
  found: dict[Any, dict] = {}
  for number, entry in enumerate(entries):
    place = coco_fields.place(path, "image", number, entry)
    key = coco_fields.identifier(entry, "id", place)
    name = entry.get("file_name")
    if not isinstance(name, str) or not name.strip():
      raise InputError(
        f"{place}: file_name={shortened(name)} is no file's name; write it"
        " there"
      )
    if key in found:
      raise InputError(
        f"{place}: has the id of the image {found[key]['file_name']!r}; ids"
        " must differ"
      )
    sides = [
      coco_fields.side(entry, field, place) for field in ("height", "width")
    ]
    size = None if None in sides else tuple(sides)
    found[key] = {"id": key, "file_name": name, "size": size}
  # Numbers in order, then texts in order.
  order = sorted(found, key=lambda key: (isinstance(key, str), key))
  return {key: found[key] for key in order}


def _tell_missing_classes(
  path: Path, categories: dict[Any, str], class_names: tuple[str, ...]
) -> None:
  listed = {plain(name) for name in categories.values()}
  missing = [name for name in class_names if plain(name) not in listed]
  if missing:
    lookup.tell(
      f"{path}: {len(missing)} of the {len(class_names)} classes are not among"
      f" the categories, and no picture can hold them: {lookup.named(missing)}"
    )


def _mask(
  entry: dict, size: tuple[int, int] | None, place: str
) -> tuple[Polygons | Runs | None, bool]:
  """Returns the mask (None if it has no pixel), and whether a part is flat."""
  segmentation = entry.get("segmentation")
  try:
    mask = Polygons(()) if segmentation is None else parse(segmentation)
  except ValueError as error:
    raise InputError(f"{place}: is broken ({error}); correct it") from error
  if isinstance(mask, Runs):
    if size is not None and mask.size != size:
      raise InputError(
        f"{place}: its run lengths are for {mask.size[1]}x{mask.size[0]} pixels"
        f" but the image is {size[1]}x{size[0]}; correct one of them"
      )
    return (mask, False) if mask.area() else (None, True)
  if mask.outlines:
    return mask, mask.flat > 0
  return None, True


def _reaches_out(mask: Polygons | Runs, size: tuple[int, int] | None) -> bool:
  """Whether corners lie well outside of the annotated picture."""
  if size is None or isinstance(mask, Runs):
    return False
  # Some masks of COCO itself reach out by one or two pixels.
  margin = max(2, 0.01 * max(size))
  for outline in mask.outlines:
    x, y = outline.max(0).tolist()
    if x > size[1] + margin or y > size[0] + margin or outline.min() < -margin:
      return True
  return False
