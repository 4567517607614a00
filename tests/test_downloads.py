"""Published downloads, made small by hand, become what the readers take."""

import json

import numpy as np
import pytest
from layouts import box, coco_data, save_photo
from PIL import Image
from scipy import io

from sseg_jax import benchmarks, prepare_benchmark
from sseg_jax.benchmarks import download_plans
from sseg_jax.prompts import CLASS_NAMES


def save_labels(path, values):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(np.array(values, np.uint8)).save(path)


def run(name, source, out, *more):
  return prepare_benchmark.main(
    [name, f"--source={source}", f"--out={out}", *more]
  )


def write_stuff(root, values):
  save_labels(root / "stuffthingmaps/val2017/000000000007.png", values)


def write_instances(root, data):
  (root / "annotations").mkdir(parents=True, exist_ok=True)
  path = root / "annotations" / "instances_val2017.json"
  path.write_text(json.dumps(data))


def test_coco_object_from_both_sources(tmp_path, capsys):
  source, out = tmp_path / "download", tmp_path / "coco"
  # Person, bicycle, toothbrush, nothing; stuff counts as background.
  write_stuff(source, [[0, 1, 89, 255], [0, 91, 181, 12]])
  write_instances(
    source,
    coco_data([{"segmentation": box(0, 0, 1, 2)}], size=(2, 4)),
  )
  assert run("coco", source, out) == 0
  printed = capsys.readouterr().out
  assert "the full data set has 123,287" in printed
  # Bicycle, toothbrush and stop sign are missing in the JSON: 5 of 8 agree.
  assert "62.50 % of the pixels the same label" in printed
  save_photo(out / "val2017" / "000000000007.jpg", (2, 4))
  sample = benchmarks.open_benchmark(f"coco={out}")[0]
  np.testing.assert_array_equal(sample.labels, [[1, 2, 80, 0], [1, 0, 0, 12]])
  assert CLASS_NAMES["coco"][11] == "stop sign"


def test_coco_object_from_instances_is_marked(tmp_path, capsys):
  source, out = tmp_path / "download", tmp_path / "coco"
  write_instances(
    source, coco_data([{"segmentation": box(0, 0, 1, 2)}], size=(2, 4))
  )
  assert run("coco", source, out) == 0
  assert "NOT IDENTICAL" in capsys.readouterr().out
  state = json.loads((out / "prepared_coco.json").read_text())
  assert state["from"] == "instances, not identical" and state["complete"]
  # Label maps of two origins never mix.
  write_stuff(source, [[0, 0, 0, 0], [0, 0, 0, 0]])
  assert run("coco", source, out) == 2
  error = capsys.readouterr().err
  assert "was prepared from instances, not identical" in error


def test_coco_stuff_and_cityscapes(tmp_path):
  write_stuff(tmp_path, [[0, 12, 91, 255]])
  assert run("coco_stuff", tmp_path, tmp_path / "a") == 0
  path = tmp_path / "a/annotations/val2017/000000000007_labelTrainIds.png"
  np.testing.assert_array_equal(Image.open(path), [[0, 11, 80, 255]])
  ids = tmp_path / "gtFine/val/ulm/ulm_0_gtFine_labelIds.png"
  save_labels(ids, [[0, 7, 33, 26]])
  assert run("cityscapes", tmp_path, tmp_path) == 0
  path = ids.with_name("ulm_0_gtFine_labelTrainIds.png")
  np.testing.assert_array_equal(Image.open(path), [[255, 0, 18, 13]])


def detail(segments, phase="val"):
  return {
    "images": [
      {
        "image_id": 2008000002,
        "file_name": "2008_000002.jpg",
        "height": 1,
        "width": 4,
        "phase": phase,
      }
    ],
    "annos_segmentation": [
      {
        "id": i,
        "image_id": 2008000002,
        "category_id": category,
        "segmentation": {"size": [1, 4], "counts": counts},
      }
      for i, (category, counts) in enumerate(segments)
    ],
  }


