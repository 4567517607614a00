"""Figures 11 and 12: which regions are picked, and what is drawn."""

import json

import numpy as np
import pytest
from PIL import Image

from sseg_jax.study import __main__ as command
from sseg_jax.study import figures


def _maps():
  truth = np.zeros((8, 10), int)
  truth[:, 5:], truth[6:, :5] = 2, 1
  teacher, student = truth.copy(), truth.copy()
  teacher[2:5, 6:9] = 0  # missed by the teacher
  student[6:, :2] = 2  # lost by the student
  return truth, teacher, student


def test_the_region_is_the_class_with_the_largest_gain():
  truth, teacher, student = _maps()
  how = dict(ignored=255, has_background=True)
  found = figures.found_by_student(truth, teacher, student, **how)
  assert found == figures.Found(2, 9, (6, 2, 9, 5))
  # What the student loses in the class counts against it.
  student[0, 5:] = 0
  assert figures.found_by_student(truth, teacher, student, **how).pixels == 4
  truth[2:5, 6:9] = 255  # pixels without a true label
  assert figures.found_by_student(truth, teacher, student, **how) is None
  # Background is no region, but a class of its own where there is none.
  ones = np.ones((2, 2), int)
  zeros = 0 * ones
  assert figures.found_by_student(zeros, ones, zeros, **how) is None
  how["has_background"] = False
  assert figures.found_by_student(zeros, ones, zeros, **how).label == 0


def test_a_frame_is_drawn_around_the_box():
  image = np.zeros((40, 60, 3), np.uint8)
  framed = figures.framed(image, (10, 5, 30, 20))
  assert framed[5, 10].any() and framed[19, 29].any()
  assert not framed[6, 11].any() and not framed[4, 9].any()


def _run(folder, teacher, student):
  folder.mkdir()
  result = {
    name: {
      "checkpoint": str(folder),
      "benchmarks": {
        k: {"mIoU": v} for k, v in zip(("a", "b"), scores, strict=False)
      },
    }
    for name, scores in (("teacher", teacher), ("student", student))
  }
  text = json.dumps({**result, "difference": {}})
  (folder / "result.json").write_text(text)
  return folder


def test_figure_12_is_drawn_over_the_sizes(tmp_path, capsys):
  one = _run(tmp_path / "one", (10, 20), (14, 22))
  two = _run(tmp_path / "two", (30, 40), (36,))  # without b
  argv = [
    *("--figure=12", f"--runs=8192={two},4096={one}"),
    f"--out={tmp_path / 'out'}",
  ]
  assert command.main(argv) == 0
  rows = [
    {"pairs": 4096, "teacher": 10.0, "student": 14.0},
    {"pairs": 8192, "teacher": 30.0, "student": 36.0},
  ]
  assert json.loads(capsys.readouterr().out) == rows
  with Image.open(tmp_path / "out" / "figure_12.png") as picture:
    assert picture.width > 500


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--figure=12"], "runs is empty"),
    (["--figure=12", "--runs=runs/a"], "give PAIRS=WORKDIR"),
    (["--figure=12", "--runs=5=a,5=b"], "5 pairs occur twice"),
    (["--figure=12", "--runs=5=nowhere"], "no result of self-training"),
    (["--figure=11", "--runs=plain"], "a run without self_training.teacher"),
    ([], "records is empty"),
  ],
)
def test_what_cannot_be_drawn(flags, message, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "plain").mkdir()
  (tmp_path / "plain" / "result.json").write_text("{}")
  assert command.main([*flags, "--out=out"]) == 2
  assert message in capsys.readouterr().err


def test_figure_11_draws_what_the_rule_picks(tmp_path, monkeypatch, capsys):
  """Two models whose labels are known, on two pictures."""
  from sseg_jax.inference import api

  truth, teacher, student = _maps()
  root = tmp_path / "mine"
  for name in ("images", "labels"):
    (root / name).mkdir(parents=True)
  for name in ("a", "b"):
    Image.new("RGB", (10, 8)).save(root / "images" / f"{name}.png")
    label = Image.fromarray(truth.astype(np.uint8))
    label.save(root / "labels" / f"{name}.png")
  (root / "classes.txt").write_text("background\ncat\ndog\n")

  class Model:
    def __init__(self, labels):
      self.labels = labels

    def segment(self, image, words, *, background):
      assert words == ["cat", "dog"] and background
      return self

  run = _run(tmp_path / "run", (1,), (2,))
  monkeypatch.setattr(
    api,
    "load",
    lambda path: Model(student if "student" in str(path) else teacher),
  )
  argv = [f"--runs={run}", f"--benchmarks={root}", f"--out={tmp_path / 'out'}"]
  assert command.main(["--figure=11", *argv]) == 0
  rows = json.loads(capsys.readouterr().out)
  assert [row["picture"] for row in rows] == ["a", "b"]
  assert rows[0]["class"] == "dog" and rows[0]["box"] == [6, 2, 9, 5]
  assert (tmp_path / "out" / "figure_11.png").is_file()
