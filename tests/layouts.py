"""Small benchmarks in the layouts that people have, for tests."""

import json

import numpy as np
from PIL import Image

COCO = (("person", 1), ("bicycle", 2), ("car", 3), ("toothbrush", 90))


def box(x0, y0, x1, y1):
  """One polygon: the pixels of these columns and rows, ends left out."""
  return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def save_photo(path, size, orientation=1):
  """A picture of height and width `size` as stored."""
  path.parent.mkdir(parents=True, exist_ok=True)
  exif = Image.Exif()
  exif[0x0112] = orientation
  Image.new("RGB", size[::-1], "gray").save(path, exif=exif)


def coco_data(annotations, *, size=(4, 6), image=None):
  """An instance file of one picture; Ellipsis takes a field away."""
  whole = {
    "id": 7,
    "file_name": "000000000007.png",
    "height": size[0],
    "width": size[1],
  } | (image or {})
  return {
    "images": [_without_ellipsis(whole)],
    "categories": [{"id": i, "name": name} for name, i in COCO],
    "annotations": [
      _without_ellipsis(
        {"id": i, "image_id": 7, "category_id": 1, "iscrowd": 0, "area": 1} | a
      )
      for i, a in enumerate(annotations)
    ],
  }


def _without_ellipsis(entry):
  return {key: value for key, value in entry.items() if value is not ...}


def write_coco(root, data, *, size=(4, 6), orientation=1):
  """The folder `coco` with the picture of `coco_data`."""
  save_photo(root / "val2017" / "000000000007.png", size, orientation)
  (root / "annotations").mkdir(exist_ok=True)
  path = root / "annotations" / "instances_val2017.json"
  path.write_bytes(
    data if isinstance(data, bytes) else json.dumps(data).encode()
  )
  return root


def write_folder(root, *, classes="background\ncat\ndog\n", labels=None):
  """A folder benchmark with one picture `a`."""
  labels = np.array([[0, 1, 2], [255, 1, 0]]) if labels is None else labels
  save_photo(root / "images" / "a.png", labels.shape[:2])
  (root / "labels").mkdir(exist_ok=True)
  (root / "classes.txt").write_text(classes)
  dtype = np.uint16 if labels.max() > 255 else np.uint8
  Image.fromarray(labels.astype(dtype)).save(root / "labels" / "a.png")
  return root


def write_voc(root, listing, names=("2007_000001",), labels=15):
  """`VOC2012` with these pictures and a list of `val`, bytes."""
  (root / "VOC2012" / "SegmentationClass").mkdir(parents=True, exist_ok=True)
  lists = root / "VOC2012" / "ImageSets" / "Segmentation"
  lists.mkdir(parents=True, exist_ok=True)
  (lists / "val.txt").write_bytes(listing)
  for name in names:
    save_photo(root / "VOC2012" / "JPEGImages" / f"{name}.jpg", (4, 6))
    Image.new("L", (6, 4), labels).save(
      root / "VOC2012" / "SegmentationClass" / f"{name}.png"
    )
  return root
