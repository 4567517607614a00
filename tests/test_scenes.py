"""ADE20K, Cityscapes and COCO-Stuff in hand-made copies of their layouts."""

import numpy as np
import pytest
from layouts import save_photo
from PIL import Image

from sseg_jax import benchmarks
from sseg_jax.benchmarks import scenes
from sseg_jax.errors import InputError


def save_labels(path, values):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.array([values], np.uint8)).save(path)


def write(root, kind, values, *, published=True, picture=None, name="a"):
  """One picture of one row, in the data set's layout below a data root."""
  if kind == "ade20k":
    base = root / "ade" / "ADEChallengeData2016"
    photo = base / "images" / "validation" / f"{name}.jpg"
    labels = base / "annotations" / "validation" / f"{name}.png"
  elif kind == "cityscapes":
    base = root / "cityscapes"
    photo = base / "leftImg8bit" / "val" / "ulm" / f"{name}_leftImg8bit.png"
    ending = "labelIds" if published else "labelTrainIds"
    labels = base / "gtFine" / "val" / "ulm" / f"{name}_gtFine_{ending}.png"
  else:
    base = root / "coco"
    photo = base / "images" / "val2017" / f"{name}.jpg"
    ending = "" if published else "_labelTrainIds"
    labels = base / "annotations" / "val2017" / f"{name}{ending}.png"
  save_photo(photo, picture or (1, len(values)))
  save_labels(labels, values)
  return photo, labels


@pytest.mark.parametrize(
  ("kind", "published", "values", "expected"),
  [
    ("ade20k", True, [0, 1, 150, 255], [255, 0, 149, 255]),
    ("cityscapes", True, [0, 7, 9, 30, 33, 255], [255, 0, 255, 255, 18, 255]),
    ("cityscapes", False, [0, 18, 255], [0, 18, 255]),
    ("coco_stuff", True, [0, 12, 89, 91, 181, 255], [0, 11, 79, 80, 170, 255]),
    ("coco_stuff", False, [0, 79, 170, 255], [0, 79, 170, 255]),
  ],
)
def test_labels(tmp_path, kind, published, values, expected):
  write(tmp_path, kind, values, published=published)
  benchmark = benchmarks.open_benchmark(kind, tmp_path)
  assert len(benchmark) == 1 and not benchmark.has_background
  sample = benchmark[0]
  assert sample.id == "a"
  np.testing.assert_array_equal(sample.labels, [expected])


def test_names_stand_where_the_numbers_lead():
  names = {
    kind: benchmarks.class_list(kind)
    for kind in ("ade20k", "cityscapes", "coco_stuff")
  }
  assert [len(n) for n in names.values()] == [150, 19, 171]
  # From the data sets' own tables: ADE20K 150 is a flag, Cityscapes' 26 a car,
  # COCO's category 90 a toothbrush, 92 a banner and 182 wood.
  assert names["ade20k"][149] == "flag"
  assert names["cityscapes"][scenes.CITYSCAPES_IDS.index(26)] == "car"
  stuff = dict(zip(scenes.STUFF_IDS, names["coco_stuff"], strict=True))
  assert (stuff[89], stuff[91], stuff[181]) == ("toothbrush", "banner", "wood")
  assert all(len({x.lower() for x in n}) == len(n) for n in names.values())


@pytest.mark.parametrize(
  ("kind", "value", "message"),
  [
    ("ade20k", 151, "label 151 is out of range"),
    ("cityscapes", 40, "label 40 is out of range"),
    ("coco_stuff", 11, "label 11 is none of coco_stuff's numbers"),
    ("coco_stuff", 182, "label 182 is out of range"),
  ],
)
def test_labels_outside_the_list(tmp_path, kind, value, message):
  _, labels = write(tmp_path, kind, [0, value])
  with pytest.raises(InputError, match=message) as error:
    benchmarks.open_benchmark(kind, tmp_path)[0]
  assert str(labels) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["ade20k", "cityscapes", "coco_stuff"])
def test_faults_of_files_are_one_line(tmp_path, kind):
  def message():
    with pytest.raises(InputError) as error:
      benchmarks.open_benchmark(kind, tmp_path)
    assert "\n" not in str(error.value)
    return str(error.value)

  assert "no such folder" in message()
  photo, labels = write(tmp_path, kind, [1, 1], picture=(3, 2))
  assert "labels are 2x1 but the picture is 2x3" in message()
  photo.unlink()
  assert photo.stem in message() and "is missing" in message()
  save_photo(photo, (1, 2))
  Image.new("RGB", (2, 1)).save(labels)
  assert str(labels) in message() and "have colours" in message()
  labels.unlink()
  assert "has no label maps" in message()


def test_a_wrong_class_list(tmp_path):
  write(tmp_path, "cityscapes", [7])
  with pytest.raises(InputError, match="has 2 names but cityscapes has 19"):
    benchmarks.open_benchmark("cityscapes", tmp_path, class_names=("a", "b"))


def test_the_larger_set_of_label_maps_counts(tmp_path, caplog):
  # A conversion that was broken off must not make the benchmark smaller.
  write(tmp_path, "cityscapes", [7], name="a")
  write(tmp_path, "cityscapes", [8], name="b")
  write(tmp_path, "cityscapes", [0], name="a", published=False)
  benchmark = benchmarks.open_benchmark("cityscapes", tmp_path)
  assert [benchmark[i].labels.item() for i in range(2)] == [0, 1]
