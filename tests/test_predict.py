import csv
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image
from test_evaluate import save_checkpoint

from sseg_jax import predict
from sseg_jax.errors import InputError
from sseg_jax.images import drawing, reader, result_files


def test_help_needs_no_jax():
  code = (
    "import sys\n"
    "from sseg_jax import predict\n"
    "try: predict.main(['--help'])\n"
    "except SystemExit: pass\n"
    "assert 'jax' not in sys.modules and 'tensorflow' not in sys.modules\n"
  )
  start = time.perf_counter()
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert "--words" in done.stdout
  assert time.perf_counter() - start < 3


# --------------------------------------------------------------- the command


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["--words=cat,cat"], "repeats number 1"),
    (["--words=cat,,dog"], "word 2 is empty"),
    (["--words= "], "words is empty"),
    (["--words=cat,\udce9t\udce9"], "U+DCE9, which is not UTF-8"),
    (["--words=cat,Background"], "word 2 is 'Background'"),
    (["--words=cat", "--background_threshold=-1"], "a score of 0 or more"),
    (["--words=cat", "--background_threshold=nan"], "a score of 0 or more"),
    (["--words=cat", "--image_size=0"], "image_size=0 is not a multiple of 32"),
    (["--words=cat", "--image_size=100"], "use 96"),
    (["--words=cat"], "a.png: no such picture"),
    (["--words=cat", "--out=x.gif"], "not written as .gif; use one of .png"),
    (["--words=cat", "--out=x.heic"], "not written as .heic"),
    (["--words=cat", "--out=a.svg"], "not written as .svg"),
    (["--words=cat", "--out=a\0b"], "is no folder's name"),
  ],
)
def test_bad_input_is_one_line(tmp_path, capsys, argv, message):
  flags = ["--checkpoint=x", f"--image={tmp_path}/a.png", f"--out={tmp_path}"]
  assert predict.main([*flags, *argv]) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1


def test_window_step():
  from sseg_jax.inference import sliding_window

  assert predict._WINDOW_STEP == sliding_window.PAD
  assert predict._LARGEST_SIZE == sliding_window.LARGEST_SIZE


def test_output_names_never_collide(tmp_path):
  a, b = tmp_path / "a" / "x.jpg", tmp_path / "b" / "X.jpg"
  outputs = result_files.choose([a, b, a], tmp_path / "out")
  names = [path.name for pair in outputs for path in pair[:2]]
  assert len({name.lower() for name in names}) == 6
  assert names[0] == "x_overlay.png"
  with pytest.raises(InputError, match="one file for 2 pictures"):
    result_files.choose([a, b], tmp_path / "out.png")
  long = tmp_path / ("é" * 124 + ".jpg")
  overlay, labels, _ = result_files.choose([long], tmp_path)[0]
  overlay.touch()
  labels.touch()


def test_own_pictures_are_never_written_to(tmp_path, capsys):
  image, overlay, labels = (
    tmp_path / name for name in ("a.png", "a_overlay.png", "a_labels.png")
  )
  grey = np.zeros((4, 4, 3), np.uint8)
  for path in (image, overlay, labels):
    Image.fromarray(grey).save(path)

  def names(images, out=tmp_path):
    chosen = result_files.choose(images, out)
    return [p.name for pair in chosen for p in pair[:2]]

  assert names([image]) == ["a_2_overlay.png", "a_2_labels.png"]
  error = capsys.readouterr().err
  assert "a_overlay.png is no result of this program" in error
  assert "writing a_2_overlay.png, a_2_labels.png instead" in error
  # An earlier result is replaced, but not where it is a picture to segment.
  drawing.save(overlay, grey)
  drawing.save(labels, grey)
  assert names([image]) == ["a_overlay.png", "a_labels.png"]
  assert not capsys.readouterr().err
  assert names([image, overlay])[:2] == ["a_2_overlay.png", "a_2_labels.png"]
  # Nor is what a link points to.
  labels.unlink()
  labels.symlink_to(tmp_path / "elsewhere.png")
  assert names([image])[1] == "a_2_labels.png"
  # A file that the user names is replaced, the labels beside it are guarded.
  Image.fromarray(grey).save(tmp_path / "r.png")
  Image.fromarray(grey).save(tmp_path / "r_labels.png")
  assert names([image], tmp_path / "r.png") == ["r.png", "r_2_labels.png"]
  os.link(image, tmp_path / "same.png")
  with pytest.raises(InputError, match="the picture itself"):
    names([image], tmp_path / "same.png")


