import json
import shutil

import numpy as np
import pytest
from PIL import Image

from sseg_jax import benchmarks
from sseg_jax.benchmarks import coco
from sseg_jax.benchmarks.sample import without_background
from sseg_jax.errors import InputError


def write_folder(root, *, classes="background\ncat\ndog\n", labels=None):
  (root / "images").mkdir(parents=True)
  (root / "labels").mkdir()
  (root / "classes.txt").write_text(classes)
  labels = np.array([[0, 1, 2], [255, 1, 0]]) if labels is None else labels
  Image.new("RGB", (3, 2), "red").save(root / "images" / "a.png")
  Image.fromarray(labels.astype(np.uint8)).save(root / "labels" / "a.png")
  return root


# -------------------------------------------------------------------- folder


def test_folder_with_background(tmp_path):
  root = write_folder(tmp_path / "pets")
  benchmark = benchmarks.open_benchmark(str(root))
  assert benchmark.name == "pets" and benchmark.has_background
  assert benchmark.class_names == ("cat", "dog")
  (sample,) = (benchmark[i] for i in range(len(benchmark)))
  assert sample.id == "a" and sample.image.shape == (2, 3, 3)
  np.testing.assert_array_equal(sample.labels, [[0, 1, 2], [255, 1, 0]])


def test_folder_without_background(tmp_path):
  root = write_folder(tmp_path / "x", classes="sky\ncat\ndog\n")
  benchmark = benchmarks.open_benchmark(f"mine={root}")
  assert benchmark.name == "mine" and not benchmark.has_background
  assert benchmark.class_names == ("sky", "cat", "dog")
  assert benchmark[0].labels.max() == 255


def test_a_folder_without_splits_is_opened_whole(tmp_path):
  root = write_folder(tmp_path / "x")
  assert benchmarks.open_benchmark(str(root)).split is None
  with pytest.raises(InputError, match="no split='train', since"):
    benchmarks.open_benchmark(str(root), split="train")


@pytest.mark.parametrize("inside", [True, False])
def test_splits_of_a_folder(tmp_path, inside):
  whole = write_folder(tmp_path / "whole")
  root = tmp_path / "x"
  for split, label in (("train", 1), ("valid", 2)):
    for part in ("images", "labels"):
      to = root / part / split if inside else root / split / part
      shutil.copytree(whole / part, to)
    Image.new("L", (3, 2), label).save(to / "a.png")
  (root / "classes.txt").write_text("background\ncat\ndog\n")
  for split, label in (("train", 1), ("val", 2)):
    benchmark = benchmarks.open_benchmark(str(root), split=split)
    assert benchmark.split == split
    assert (benchmark[0].labels == label).all()
  with pytest.raises(InputError, match="no split='test'; there are train, val"):
    benchmarks.open_benchmark(str(root), split="test")


@pytest.mark.parametrize(
  ("break_it", "message"),
  [
    (lambda r: (r / "labels" / "a.png").unlink(), "labels/a.png.*missing"),
    (lambda r: (r / "images" / "a.png").unlink(), "no pictures"),
    (lambda r: (r / "classes.txt").unlink(), "classes.txt"),
    (lambda r: (r / "classes.txt").write_text("a\na\n"), "classes.txt:2"),
    (
      lambda r: (r / "classes.txt").write_text("background\n"),
      "lists only the background",
    ),
    (
      lambda r: Image.new("RGB", (3, 2)).save(r / "images" / "a.jpg"),
      "rename one",
    ),
  ],
)
def test_broken_folder_is_named_at_opening(tmp_path, break_it, message):
  root = write_folder(tmp_path / "x")
  break_it(root)
  with pytest.raises(InputError, match=message):
    benchmarks.open_benchmark(str(root))


@pytest.mark.parametrize(
  ("image", "message"),
  [
    (np.full((2, 3), 3), "label 3 is out of range.*0..2"),
    (np.zeros((2, 4)), "4x2 but the picture is 3x2"),
    (np.zeros((2, 3, 3)), "colours"),
  ],
)
def test_bad_labels_are_named_at_reading(tmp_path, image, message):
  root = write_folder(tmp_path / "x", labels=image)
  with pytest.raises(InputError, match=f"a.png: .*{message}"):
    benchmarks.open_benchmark(str(root))[0]


