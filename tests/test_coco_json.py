"""Instance files as people write them."""

import json

import numpy as np
import pytest
from layouts import box, coco_data, save_photo, write_coco
from PIL import Image

from sseg_jax import benchmarks
from sseg_jax.benchmarks import coco_masks
from sseg_jax.errors import InputError

MASK = {"segmentation": box(0, 0, 2, 2)}


def opened(tmp_path, data):
  write_coco(tmp_path / "coco", data)
  return benchmarks.open_benchmark("coco", tmp_path)


def labels_of(tmp_path, *annotations):
  return opened(tmp_path, coco_data(annotations))[0].labels


@pytest.mark.parametrize("area", [..., None, float("nan"), 0, -1, "9", 10**400])
def test_unusable_areas_are_taken_from_the_mask(tmp_path, area):
  whole = {"segmentation": {"size": [4, 6], "counts": [0, 24]}, "area": area}
  small = {"segmentation": box(0, 0, 2, 2), "area": area, "category_id": 3}
  for order in ((whole, small), (small, whole)):
    labels = labels_of(tmp_path, *order)
    assert (labels == 3).sum() == 4 and (labels == 1).sum() == 20


def test_an_area_that_is_there_decides(tmp_path):
  first = {"segmentation": box(0, 0, 4, 4), "area": 1, "category_id": 3}
  second = {"segmentation": box(0, 0, 2, 2), "area": 2}
  assert (labels_of(tmp_path, first, second) == 3).sum() == 16


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"category_id": 12}, "annotation 0: category_id=12 is not among"),
    ({"category_id": ...}, "annotation 0: category_id is missing"),
    ({"category_id": None}, "annotation 0: category_id=None; give a number"),
    ({"category_id": [1]}, r"annotation 0: category_id=\[1\]"),
    ({"image_id": ...}, "annotation 0: image_id is missing"),
    ({"image_id": None}, "annotation 0: image_id=None"),
    ({"id": ..., "image_id": None}, r"annotation number 1 \(without id\)"),
    ({"iscrowd": 2}, "iscrowd=2 is neither"),
    ({"segmentation": "x"}, "neither polygons nor run lengths"),
    ({"segmentation": [[0, 0, 1, 1, 2]]}, "5 numbers, which are not pairs"),
    ({"segmentation": [[0, 0, 1, 1, 2, None]]}, "not a list of numbers"),
    ({"segmentation": [[0, 0, 1, 1, 2, 1e99]]}, "that no picture has"),
    ({"segmentation": [[0, 0, 1, 1, 2, 10**400]]}, "that no picture has"),
    ({"segmentation": {"size": [4, 6]}}, "no whole numbers"),
    ({"segmentation": {"counts": [24]}}, "size=None"),
    ({"segmentation": {"size": [4, 6], "counts": [23]}}, "not for 6x4"),
    ({"segmentation": {"size": [4, 6], "counts": "~"}}, "character '~'"),
    ({"segmentation": {"size": [4, 6], "counts": "P"}}, "end within"),
    ({"segmentation": {"size": [6, 4], "counts": [24]}}, "are for 4x6 pixels"),
  ],
)
def test_a_bad_annotation_is_named(tmp_path, change, message):
  with pytest.raises(InputError, match=f"val2017.json: .*{message}") as error:
    opened(tmp_path, coco_data([MASK | change]))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"id": ...}, "id is missing"),
    ({"file_name": None}, "file_name=None is no file's name"),
    (
      {"file_name": "a\nb.png"},
      r"the annotated picture 'a\\nb.png' is missing",
    ),
    ({"file_name": "x" * 999}, "is missing"),
    ({"file_name": "\x00\ud800"}, "is missing"),
    ({"width": "6"}, "width='6' is no number of pixels"),
    ({"height": -4}, "height=-4"),
    ({"height": 1e12}, "height=1000000000000.0"),
  ],
)
def test_a_bad_image_is_named(tmp_path, change, message):
  with pytest.raises(InputError, match=message) as error:
    opened(tmp_path, coco_data([MASK], image=change))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("[]", "this is a list"),
    ("[" * 100_000, "not whole JSON"),
    ('{"images": [], "annotations": 3}', "categories is missing or no list"),
    ('{"images": [1], "annotations": [], "categories": []}', r"images\[0\] is"),
    ('{"images": [], "annotations": [], "categories": []}', "lists no images"),
    ('{"images": [], "annotations": [{"caption": ""}]}', "these are captions"),
    ('{"annotations": [{"segments_info": []}]}', "these are panoptic"),
    ('{"images": [], "categories": []}', "without annotations"),
  ],
)
def test_other_files_are_named(tmp_path, text, message):
  with pytest.raises(InputError, match=f"val2017.json: .*{message}"):
    opened(tmp_path, text.encode())


def test_ids_must_differ(tmp_path):
  data = coco_data([MASK])
  data["images"] *= 2
  with pytest.raises(InputError, match="image 7: has the id of the image"):
    opened(tmp_path, data)
  data = coco_data([MASK])
  data["categories"].append({"id": 3, "name": "bus"})
  with pytest.raises(InputError, match="category 3: has the id of .* 'car'"):
    opened(tmp_path, data)


