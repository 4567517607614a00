"""Whatever stands in a benchmark's files: samples, or one line about it."""

import copy
import json
import shutil

import fuzz
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import (
  box,
  coco_data,
  save_photo,
  write_coco,
  write_folder,
  write_voc,
)
from PIL import Image

from sseg_jax import benchmarks
from sseg_jax.errors import InputError
from sseg_jax.images import reader

# The three readers share the examples.
some = settings(fuzz.examples, max_examples=-(-fuzz.COUNT // 3))

junk = st.one_of(
  st.sampled_from(
    [None, True, 0, 1, 7, -1, 0.5, 10**30, 1e300, float("nan"), float("inf")]
    + ["", "7", "x", "a\nb", "\x00", "\ud800", "../x", "n" * 300]
    + [[], {}, [[]], [None], [0, 0], [[0, 0, 9, 9]], [[0, 0, 9, 0, 9, 9]]]
  ),
  st.integers(-20, 20),
  st.floats(),
  st.text(max_size=5),
  st.lists(st.integers(-5, 30), max_size=6),
)


def read_all(spec, root):
  """Reads every sample; InputError must be a line that names a file."""
  try:
    benchmark = benchmarks.open_benchmark(spec)
    names = benchmark.class_names
    count = len(names) + benchmark.has_background
    for i in range(len(benchmark)):
      sample = benchmark[i]
      assert sample.labels.shape == sample.image.shape[:2]
      reader.check_labels(sample.labels, count - 1, sample.id)
  except InputError as error:
    text = str(error)
    assert str(root) in text and "\n" not in text and len(text) < 2000
    text.encode(errors="backslashreplace")


# ------------------------------------------------------------------------ COCO

_COCO = coco_data(
  [
    {"segmentation": box(1, 1, 3, 3), "area": 4.0},
    {"segmentation": {"size": [4, 6], "counts": [2, 3, 19]}, "iscrowd": 1},
    {"segmentation": {"size": [4, 6], "counts": "23c0"}, "category_id": 3},
    {"segmentation": [[1, 1, 3, 3]]},
    {"image_id": 8, "segmentation": box(0, 0, 2, 2), "category_id": 90},
  ]
)
_COCO["images"].append({"id": 8, "file_name": "8.jpg", "height": 6, "width": 4})


def _places(value, at=()):
  """Where values stand in nested lists and objects."""
  items = value.items() if isinstance(value, dict) else enumerate(value)
  for key, inner in items:
    yield (*at, key)
    if isinstance(inner, dict | list):
      yield from _places(inner, (*at, key))


_PLACES = list(_places(_COCO))


@st.composite
def coco_files(draw):
  data = copy.deepcopy(_COCO)
  for _ in range(draw(st.integers(0, 3))):
    place = draw(st.sampled_from(_PLACES))
    action = draw(st.sampled_from(["replace", "replace", "remove", "repeat"]))
    try:
      inside = data
      for key in place[:-1]:
        inside = inside[key]
      if action == "replace":
        inside[place[-1]] = draw(junk)
      elif action == "remove":
        del inside[place[-1]]
      elif isinstance(inside, list):
        inside.append(copy.deepcopy(inside[place[-1]]))
    except (TypeError, KeyError, IndexError):
      pass  # an earlier change took the place away
  text = json.dumps(data).encode()
  end = draw(st.just(len(text)) | st.integers(0, len(text)))
  return text[:end] if draw(st.integers(0, 9)) == 0 else text


@pytest.mark.slow
@some
@given(data=coco_files(), orientation=st.sampled_from([1, 1, 1, 6, 8]))
def test_coco(tmp_path, data, orientation):
  root = write_coco(tmp_path / "coco", data)
  save_photo(root / "val2017" / "8.jpg", (4, 6), orientation)
  read_all(f"coco={root}", root)


# ----------------------------------------------------------------- label maps


@st.composite
def label_maps(draw):
  """The bytes' ending and a Pillow image of any mode."""
  size = draw(st.sampled_from([(6, 4), (6, 4), (6, 4), (4, 6), (3, 2), (1, 1)]))
  mode = draw(st.sampled_from(["P", "L", "1", "I;16", "RGB", "LA", "F", "I"]))
  value = draw(st.sampled_from([0, 1, 2, 20, 21, 254, 255]))
  return Image.new("L", size, value).convert(mode)


def save_map(path, image, keep):
  suffix = "TIFF" if image.mode in ("F", "I") else "PNG"
  image.save(path, suffix)
  path.write_bytes(path.read_bytes()[:keep])


keep_bytes = st.sampled_from([None] * 6 + [0, 1, 20, 60])

# ------------------------------------------------------------------------- VOC

pieces = st.sampled_from(
  ["2007_000001", "b", "JPEGImages/", "/JPEGImages/", "SegmentationClass/"]
  + [".jpg", ".png", " ", "\t", ",", "\r\n", "\n", "\n", "\\", "-1", " 1\n"]
  + ["..", "\x00", "\ufeff", "é", "\u2028"]
)


@pytest.mark.slow
@some
@given(
  lines=st.lists(pieces, max_size=8).map("".join),
  encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]),
  image=label_maps(),
  keep=keep_bytes,
)
def test_voc(tmp_path, lines, encoding, image, keep):
  root = tmp_path / "voc"
  if not root.is_dir():
    write_voc(root, b"", names=("2007_000001", "b"))
  lists = root / "VOC2012" / "ImageSets" / "Segmentation"
  (lists / "val.txt").write_bytes(lines.encode(encoding, errors="replace"))
  save_map(root / "VOC2012" / "SegmentationClass" / "b.png", image, keep)
  read_all(f"voc={root}", root)


# --------------------------------------------------------------------- folders


@pytest.mark.slow
@some
@given(
  classes=st.lists(
    st.sampled_from(["background", "Background", "cat", "dog", "", " ", "é"])
    | st.text(max_size=4),
    max_size=5,
  ).map("\n".join),
  encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
  name=st.sampled_from(["b.png", "b.tif", "b.heic", "sub/b.JPG", "a.jpg"]),
  orientation=st.sampled_from([1, 1, 6, 3, 9]),
  image=label_maps(),
  keep=keep_bytes,
)
def test_folder(tmp_path, classes, encoding, name, orientation, image, keep):
  root = tmp_path / "folder"
  shutil.rmtree(root, ignore_errors=True)
  write_folder(root, labels=np.zeros((4, 6), np.uint8))
  text = classes.encode(encoding, errors="surrogatepass")
  (root / "classes.txt").write_bytes(text)
  at = root / "images" / name
  at.parent.mkdir(exist_ok=True)
  exif = Image.Exif()
  exif[0x0112] = orientation
  Image.new("RGB", (6, 4)).save(
    at, {"tif": "TIFF", "png": "PNG"}.get(name[-3:], "JPEG"), exif=exif
  )
  labels = (root / "labels" / name).with_suffix(".png")
  labels.parent.mkdir(exist_ok=True)
  save_map(labels, image, keep)
  read_all(f"x={root}", root)