def test_unreadable_labels(tmp_path):
  root = write_folder(tmp_path / "x")
  (root / "labels" / "a.png").write_bytes(b"no picture")
  with pytest.raises(InputError, match="cannot be read as a label map"):
    benchmarks.open_benchmark(str(root))[0]


# --------------------------------------------------------------------- specs


def test_specs():
  assert benchmarks.parse_specs("voc, coco,a=b") == ["voc", "coco", "a=b"]
  with pytest.raises(InputError, match="names none"):
    benchmarks.parse_specs(" ,")
  with pytest.raises(InputError, match="'voc' occurs twice"):
    benchmarks.parse_specs("voc,voc=elsewhere")
  with pytest.raises(InputError, match="neither a folder nor one of voc"):
    benchmarks.open_benchmark("kitti")
  with pytest.raises(InputError, match="NAME=PATH"):
    benchmarks.open_benchmark("name=")


def test_other_class_names(tmp_path):
  root = write_folder(tmp_path / "x")
  benchmark = benchmarks.open_benchmark(
    str(root), class_names=("kitten", "puppy")
  )
  assert benchmark.class_names == ("kitten", "puppy")
  with pytest.raises(InputError, match="3 names but x has 2"):
    benchmarks.open_benchmark(str(root), class_names=("a", "b", "c"))


def test_class_list_drops_the_background(tmp_path):
  path = tmp_path / "names.txt"
  path.write_text("background\ncat\n")
  assert benchmarks.class_list(str(path)) == ("cat",)
  assert benchmarks.class_list("voc_original")[0] == "aeroplane"


def test_without_background():
  labels = np.array([[0, 1, 20, 255]])
  np.testing.assert_array_equal(without_background(labels), [[255, 0, 19, 255]])


# ----------------------------------------------------------------------- VOC


def test_voc_reads_palette_indices(shared):
  root = shared / "data"
  train = benchmarks.open_benchmark("voc", root, split="train")
  val = benchmarks.open_benchmark("voc", root)
  assert (len(train), len(val)) == (49, 26)
  assert (train.split, val.split) == ("train", "val")
  assert val.class_names[17] == "sofa" and val.class_names[19] == "monitor"
  sample = val[0]
  assert sample.id == "2007_000033" and sample.labels.shape == (366, 500)
  np.testing.assert_array_equal(np.unique(sample.labels), [0, 1, 255])
  reduced = benchmarks.open_benchmark("voc20", root)
  assert not reduced.has_background
  np.testing.assert_array_equal(np.unique(reduced[0].labels), [0, 255])


def test_voc_root_may_be_any_of_three(shared):
  for folder in ("data", "data/VOCdevkit", "data/VOCdevkit/VOC2012"):
    spec = f"voc={shared / folder}"
    assert len(benchmarks.open_benchmark(spec)) == 26


def test_voc_missing_parts(shared, tmp_path):
  with pytest.raises(InputError, match="VOC2012/ImageSets"):
    benchmarks.open_benchmark("voc", tmp_path)
  with pytest.raises(InputError, match="split='test'.*train, val"):
    benchmarks.open_benchmark("voc", shared / "data", split="test")


# ---------------------------------------------------------------------- COCO


def write_coco(root, annotations, size=(4, 6)):
  h, w = size
  (root / "val2017").mkdir(parents=True)
  (root / "annotations").mkdir()
  Image.new("RGB", (w, h)).save(root / "val2017" / "000000000007.jpg")
  image = {"id": 7, "file_name": "000000000007.jpg", "height": h, "width": w}
  data = {
    "images": [image],
    "categories": [
      {"id": 1, "name": "person"},
      {"id": 90, "name": "toothbrush"},
    ],
    "annotations": [
      {"id": i, "image_id": 7, "iscrowd": 0, **a}
      for i, a in enumerate(annotations)
    ],
  }
  path = root / "annotations" / "instances_val2017.json"
  path.write_text(json.dumps(data))
  return root


