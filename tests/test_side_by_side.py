"""Figures 3, 8 and 9: what is drawn, and wrong flags."""

import json

import numpy as np
import pytest
from PIL import Image

from sseg_jax.benchmarks.sample import Sample
from sseg_jax.images.palette import palette
from sseg_jax.study import __main__ as study
from sseg_jax.study import side_by_side

CELL, GAP, HEAD = 280, 10, 30


class Pets:
  name, class_names = "pets", ("cat", "dog", "cow")
  has_background, split = True, None

  def __len__(self):
    return 2

  def __getitem__(self, index):
    raise NotImplementedError


def at(picture, row, column):
  """The middle pixel of a cell of square pictures."""
  y = row * (CELL + HEAD + 2 * GAP) + GAP + HEAD + CELL // 2
  x = GAP + column * (CELL + GAP) + CELL // 2
  return np.asarray(picture)[y, x].astype(int)


def test_a_class_has_one_colour_in_all_columns_and_rows():
  def labels(value):
    return np.full((20, 20), value, np.int32)

  black = np.zeros((20, 20, 3), np.uint8)
  truths = [Sample("a", black, labels(3)), Sample("b", black, labels(255))]
  first = list(zip(truths, [labels(1), labels(0)], strict=True))
  second = list(zip(truths, [labels(3), labels(3)], strict=True))
  drawn = side_by_side.side_by_side(Pets(), ("one", "other"), [first, second])
  # Two classes occur: cat and cow take the first two colours.
  cat, cow = palette(2, has_background=False) * side_by_side._OPACITY
  assert np.abs(at(drawn, 0, 1) - cat).max() <= 1
  for row, column in ((0, 2), (0, 3), (1, 2)):
    assert np.abs(at(drawn, row, column) - cow).max() <= 1
  assert (at(drawn, 0, 0) == 0).all() and (at(drawn, 1, 1) == 0).all()
  # Ignored pixels of the truth are light grey.
  grey = at(drawn, 1, 3)
  assert grey.min() > 100 and np.ptp(grey) <= 3
  wide = side_by_side.side_by_side(Pets(), ("one",), [second], with_truth=False)
  assert wide.shape[1] < drawn.shape[1] - CELL


@pytest.fixture
def data(tmp_path):
  """Three pictures with labels, and two folders of predictions."""
  root = tmp_path / "pets"
  for name in ("images", "labels", "right", "wrong"):
    (root / name).mkdir(parents=True)
  (root / "classes.txt").write_text("background\ncat\ndog\n")
  rng = np.random.default_rng(0)
  for i in range(3):
    pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "images" / f"{i}.png")
    labels = rng.integers(0, 3, (40, 50), dtype=np.uint8)
    for name in ("labels", "right"):
      Image.fromarray(labels).save(root / name / f"{i}.png")
    Image.fromarray((labels + 1) % 3).save(root / "wrong" / f"{i}.png")
  return root


def test_figure_9_is_a_command(data, tmp_path, capsys):
  out = tmp_path / "out"
  both = f"predictions={data / 'right'},predictions={data / 'wrong'}"
  argv = [f"--systems={both}", f"--benchmarks={data}", "--pictures=2"]
  assert study.main(["--figure=9", *argv, f"--out={out}"]) == 0
  told = json.loads(capsys.readouterr().out)
  assert told == json.loads((out / "figure_9.json").read_text())
  assert told["figure_9_pets.png"]["pictures"] == ["0", "1"]
  scores = [s["mIoU"] for s in told["figure_9_pets.png"]["systems"]]
  assert scores == [100, 0]
  with Image.open(out / "figure_9_pets.png") as picture:
    # Picture, two systems, truth, and the legend.
    assert picture.width > 4 * (CELL + GAP)
    assert picture.height == 2 * (CELL * 4 // 5 + HEAD + 2 * GAP)
  # The labels of a picture of one's own.
  Image.open(data / "images" / "0.png").save(tmp_path / "cat.jpg")
  (data / "right" / "0.png").rename(data / "right" / "picture.png")
  argv = [f"--systems=predictions={data / 'right'}", "--words=cat, dog"]
  argv += [f"--image={tmp_path / 'cat.jpg'}", f"--out={out}"]
  assert study.main(["--figure=9", *argv]) == 0
  told = json.loads(capsys.readouterr().out)["figure_9_picture.png"]
  assert told["systems"][0]["mIoU"] is None
  assert (out / "figure_9_picture.png").is_file()


@pytest.mark.slow
def test_figures_of_a_run(stored_network, data, tmp_path, capsys):
  run = stored_network / "export"
  argv = [f"--benchmarks={data}", f"--out={tmp_path}", "--pictures=2"]
  runs = f"--runs=S-Seg={run},{run}"
  assert study.main(["--figure=3", runs, *argv]) == 0
  told = json.loads(capsys.readouterr().out)["figure_3_pets.png"]
  assert [s["title"] for s in told["systems"]] == ["S-Seg", "export"]
  assert told["systems"][0]["mIoU"] == told["systems"][1]["mIoU"]
  assert (tmp_path / "figure_3_pets.png").is_file()
  assert study.main(["--figure=8", f"--runs={run}", *argv]) == 0
  assert (tmp_path / "figure_8_pets.png").is_file()


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--figure=9"], "systems is empty"),
    (["--figure=9", "--systems=clop=x"], "'clop=x' is not SYSTEM=PLACE"),
    (["--figure=9", "--systems=clip"], "'clip' is not SYSTEM=PLACE"),
    (["--figure=9", "--systems=clip=x", "--image=a"], "give both, or neither"),
    (["--figure=3"], "runs is empty"),
    (["--figure=3", "--runs=a", "--words=b"], "belong to figure=9"),
    (["--figure=3", "--runs=a", "--pictures=0"], "pictures=0: must be at"),
    (["--figure=8", "--runs=a,b"], "figure=8 takes one run"),
  ],
)
def test_wrong_flags_are_one_line(flags, message, tmp_path, capsys):
  assert study.main([*flags, f"--out={tmp_path / 'out'}"]) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1
