"""Folders of pictures and label maps as people have them."""

import struct
import zlib

import numpy as np
import pytest
from layouts import save_photo, write_folder
from PIL import Image

from sseg_jax import benchmarks, evaluate_flags, evaluation
from sseg_jax.errors import InputError
from sseg_jax.images import reader


def opened(root):
  return benchmarks.open_benchmark(str(root))


@pytest.mark.parametrize(
  "first", ["Background", "BACKGROUND ", "bg", "_background_"]
)
def test_background_however_it_is_written(tmp_path, first):
  root = write_folder(tmp_path / "x", classes=f"{first}\r\ncat\r\ndog\r\n\r\n")
  text = (root / "classes.txt").read_bytes()
  (root / "classes.txt").write_bytes(b"\xef\xbb\xbf" + text)
  benchmark = opened(root)
  assert benchmark.has_background and benchmark.class_names == ("cat", "dog")
  assert benchmarks.class_list(str(root / "classes.txt")) == ("cat", "dog")


def test_background_further_down_is_refused(tmp_path):
  root = write_folder(tmp_path / "x", classes="cat\ndog\nBackground\n")
  with pytest.raises(InputError, match="classes.txt:3: 'Background' must be"):
    opened(root)


def test_pictures_of_every_suffix_are_taken(tmp_path, caplog):
  root = write_folder(tmp_path / "x")
  for name in ("b.tif", "c.bmp", "d.JPG", "e.jfif"):
    Image.new("RGB", (3, 2)).save(root / "images" / name)
    Image.new("L", (3, 2)).save(root / "labels" / f"{name[0]}.png")
  (root / "labels" / "d.png").rename(root / "labels" / "d.PNG")
  (root / "images" / "notes.txt").write_text("x")
  (root / "images" / ".DS_Store").write_text("x")
  (root / "images" / "._a.png").write_text("x")
  Image.new("L", (3, 2)).save(root / "labels" / "z.png")
  benchmark = opened(root)
  assert [benchmark[i].id for i in range(len(benchmark))] == list("abcde")
  assert "1 files do not end as pictures do" in caplog.text
  assert "notes.txt" in caplog.text and "DS_Store" not in caplog.text
  assert "1 label maps have no picture" in caplog.text
  assert "z.png" in caplog.text


def test_missing_label_maps_are_counted(tmp_path):
  root = write_folder(tmp_path / "x")
  for name in "bcd":
    save_photo(root / "images" / f"{name}.jpg", (2, 3))
  with pytest.raises(InputError, match=r"labels/b.png.*\(2 more like this\)"):
    opened(root)


def test_sub_folders_and_links(tmp_path):
  root = write_folder(tmp_path / "x")
  whole = write_folder(tmp_path / "whole", labels=np.full((2, 3), 2, np.uint8))
  for part in ("images", "labels"):
    (root / part / "city").symlink_to(whole / part, target_is_directory=True)
  (root / "images" / "again").symlink_to(root / "images")  # no end of folders
  benchmark = opened(root)
  assert [benchmark[i].id for i in range(len(benchmark))] == ["a", "city/a"]
  assert (benchmark[1].labels == 2).all()


def test_pictures_beside_a_split_are_refused(tmp_path):
  root = write_folder(tmp_path / "x")
  save_photo(root / "images" / "val" / "b.png", (2, 3))
  with pytest.raises(InputError, match=r"sub-folder val and pictures .*a.png"):
    opened(root)


def test_home_folder(tmp_path, monkeypatch):
  write_folder(tmp_path / "pets")
  monkeypatch.setenv("HOME", str(tmp_path))
  assert opened("~/pets").name == "pets"
  assert opened("mine=~/pets").name == "mine"
  assert benchmarks.class_list("~/pets/classes.txt") == ("cat", "dog")
  with pytest.raises(InputError, match=f"{tmp_path}/none/VOCdevkit: no "):
    benchmarks.open_benchmark("voc", "~/none")
  flags = evaluate_flags.parser().parse_args(
    ["--checkpoint=x", "--benchmarks=y", "--out=~/out"]
  )
  assert flags.out == tmp_path / "out"


def test_equals_in_a_path_and_names_that_are_no_files(tmp_path):
  root = write_folder(tmp_path / "lr=1" / "pets")
  assert opened(root).name == "pets"
  with pytest.raises(InputError, match="cannot name a file"):
    opened(f"a/b={root}")


# ------------------------------------------------------------------ label maps


def many(count):
  return "background\n" + "".join(f"thing {i}\n" for i in range(1, count))


def test_255_is_a_class_where_there_are_more_labels(tmp_path):
  labels = np.array([[0, 255, 299], [65535, 1, 0]])
  root = write_folder(tmp_path / "x", classes=many(300), labels=labels)
  benchmark = opened(root)
  np.testing.assert_array_equal(benchmark[0].labels, labels)
  assert reader.ignored_label(300) == 65535
  root = write_folder(tmp_path / "y", classes=many(300), labels=labels + 1)
  with pytest.raises(InputError, match="label 300 .* 0..299 and 65535"):
    opened(root)[0]