@pytest.mark.parametrize("out", ["r.jpg", "r.JPEG", "r.webp", "r.tif", "r.bmp"])
def test_a_picture_name_is_a_file(tmp_path, out):
  ((overlay, labels, _),) = result_files.choose(
    [tmp_path / "a.png"], tmp_path / out
  )
  drawing.save(overlay, np.full((9, 9, 3), 77, np.uint8))
  assert (tmp_path / out).is_file() and labels == tmp_path / "r_labels.png"
  assert reader.read_image(overlay).mean() == pytest.approx(77, abs=1)
  (tmp_path / "d.png").mkdir()
  for folder in (tmp_path / "d.png", f"{tmp_path}/e.png/"):
    pair = result_files.choose([tmp_path / "a.png"], folder)[0]
    assert pair[0].parent.is_dir() and pair[0].name == "a_overlay.png"


class Drawn:
  """Stands in for a model: every word a row of the picture."""

  seen: ClassVar[list] = []

  def class_set(self, words, *, background):
    return words

  def truncated(self, class_set):
    return ()

  def segment(self, image, words, threshold, *, background):
    from sseg_jax.inference.api import Segmentation

    self.seen.append(image.shape)
    named = tuple(words.split(",")) if isinstance(words, str) else (*words,)
    names = (*(["background"] if background else []), *named)
    labels = np.arange(len(image))[:, None].repeat(image.shape[1], 1)
    labels = (labels % len(names)).astype(np.int32)
    areas = dict.fromkeys(names, 0.0)
    scores = np.ones(labels.shape, np.float32)
    threshold = 0.5 if background else None
    return Segmentation(labels, names, scores, areas, threshold, "x", image)


@pytest.fixture
def drawn(monkeypatch):
  from sseg_jax.inference import api

  monkeypatch.setattr(Drawn, "seen", [])
  monkeypatch.setattr(api, "load", lambda *args, **kwargs: Drawn())
  return Drawn.seen


def test_one_bad_picture_stops_no_other(tmp_path, capsys, drawn, monkeypatch):
  files = [str(tmp_path / f"{i}.png") for i in range(4)]
  for i, file in enumerate(files):
    Image.new("RGB", (8, 8 + i)).save(file)
  (tmp_path / "1.png").write_bytes(b"nothing")
  opened = []
  read = reader.read_image

  def counted(path):
    opened.append(path)
    assert len(opened) <= 2 + len(drawn)  # each is done before the next
    return read(path)

  monkeypatch.setattr(reader, "read_image", counted)
  out = tmp_path / "out"
  flags = ["--checkpoint=x", "--words=a,b", f"--out={out}", "--json"]
  images = ["--image", files[0], files[1], "--image", files[2], files[3]]
  assert predict.main([*flags, *images]) == 1
  told = capsys.readouterr()
  results = [json.loads(line) for line in told.out.splitlines()]
  assert [("error" in r, r["image"]) for r in results] == [
    (i == 1, files[i]) for i in range(4)
  ]
  assert "1.png: cannot be read" in told.err and "1 of 4" in told.err
  assert [shape[0] for shape in drawn] == [8, 10, 11]
  opened.clear()
  assert predict.main([*flags, "--image", files[1]]) == 2


