"""Labels and photos of other sizes, turned or scaled."""

import numpy as np
import pytest
from layouts import box, coco_data, save_photo, write_coco, write_folder
from PIL import Image

from sseg_jax import benchmarks
from sseg_jax.benchmarks import alignment
from sseg_jax.errors import InputError
from sseg_jax.images import reader

STORED = np.arange(24).reshape(4, 6)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_labels_are_turned_as_the_reader_turns_photos(
  tmp_path, orientation, suffix
):
  path = tmp_path / f"photo{suffix}"
  pixels = np.repeat(STORED.astype(np.uint8)[..., None] * 9, 3, -1)
  exif = Image.Exif()
  exif[0x0112] = orientation
  Image.fromarray(pixels).save(path, exif=exif)
  photo = alignment.photo(path)
  assert photo.size == (4, 6) and photo.orientation == orientation
  upright = reader.read_image(path)[..., 0] // 9
  np.testing.assert_array_equal(
    alignment.fit(STORED, orientation, upright.shape), upright
  )
  if orientation >= 5:  # the size tells which of both the labels were made on
    assert alignment.turn_of((4, 6), photo, place="x") == orientation
    assert alignment.turn_of((6, 4), photo, place="x") == 1


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_what_the_size_does_not_tell_is_refused(tmp_path, orientation):
  save_photo(tmp_path / "p.jpg", (4, 6), orientation)
  photo = alignment.photo(tmp_path / "p.jpg")
  for size in ((4, 6), None):
    with pytest.raises(
      InputError, match=rf"p.jpg: EXIF .* {orientation} .* x "
    ):
      alignment.turn_of(size, photo, place="x")
  save_photo(tmp_path / "square.jpg", (4, 4), 6)
  with pytest.raises(InputError, match="before or after"):
    alignment.turn_of((4, 4), alignment.photo(tmp_path / "square.jpg"), place=0)


def test_sizes_of_neither_are_named(tmp_path):
  save_photo(tmp_path / "p.jpg", (4, 6), 6)
  photo = alignment.photo(tmp_path / "p.jpg")
  with pytest.raises(
    InputError, match="x: labels are 5x4 .* 6x4 as stored and 4x6 upright"
  ):
    alignment.turn_of((4, 5), photo, place="x")


def test_ratios_allow_for_rounded_sides():
  for a, b, same in [
    ((427, 640), (300, 450), True),  # 449.6
    ((427, 640), (300, 449), True),
    ((427, 640), (300, 453), False),
    ((640, 427), (427, 640), False),
    ((60, 80), (30, 40), True),
  ]:
    assert alignment._in_ratio(a, b) == alignment._in_ratio(b, a) == same


# ------------------------------------------------------------------ label maps


def test_a_folder_turns_label_maps_with_their_photo(tmp_path):
  labels = np.zeros((4, 6), np.uint8)
  labels[0] = 1
  for at, side in ((labels, "right"), (labels.T, "left")):
    root = write_folder(tmp_path / side, labels=at)
    save_photo(root / "images" / "a.png", (4, 6), orientation=6)
    sample = benchmarks.open_benchmark(str(root))[0]
    assert sample.image.shape[:2] == sample.labels.shape == (6, 4)
    # Turned clockwise, the first row as stored is the last column.
    column = -1 if side == "right" else 0
    assert (sample.labels[:, column] == 1).all() and sample.labels.sum() == 6


def test_a_folder_refuses_at_opening_and_counts(tmp_path):
  root = write_folder(tmp_path / "x", labels=np.zeros((4, 6), np.uint8))
  for name in "bc":
    Image.new("L", (6, 4)).save(root / "labels" / f"{name}.png")
    save_photo(root / "images" / f"{name}.jpg", (4, 6), orientation=3)
  with pytest.raises(InputError, match=r"b.jpg: EXIF .*\(1 more like this\)"):
    benchmarks.open_benchmark(str(root))


def test_labels_of_a_photo_that_is_scaled_down(tmp_path, monkeypatch):
  labels = np.zeros((4, 8), np.uint8)
  labels[:, 4:] = 2
  root = write_folder(tmp_path / "x", labels=labels)
  monkeypatch.setattr(
    reader, "read_image", lambda path: np.zeros((2, 4, 3), np.uint8)
  )
  sample = benchmarks.open_benchmark(str(root))[0]
  np.testing.assert_array_equal(sample.labels, [[0, 0, 2, 2]] * 2)


# ----------------------------------------------------------------------- masks


@pytest.mark.parametrize("as_runs", [False, True])
@pytest.mark.parametrize(
  ("size", "orientation", "rows", "columns"),
  [
    ((8, 12), 1, slice(0, 2), slice(4, 10)),
    ((4, 6), 1, slice(0, 1), slice(2, 5)),
    ((16, 24), 1, slice(0, 4), slice(8, 20)),
    # Turned clockwise: the first rows are the last columns.
    ((8, 12), 6, slice(4, 10), slice(6, 8)),
    ((4, 6), 6, slice(2, 5), slice(3, 4)),
    # Annotated upright, stored lying.
    ((12, 8), 6, slice(0, 2), slice(4, 10)),
  ],
)
def test_masks_follow_their_photo(
  tmp_path, size, orientation, rows, columns, as_runs
):
  segmentation = box(4, 0, 10, 2)
  if as_runs:
    counts = [4 * 8, *[2, 6] * 5, 2, 6 + 2 * 8]
    segmentation = {"size": [8, 12], "counts": counts}
  data = coco_data([{"segmentation": segmentation}], size=(8, 12))
  write_coco(tmp_path / "coco", data, size=size, orientation=orientation)
  sample = benchmarks.open_benchmark("coco", tmp_path)[0]
  assert sample.labels.shape == sample.image.shape[:2]
  expected = np.zeros(sample.labels.shape, int)
  expected[rows, columns] = 1
  np.testing.assert_array_equal(sample.labels, expected)


@pytest.mark.parametrize(
  ("size", "orientation", "message"),
  [
    ((8, 9), 1, "image 7 .*: labels are 12x8 but the picture is 9x8"),
    ((8, 12), 3, "EXIF orientation 3"),
    ((4, 6), 3, "EXIF orientation 3"),
  ],
)
def test_masks_that_cannot_be_placed(tmp_path, size, orientation, message):
  data = coco_data([{"segmentation": box(0, 0, 2, 2)}], size=(8, 12))
  write_coco(tmp_path / "coco", data, size=size, orientation=orientation)
  with pytest.raises(InputError, match=message):
    benchmarks.open_benchmark("coco", tmp_path)


@pytest.mark.parametrize("value", [..., None, float("nan"), 0])
def test_a_missing_size_is_the_photos(tmp_path, value):
  data = coco_data([{"segmentation": box(0, 0, 2, 2)}], image={"width": value})
  write_coco(tmp_path / "coco", data)
  assert benchmarks.open_benchmark("coco", tmp_path)[0].labels.sum() == 4
  # Of a turned photo, only run lengths can tell.
  write_coco(tmp_path / "coco", data, orientation=6)
  with pytest.raises(InputError, match="EXIF"):
    benchmarks.open_benchmark("coco", tmp_path)
  runs = {"size": [4, 6], "counts": [0, 4, 20]}
  data["annotations"][0]["segmentation"] = runs
  write_coco(tmp_path / "coco", data, orientation=6)
  labels = benchmarks.open_benchmark("coco", tmp_path)[0].labels
  assert (labels[0] == 1).all() and labels.sum() == 4