@pytest.mark.parametrize(("count", "ignored"), [(255, 255), (256, 65535)])
def test_255_labels_are_the_last_that_ignore_255(tmp_path, count, ignored):
  labels = np.array([[0, 254, 255]], np.uint8)
  root = write_folder(tmp_path / "x", classes=many(count), labels=labels)
  benchmark = opened(root)
  names = ("background", *benchmark.class_names)

  class Second:
    """Says class 255, the second last or last, for every pixel."""

    def scores(self, image, class_set):
      scores = np.zeros((*image.shape[:2], len(class_set.names)), np.float32)
      scores[..., 253] = 1
      return scores

  result = evaluation.evaluate(Second(), benchmark, threshold=0.5)
  assert reader.ignored_label(count) == ignored
  # One of the counted pixels is right: two where 255 is ignored, else three.
  expected = 50 if ignored == 255 else 33.33
  assert result["pixel_accuracy"] == expected
  assert result["per_class"][names[254]] == expected


def grey_png(values, bits):
  """A PNG whose grey values take 2 or 4 bits, as optimisers write it."""

  def chunk(kind, data):
    end = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + end

  h, w = values.shape
  rows = np.zeros((h, -(-w * bits // 8) * 8), np.uint8)
  for i in range(bits):
    rows[:, i : w * bits : bits] = values >> (bits - 1 - i) & 1
  rows = np.pad(np.packbits(rows, 1), ((0, 0), (1, 0)))  # with a filter's byte
  head = struct.pack(">IIBBBBB", w, h, bits, 0, 0, 0, 0)
  parts = (
    (b"IHDR", head),
    (b"IDAT", zlib.compress(rows.tobytes())),
    (b"IEND", b""),
  )
  return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_label_maps_of_few_bits_keep_their_numbers(tmp_path, bits):
  values = np.array([[0, 1, 2**bits - 1], [1, 2**bits - 2, 0]])
  (tmp_path / "x.png").write_bytes(grey_png(values, bits))
  labels = reader.read_labels(tmp_path / "x.png", max_label=20)
  np.testing.assert_array_equal(labels, values)


@pytest.mark.parametrize("mode", ["P", "L", "1", "I;16", "tiff"])
def test_label_maps_of_every_mode(tmp_path, mode):
  values = np.array([[0, 1], [1, 0]], np.uint8)
  image = Image.fromarray(values)
  if mode == "P":
    image.putpalette([0, 0, 0, 200, 10, 10])
  elif mode == "1":
    image = Image.fromarray(values.astype(bool))
  elif mode == "I;16":
    image = Image.fromarray(values.astype(np.uint16))
  path = tmp_path / ("x.tif" if mode == "tiff" else "x.png")
  image.save(path)
  labels = reader.read_labels(path, max_label=1)
  np.testing.assert_array_equal(labels, values)
  assert reader.label_size(path) == (2, 2)


def test_label_maps_compressed_with_loss_are_refused(tmp_path):
  root = write_folder(tmp_path / "x")
  image = Image.open(root / "labels" / "a.png")
  image.save(root / "labels" / "a.png", "JPEG")
  with pytest.raises(InputError, match="a.png: is a JPEG, which does not keep"):
    opened(root)


# --------------------------------------------------------------- many classes


def test_pictures_of_300_classes_are_drawn(tmp_path):
  from sseg_jax.benchmarks import report

  labels = np.arange(300).reshape(15, 20)
  labels[0, 0] = 65535
  root = write_folder(tmp_path / "x", classes=many(300), labels=labels)
  benchmark = opened(root)
  sample = benchmark[0]
  out = tmp_path / "out"
  out.mkdir()
  result = {"curve": [{"threshold": 0.5, "mIoU": 1.0}], "threshold": 0.5}
  result["mIoU"] = 1.0
  rows = [(sample.image, sample.labels, np.maximum(sample.labels % 300, 1))]
  report.draw(out, benchmark, result, rows)
  assert (out / "predictions_x.png").is_file()


def test_a_picture_that_cannot_be_written_is_told(tmp_path, capsys):
  from sseg_jax.benchmarks import report

  root = write_folder(tmp_path / "x", classes="cat\n", labels=np.zeros((2, 3)))
  benchmark = benchmarks.open_benchmark(f"{'n' * 250}={root}")
  sample = benchmark[0]
  report.draw(
    tmp_path,
    benchmark,
    {},
    [(sample.image, sample.labels) * 1 + (sample.labels,)],
  )
  error = capsys.readouterr().err
  assert error.startswith("no pictures of nnn") and error.count("\n") == 1
