"""Lists of Pascal VOC as people have them."""

import codecs

import pytest
from layouts import write_voc
from PIL import Image

from sseg_jax import benchmarks
from sseg_jax.errors import InputError

A, B = "2007_000001", "2007_000002"


def opened(root):
  return benchmarks.open_benchmark(f"voc={root}")


@pytest.mark.parametrize(
  "listing",
  [
    f"{A}\n{B}\n".encode(),
    codecs.BOM_UTF8 + f"{A}\r\n{B}\r\n".encode(),
    f"{A}\n{B}\n".encode("utf-16"),
    f"\n  {A}  \n\n{B}".encode(),
    f"{A}.jpg\n{B}.JPG\n".encode(),
    f"{A}  1\n{B} -1\n".encode(),
    f"JPEGImages/{A}.jpg\nVOC2012/JPEGImages/{B}.jpg\n".encode(),
    f"{A},/SegmentationClass/{A}.png\n{B}\n".encode(),
    f"\\JPEGImages\\{A}.jpg SegmentationClass\\{A}.png\n{B}\n".encode(),
    f"/JPEGImages/{A}.jpg /SegmentationClass/{A}.png\n"
    f"/JPEGImages/{B}.jpg\t/SegmentationClass/{B}.png\n".encode(),
  ],
)
def test_lists(tmp_path, listing):
  benchmark = opened(write_voc(tmp_path, listing, names=(A, B)))
  assert [benchmark[i].id for i in range(len(benchmark))] == [A, B]
  assert (benchmark[1].labels == 15).all()


def test_the_second_column_is_the_label_map(tmp_path, caplog):
  listing = f"/JPEGImages/{A}.jpg /SegmentationClassAug/{A}.png\n"
  root = write_voc(tmp_path, listing.encode())
  assert opened(root)[0].labels.max() == 15
  assert "1 label maps of its second column are not there" in caplog.text
  augmented = root / "VOC2012" / "SegmentationClassAug"
  augmented.mkdir()
  Image.new("L", (6, 4), 3).save(augmented / f"{A}.png")
  assert opened(root)[0].labels.max() == 3


def test_a_picture_counts_once(tmp_path, caplog):
  listing = f"{A}\n{A}.jpg\n{B}\n".encode()
  assert len(opened(write_voc(tmp_path, listing, names=(A, B)))) == 2
  assert f"1 lines repeat a picture, which counts once: {A}" in caplog.text


def test_pictures_of_other_names(tmp_path):
  root = write_voc(tmp_path, "photo one\ncafe\u0301\n".encode())
  for stem, suffix in (("photo one", ".png"), ("caf\u00e9", ".JPEG")):
    folder = root / "VOC2012"
    Image.new("RGB", (6, 4)).save(folder / "JPEGImages" / (stem + suffix))
    Image.new("L", (6, 4)).save(folder / "SegmentationClass" / f"{stem}.png")
  assert [opened(root)[i].id for i in range(2)] == ["photo one", "caf\u00e9"]


@pytest.mark.parametrize(
  ("listing", "message"),
  [
    (b"none\nmore\n", r"val.txt:1: the picture 'none' .*\(1 more like this\)"),
    (b"", "the list is empty"),
    (b"\xff\xff", "not UTF-8"),
    (f"{A} 1 2 3\n".encode(), "val.txt:1: .* has 4 columns"),
    (f"{A} person\n".encode(), "val.txt:1: 'person' is neither"),
    (f"{A}\x00\n".encode(), "val.txt:1: the picture"),
    (b"x" * 5000, "val.txt:1: the picture"),
  ],
)
def test_bad_lists_are_named(tmp_path, listing, message):
  with pytest.raises(InputError, match=message):
    opened(write_voc(tmp_path, listing))


def test_a_missing_label_map_is_named_at_opening(tmp_path):
  root = write_voc(tmp_path, f"{A}\n".encode())
  (root / "VOC2012" / "SegmentationClass" / f"{A}.png").unlink()
  with pytest.raises(InputError, match=f"Class/{A}.png: .* missing"):
    opened(root)
