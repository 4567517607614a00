"""COCO's captions: `images` and `annotations`, joined by `image_id`."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from sseg_jax.data.sources import json_rows
from sseg_jax.data.sources.listing import Listing
from sseg_jax.data.sources.rows import Row, shown
from sseg_jax.errors import InputError


def fits(data: Mapping) -> bool:
  """Whether a JSON document has COCO's two lists."""
  return all(isinstance(data.get(n), list) for n in ("images", "annotations"))


def read(data: Mapping, path: Path, listing: Listing) -> Iterator[Row]:
  """Yields a row for each picture, and one for each annotation without picture.

  A picture without an annotation is a row without a caption. The name of the
  licence is looked up in `licenses`.

  Raises:
    InputError: no annotation has a `caption`, as in `instances_*.json`.
  """
  annotations = data["annotations"]
  found = [a for a in annotations if isinstance(a, dict)]
  if found and not any("caption" in a for a in found):
    fields = ", ".join(map(str, found[0]))
    raise InputError(
      f"{shown(path)}: no annotation has a `caption` (fields found:"
      f" {shown(fields)}); give COCO's captions_*.json"
    )
  licenses = data.get("licenses")
  names = {
    _number(entry.get("id")): entry.get("name")
    for entry in (licenses if isinstance(licenses, list) else ())
    if isinstance(entry, dict)
  }
  captions: dict[str, list[object]] = {}
  ids = {_number(i.get("id")) for i in data["images"] if isinstance(i, dict)}
  for position, annotation in enumerate(annotations, 1):
    where = f"{path.name}: annotation {position}"
    if not isinstance(annotation, dict):
      yield Row(where, reason="no_caption")
    elif (image := _number(annotation.get("image_id"))) not in ids:
      yield Row(where, reason="unknown_image_id")
    else:
      captions.setdefault(image, []).append(annotation.get("caption"))
  seen = set()
  for position, image in enumerate(data["images"], 1):
    where = f"{path.name}: image {position}"
    if not isinstance(image, dict):
      yield Row(where, reason="no_file_name")
      continue
    number = _number(image.get("id"))
    if number in seen:
      yield Row(where, reason="duplicate_id")
      continue
    seen.add(number)
    license = image.get("license")
    yield json_rows.from_object(
      {
        **{key: value for key, value in image.items() if key != "caption"},
        "captions": captions.get(number, []),
        "license": names.get(_number(license), license),
      },
      where,
      listing,
    )


def _number(value: object) -> str:
  """Returns an id as text: some tools write numbers, others strings."""
  return "" if isinstance(value, (dict, list)) else str(value)