def test_folders_patterns_and_a_table(tmp_path, capsys, drawn, monkeypatch):
  from sseg_jax.inference import result

  photos = tmp_path / "photos"
  (photos / "below").mkdir(parents=True)
  for name in ("b.png", "a.JPG", "below/c.png"):
    Image.new("RGB", (8, 8)).save(photos / name, "png")
  (photos / "notes.txt").write_text("no picture")
  drawing.save(photos / "a_overlay.png", np.zeros((8, 8, 3), np.uint8))
  (photos / "bad.png").write_bytes(b"nothing")
  flags = ["--checkpoint=x", "--words=x y,b", f"--out={photos}"]
  both = ["--image", str(photos), f"{photos}/**/*.png", "--heatmaps"]
  heat = Image.new("RGB", (8, 8))
  monkeypatch.setattr(result.Segmentation, "heatmap", lambda self, word: heat)
  assert predict.main([*flags, *both]) == 1
  told = capsys.readouterr()
  assert "1 of 4 pictures failed" in told.err
  assert f"shares of all pictures: {photos}/areas.csv" in told.out
  with (photos / "areas.csv").open(newline="") as file:
    rows = list(csv.DictReader(file))
  names = [pathlib.Path(row["image"]).name for row in rows]
  assert names == ["a.JPG", "b.png", "bad.png", "c.png"]
  assert "cannot be read" in rows[2]["error"] and not rows[2]["b"]
  assert float(rows[0]["x y"]) == 0 and not rows[0]["error"]
  assert (photos / "a_heat_1_x_y.png").is_file()
  # Once more: the results of before are no pictures, and are replaced.
  before = sorted(os.listdir(photos))
  assert predict.main([*flags, *both]) == 1
  assert sorted(os.listdir(photos)) == before
  # A table of somebody else stays.
  (photos / "areas.csv").write_text("image,size\n")
  assert predict.main([*flags, *both]) == 1
  assert (photos / "areas.csv").read_text() == "image,size\n"
  assert (photos / "areas_2.csv").is_file()


@pytest.mark.parametrize(
  ("image", "message"),
  [
    ("{}", "is a folder without pictures"),
    ("{}/*.jpg", "no picture's name matches"),
    ("{}/[a].png", "no picture's name matches"),
    ("{}/a.png", "no such picture"),
  ],
)
def test_no_pictures_are_told(tmp_path, capsys, image, message):
  flags = ["--checkpoint=x", "--words=a", f"--out={tmp_path}/out"]
  assert predict.main([*flags, "--image", image.format(tmp_path)]) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1


def test_a_name_with_brackets_is_a_file(tmp_path, drawn):
  Image.new("RGB", (8, 8)).save(tmp_path / "[a].png")
  flags = ["--checkpoint=x", "--words=a,b", f"--out={tmp_path}/out"]
  assert predict.main([*flags, f"--image={tmp_path}/[a].png"]) == 0


def test_words_of_a_file_and_long_ones(tmp_path, capsys, drawn, monkeypatch):
  Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
  Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
  (tmp_path / "words.txt").write_text("sofa, couch\nsky\n")
  monkeypatch.setattr(Drawn, "truncated", lambda self, given: ("couch",))
  flags = ["--checkpoint=x", f"--out={tmp_path}", "--json", "--no_background"]
  file = f"--words_file={tmp_path}/words.txt"
  assert predict.main([*flags, "--image", str(tmp_path), file]) == 0
  told = capsys.readouterr()
  lines = [json.loads(line) for line in told.out.splitlines()]
  assert [list(line["areas"]) for line in lines] == [["sofa", "sky"]] * 2
  assert told.err.count("'couch' is too long") == 1
  with pytest.raises(SystemExit):
    predict.main([*flags, "--image=a.png", file, "--words=a"])


def test_three_hundred_words(tmp_path, capsys, drawn):
  Image.new("RGB", (8, 310)).save(tmp_path / "a.png")
  words = "--words=" + ",".join(f"word {i}" for i in range(300))
  flags = ["--checkpoint=x", f"--image={tmp_path}/a.png", f"--out={tmp_path}"]
  assert predict.main([*flags, words, "--no_background"]) == 0
  assert "grey PNGs of 16 bits" in capsys.readouterr().err
  with Image.open(tmp_path / "a_labels.png") as image:
    assert np.asarray(image)[:, 0].tolist() == [*range(300), *range(10)]