def test_context(tmp_path, capsys):
  path = tmp_path / "trainval_merged.json"
  # Wood (458) everywhere, then an airplane (2), then sky (360) over a part.
  segments = [(458, [0, 4]), (2, [0, 2, 2]), (360, [1, 1, 2])]
  path.write_text(json.dumps(detail(segments)))
  out = tmp_path / "VOCdevkit"
  assert run("context", path, out) == 0
  assert "there are 1 pictures of val" in capsys.readouterr().out
  save_photo(out / "VOC2010/JPEGImages/2008_000002.jpg", (1, 4))
  benchmark = benchmarks.open_benchmark(f"context={out}")
  np.testing.assert_array_equal(benchmark[0].labels, [[1, 47, 59, 59]])
  assert benchmark.class_names[46] == "sky"
  assert len(download_plans.CONTEXT_IDS) == 60

  path.write_text(json.dumps(detail([(3, [0, 4])])))
  assert run("context", path, tmp_path / "other") == 2
  assert "category 3, which is none of the 59" in capsys.readouterr().err


def write_sbd(root, ids, value=5):
  (root / "cls").mkdir(parents=True)
  for name in ids:
    labels = np.full((4, 6), value, np.uint8)
    struct = {"Segmentation": labels, "Boundaries": np.zeros(2)}
    io.savemat(root / "cls" / f"{name}.mat", {"GTcls": struct})
  (root / "train.txt").write_text("\n".join(ids[:1]))
  (root / "val.txt").write_text("\n".join(ids[1:]))


def test_trainaug(tmp_path, capsys):
  out = tmp_path / "VOCdevkit"
  lists = out / "VOC2012/ImageSets/Segmentation"
  lists.mkdir(parents=True)
  (lists / "train.txt").write_text("a\n")
  (lists / "val.txt").write_text("v\n")
  save_labels(out / "VOC2012/SegmentationClass/a.png", np.full((4, 6), 255))
  write_sbd(tmp_path / "aug", ["a", "b", "v"])
  assert run("voc", tmp_path / "aug", out) == 0
  printed = capsys.readouterr().out
  assert "there are 2 pictures of trainaug" in printed and "10,582" in printed
  # Pictures of val are never trained on.
  assert (lists / "trainaug.txt").read_text() == "a\nb\n"
  assert (lists / "aug.txt").read_text() == "b\n"
  for name in "ab":
    save_photo(out / f"VOC2012/JPEGImages/{name}.jpg", (4, 6))
  benchmark = benchmarks.open_benchmark(f"voc={out}", split="trainaug")
  # VOC's own map where there is one.
  assert [np.unique(s.labels).item() for s in benchmark] == [255, 5]


def test_it_goes_on_where_it_was_stopped(tmp_path, capsys):
  write_stuff(tmp_path, [[0, 1]])
  other = tmp_path / "stuffthingmaps/val2017/000000000008.png"
  save_labels(other, [[0, 29]])
  out = tmp_path / "out"
  assert run("coco", tmp_path, out) == 2
  message = capsys.readouterr().err
  assert f"{other}: label 29 is not a number" in message
  assert message.count("\n") == 1
  state = json.loads((out / "prepared_coco.json").read_text())
  assert not state["complete"]
  save_labels(other, [[0, 30]])
  assert run("coco", tmp_path, out) == 0
  assert "2 label maps, 1 of which were there" in capsys.readouterr().out
  assert not list(out.rglob("*.new"))


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("voc", "has no cls"),
    ("context", "trainval_merged.json: cannot be read"),
    ("coco", "has neither stuffthingmaps"),
    ("coco_stuff", "has no stuffthingmaps"),
    ("cityscapes", "labelIds.png; give the folder of gtFine"),
  ],
)
def test_an_empty_source_is_one_line(tmp_path, capsys, name, message):
  source = tmp_path / "empty"
  source.mkdir()
  assert run(name, source, tmp_path / "out") == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1