def box(x0, y0, x1, y1):
  return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def test_smaller_instances_win_and_crowds_lose(tmp_path):
  whole = {"size": [4, 6], "counts": [0, 24]}
  root = write_coco(
    tmp_path / "coco",
    [
      {"category_id": 90, "area": 4, "segmentation": box(1, 1, 3, 3)},
      {"category_id": 1, "area": 16, "segmentation": box(0, 0, 4, 4)},
      {
        "category_id": 90,
        "area": 1,
        "iscrowd": 1,
        "segmentation": whole,
      },
    ],
  )
  labels = benchmarks.open_benchmark("coco", tmp_path)[0].labels
  assert labels.shape == (4, 6) and (labels[:, 5] == 80).all()
  assert labels[0, 0] == 1 and (labels[1:3, 1:3] == 80).all()
  reduced = benchmarks.open_benchmark(f"coco80={root}")
  assert reduced[0].labels[0, 0] == 0 and not reduced.has_background


def test_run_lengths_go_down_columns():
  expected = np.zeros((2, 3), bool)
  expected[1, 0] = expected[0, 1] = True
  plain = {"size": [2, 3], "counts": [1, 2, 3]}
  np.testing.assert_array_equal(coco.segmentation_mask(plain, (2, 3)), expected)
  with pytest.raises(ValueError, match="not for 3x3"):
    coco.segmentation_mask(plain, (3, 3))


def compress(counts):
  """The inverse of `decompress_counts`, written from the format alone."""
  text = ""
  for i, count in enumerate(counts):
    value = count - counts[i - 2] if i > 2 else count
    more = True
    while more:
      bits = value & 0x1F
      value >>= 5
      more = value != (-1 if bits & 0x10 else 0)
      text += chr(bits + 48 + (0x20 if more else 0))
  return text


def test_compressed_run_lengths():
  counts = [0, 5, 100, 3, 70000, 1, 2, 40, 31, 15, 16, 17]
  assert coco.decompress_counts(compress(counts)) == counts
  # pycocotools' encoding of a 2x2 block in a 4x4 picture: runs 5 2 2 2 5.
  assert coco.decompress_counts("52203") == [5, 2, 2, 2, 5]


def test_coco_prefers_ready_made_maps(tmp_path):
  root = write_coco(tmp_path / "coco", [])
  folder = root / "annotations" / "val2017"
  folder.mkdir()
  Image.fromarray(np.full((4, 6), 80, np.uint8)).save(
    folder / "000000000007_instanceTrainIds.png"
  )
  benchmark = benchmarks.open_benchmark("coco", tmp_path)
  assert (benchmark[0].labels == 80).all()


@pytest.mark.parametrize(
  ("break_it", "message"),
  [
    (
      lambda r: (r / "val2017" / "000000000007.jpg").unlink(),
      "07.jpg.*missing",
    ),
    (
      lambda r: (r / "annotations" / "instances_val2017.json").unlink(),
      "instances_val2017.json",
    ),
    (
      lambda r: (r / "annotations" / "instances_val2017.json").write_text("{"),
      "not COCO's",
    ),
  ],
)
def test_broken_coco_is_named(tmp_path, break_it, message):
  root = write_coco(tmp_path / "coco", [])
  break_it(root)
  with pytest.raises(InputError, match=message):
    benchmarks.open_benchmark("coco", tmp_path)


def test_real_coco(shared):
  benchmark = benchmarks.open_benchmark("coco", shared / "data")
  assert len(benchmark) == 100 and len(benchmark.class_names) == 80
  data = json.loads(
    (shared / "data/coco/annotations/instances_val2017.json").read_text()
  )
  names = {c["id"]: c["name"] for c in data["categories"]}
  for i in range(0, 100, 20):
    sample = benchmark[i]
    truth = {
      benchmark.class_names.index(names[a["category_id"]]) + 1
      for a in data["annotations"]
      if a["image_id"] == int(sample.id) and a["area"] > 500
    }
    found = set(np.unique(sample.labels)) - {0}
    assert truth and len(truth & found) >= 0.8 * len(truth)


def test_painted_areas_agree_with_cocos_own(shared):
  """COCO states each instance's area; the polygons come close to it."""
  data = json.loads(
    (shared / "data/coco/annotations/instances_val2017.json").read_text()
  )
  sizes = {im["id"]: (im["height"], im["width"]) for im in data["images"]}
  errors = []
  for a in data["annotations"][:300]:
    if a["area"] < 1000:
      continue
    mask = coco.segmentation_mask(a["segmentation"], sizes[a["image_id"]])
    errors.append(mask.sum() / a["area"] - 1)
  assert np.median(np.abs(errors)) < 0.01