def test_categories(tmp_path):
  data = coco_data([MASK | {"category_id": 5}])
  data["categories"] += [
    {"id": 5, "name": "Traffic_Light "},
    {"id": 6, "name": "unused"},
  ]
  benchmark = opened(tmp_path, data)
  assert benchmark.class_names[benchmark[0].labels.max() - 1] == "traffic light"
  data["annotations"][0]["category_id"] = 6
  with pytest.raises(InputError, match="annotation 0: category 'unused' is"):
    opened(tmp_path, data)


def test_numbers_as_text_and_a_mark(tmp_path):
  data = coco_data([MASK | {"image_id": "7", "category_id": "1"}])
  text = b"\xef\xbb\xbf" + json.dumps(data).encode()
  assert opened(tmp_path, text)[0].labels.sum() == 4


def test_what_is_left_out_is_counted(tmp_path, caplog):
  data = coco_data(
    [
      MASK,
      {"id": 21, "image_id": 8},
      {"id": 22, "segmentation": []},
      {"id": 23},
      {"id": 24, "segmentation": [[1, 1, 3, 3]]},
      {"id": 25, "segmentation": [[1, 1, 2, 2, 3, 3]]},
      {"id": 26, "segmentation": box(0, 0, 2, 300)},
    ]
  )
  assert opened(tmp_path, data)[0].labels.sum() == 8
  text = caplog.text
  assert "1 annotations are of images that the file does not list" in text
  assert "4 annotations have no segmentation" in text
  assert "ids 22, 23, 24 and 1 more" in text
  assert "1 annotations reach out of their image" in text
  assert "76 of the 80 classes are not among the categories" in text


def test_masks_of_no_annotation(tmp_path):
  with pytest.raises(InputError, match="no annotation has a mask"):
    opened(tmp_path, coco_data([{"bbox": [0, 0, 2, 2]}]))


@pytest.mark.parametrize(
  "polygons",
  [
    [0, 0, 2, 0, 2, 2, 0, 2],
    [[0, 0], [2, 0], [2, 2], [0, 2]],
    [[[0, 0], [2, 0], [2, 2], [0, 2]]],
  ],
)
def test_polygons_in_other_brackets(polygons):
  mask = coco_masks.segmentation_mask(polygons, (4, 6))
  assert mask[:2, :2].all() and mask.sum() == 4


def test_a_crossed_outline_is_not_flat():
  bow = coco_masks.parse([[0, 0, 4, 4, 4, 0, 0, 4]])
  assert not bow.flat and bow.paint((4, 4), (4, 4)).any()


def test_huge_run_lengths_are_never_decoded():
  side = 1_000_000
  runs = coco_masks.parse({"size": [side, side], "counts": [side**2 // 2] * 2})
  mask = runs.paint((side, side), (2, 4))
  np.testing.assert_array_equal(mask, [[False, False, True, True]] * 2)


# ------------------------------------------------------------------ file names


@pytest.mark.parametrize(
  "name",
  [
    "val2017/000000000007.png",
    "val2017\\000000000007.png",
    "images/val2017/000000000007.png",
    "C:\\data\\000000000007.png",
    "./000000000007.png",
    "000000000007.PNG",
  ],
)
def test_folders_in_a_file_name(tmp_path, name):
  benchmark = opened(tmp_path, coco_data([MASK], image={"file_name": name}))
  assert benchmark[0].id == "000000000007" and benchmark[0].labels.sum() == 4


def test_pictures_of_one_name_in_two_folders(tmp_path):
  data = coco_data([MASK, MASK | {"image_id": 8, "category_id": 3}])
  data["images"] = [
    {"id": 7, "file_name": "a/1.png"},
    {"id": 8, "file_name": "b/1.png"},
  ]
  for name in ("a", "b"):
    save_photo(tmp_path / "coco" / "val2017" / name / "1.png", (4, 6))
  benchmark = opened(tmp_path, data)
  assert [benchmark[i].id for i in (0, 1)] == ["a/1", "b/1"]
  assert [benchmark[i].labels.max() for i in (0, 1)] == [1, 3]
  data["images"] = [
    {"id": 7, "file_name": "x/000000000007.png"},
    {"id": 8, "file_name": "y/000000000007.png"},
  ]
  with pytest.raises(InputError, match="meant by two images"):
    opened(tmp_path, data)


def test_pictures_without_a_ready_made_map_are_counted(tmp_path, caplog):
  write_coco(tmp_path / "coco", coco_data([MASK]))
  maps = tmp_path / "coco" / "annotations" / "val2017"
  maps.mkdir()
  Image.new("L", (6, 4), 80).save(maps / "000000000007_instanceTrainIds.png")
  save_photo(tmp_path / "coco" / "val2017" / "8.jpg", (4, 6))
  benchmark = benchmarks.open_benchmark("coco", tmp_path)
  assert len(benchmark) == 1 and (benchmark[0].labels == 80).all()
  assert "1 pictures are left out" in caplog.text and "8.jpg" in caplog.text