def test_home_folder_and_a_name_that_is_no_text(
  tmp_path, capfd, drawn, monkeypatch
):
  monkeypatch.setenv("HOME", str(tmp_path))
  Image.new("RGB", (8, 8)).save(tmp_path / "\udce9.png")
  flags = ["--checkpoint=x", "--image=~/\udce9.png", "--out=~/out"]
  assert predict.main([*flags, "--words=cat"]) == 0
  assert len(os.listdir(tmp_path / "out")) == 2


def test_words_cut_to_the_same_prompt():
  from sseg_jax.inference import api
  from sseg_jax.tokenizer import Tokenizer

  class Tokens:
    def tokens(self, class_set):
      rows = Tokenizer(context_length=8)(class_set.prompts)
      return rows.reshape(len(class_set.names), -1, 8)

    def is_cut(self, prompt):
      return len(Tokenizer().encode(prompt)) > 6

  model = api.Model.__new__(api.Model)
  model.segmenter, model.templates = Tokens(), ("{}",)
  model._tell_of_rare = lambda words: None
  assert model.class_set("cat, dog").names == ("cat", "dog")
  lengths = [f"{'a ' * n}cat" for n in (4, 5, 6)]  # of 5, 6 and 7 tokens
  assert model.truncated(model.class_set(lengths)) == (lengths[2],)
  long = "a very long word for a thing"
  with pytest.raises(InputError, match="cat' are the same to this model"):
    model.class_set([f"{long} dog", "bird", f"{long} cat"])
  with pytest.raises(InputError, match="the same to this model"):
    model.class_set("cat &amp; dog, cat & dog")


@pytest.mark.slow
def test_command(tmp_path, tiny_config, capsys, monkeypatch):
  save_checkpoint(tmp_path, tiny_config)
  noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
  for name in ("a.png", "b.png"):
    Image.fromarray(noise).save(tmp_path / name)
  flags = [f"--checkpoint={tmp_path}", "--words=cat, potted plant"]
  images = ["--image", str(tmp_path / "a.png"), str(tmp_path / "b.png")]
  out = tmp_path / "out"
  assert predict.main([*flags, *images, f"--out={out}"]) == 0
  printed = capsys.readouterr().out
  assert "potted plant" in printed and "background" in printed
  assert len(os.listdir(out)) == 5  # areas.csv as well
  single = ["--image", str(tmp_path / "a.png"), f"--out={out / 'one.png'}"]
  rest = ["--no_background", "--json", "--templates=subset"]
  assert predict.main([*flags, *single, *rest]) == 0
  result = json.loads(capsys.readouterr().out)
  assert list(result["areas"]) == ["cat", "potted plant"]
  assert sum(result["areas"].values()) == pytest.approx(1)
  assert result["threshold"] is None
  with Image.open(result["labels"]) as labels:
    assert labels.mode == "P" and labels.size == (40, 30)
    values = np.asarray(labels)
  assert set(np.unique(values)) <= {0, 1}
  assert (values == 0).mean() == pytest.approx(result["areas"]["cat"])


@pytest.mark.slow
def test_api(tmp_path, tiny_config):
  import sseg_jax

  save_checkpoint(tmp_path, tiny_config, thresholds={"default": 0.3})
  model = sseg_jax.load(tmp_path)
  image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
  found = model.segment(image, "cat, dog")
  assert found.threshold == 0.3 and found.labels.shape == (32, 48)
  assert found.names == ("background", "cat", "dog")
  assert found.scores.min() >= 0.5  # the best of two
  without = model.segment(image, ["cat", "dog"], background=False)
  scores = model.scores(image, ["cat", "dog"])
  np.testing.assert_array_equal(without.labels, scores.argmax(-1))
  floats = model.segment(image / 255, "cat, dog")
  np.testing.assert_array_equal(floats.labels, found.labels)
  with pytest.raises(InputError, match="floats are taken as 0..1"):
    model.segment(image.astype(float), "cat")
  with pytest.raises(InputError, match="no pixels"):
    model.segment(image[:0], "cat")
