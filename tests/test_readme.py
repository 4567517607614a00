"""README.md is run as it is written, from top to bottom."""

import importlib
import json
import pathlib
import re
import runpy
import shlex

import numpy as np
import pytest
import readme
from layouts import box, coco_data, write_coco
from PIL import Image
from test_evaluate import save_checkpoint

from sseg_jax.data import drawing, shapes

ROOT = pathlib.Path(__file__).parents[1]
# Flags that are added where a command would take long.
SHORTER = {
  "predict": ["--no_compile_cache"],
  "export": ["--format=safetensors", "--images=picture.png"],
  "prepare": ["--workers=0"],
}
# Needs the weights of a transformer, which are downloaded. test_documentation
# checks the flags, and test_eye takes these steps with a small transformer.
NOT_RUN = "--config=configs/photos.py"


def run(command, capsys):
  """Runs a command of this package; returns what it printed."""
  name, arguments = re.fullmatch(
    r"python -m sseg_jax\.(\w+) (.*)", command
  ).groups()
  module = importlib.import_module(f"sseg_jax.{name}")
  capsys.readouterr()
  code = module.main([*shlex.split(arguments), *SHORTER.get(name, [])])
  printed = capsys.readouterr()
  assert code == 0, printed.err
  return printed.out


def voc(root):
  """Writes three pictures of Pascal VOC, one to choose a threshold on."""
  for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
    (root / part).mkdir(parents=True)
  for split, names in {"train": ["a"], "val": ["b", "c"]}.items():
    listing = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    listing.write_text("\n".join(names) + "\n")
    for name in names:
      scene = shapes.render("hard", split, ord(name))
      Image.fromarray(scene.image).save(root / "JPEGImages" / f"{name}.jpg")
      Image.fromarray(scene.labels).save(
        root / "SegmentationClass" / f"{name}.png"
      )


@pytest.fixture
def folder(tmp_path, tiny_config, monkeypatch):
  """A clone's folder with what README.md's commands read."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "configs").symlink_to(ROOT / "configs")
  # With this seed few scores are near to each other; see test_notebook.
  for name in ("quickstart", "photos"):
    save_checkpoint(tmp_path / "runs" / name, tiny_config, seed=3)
  image = shapes.render("plain", "val", 0).image
  Image.fromarray(image).save(tmp_path / "picture.png")
  photos = tmp_path / "PHOTOS"
  photos.mkdir()
  with open(photos / "captions.jsonl", "w", encoding="utf-8") as file:
    for i in range(216):
      colour = tuple(np.random.default_rng(i).integers(0, 256, 3).tolist())
      Image.new("RGB", (32, 32), colour).save(photos / f"{i}.png")
      row = {"file_name": f"{i}.png", "caption": f"a photo of colour {i}"}
      file.write(json.dumps(row) + "\n")
  voc(tmp_path / "DATA" / "VOCdevkit" / "VOC2012")
  # Of the size of the others, so that one program serves all.
  size = (drawing.SIDE, drawing.SIDE)
  annotations = [{"segmentation": box(1, 1, 40, 30)}]
  write_coco(
    tmp_path / "DATA" / "coco", coco_data(annotations, size=size), size=size
  )
  return tmp_path


@pytest.mark.slow
def test_readme_is_run_from_top_to_bottom(folder, capsys):
  text = readme.README.read_text(encoding="utf-8")
  printed = {}
  blocks = list(readme.blocks(text))
  for block in blocks:
    if block.mark:
      # .ci/run executes it, and this suite with it.
      assert (
        f"tests/readme.py {block.mark} " in (ROOT / ".ci" / "run").read_text()
      )
    elif block.language == "python":
      (folder / "block.py").write_text(block.text + "areas = result.areas\n")
      areas = runpy.run_path("block.py")["areas"]
      assert set(areas) == {"star", "heart", "grass"}
    else:
      for line in block.lines():
        if NOT_RUN not in line:
          printed[line] = run(line, capsys)
  for command in readme.inline(text):
    if command.startswith("python ") and "--" in command:
      printed[command] = run(command, capsys)
  for path in (
    "picture_overlay.png",
    "picture_labels.png",
    "exported/safetensors/run.py",
    "records/train",
    "records/val",
    "runs/photos/scores/result.json",
    "runs/photos/scores/predictions_voc.png",
  ):
    assert (folder / path).exists(), path
  scores = json.loads((folder / "runs/photos/scores/result.json").read_text())
  assert set(scores) == {"voc", "coco"}
  assert len(printed) == 4
