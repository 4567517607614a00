"""The report: the paper's figures beside what was run, in one file."""

import html.parser
import json

import numpy as np
import pytest

from sseg_jax import scores
from sseg_jax.benchmarks.sample import Sample
from sseg_jax.benchmarks.table1_rows import PAPER
from sseg_jax.errors import InputError
from sseg_jax.inference import protocols
from sseg_jax.inference.by_protocol import ByProtocol
from sseg_jax.paper_report import gathered, tables, write


class Benchmark:
  """Label maps that are pictures as well: the red channel is the label."""

  class_names = ("cat", "<dog>", "cow")
  has_background, split = True, "val"

  def __init__(self, name):
    self.name = name

  def __len__(self):
    return 6

  def __getitem__(self, index):
    rng = np.random.default_rng(index)
    labels = rng.integers(0, 3, (12, 16)).astype(np.int32)
    image = np.zeros((12, 16, 3), np.uint8)
    image[..., 0] = labels
    image[: 2 * index, :, 0] = 1  # the more so, the worse
    return Sample(f"picture {index}", image, labels)


class Reads:
  """Knows red as the class, except that it takes cow for <dog>."""

  def score_windows(self, windows, class_set):
    found = np.zeros((*windows.shape[:3], 3), np.float32)
    for c in range(3):
      found[..., c] = windows[..., 0] == c + 1
    return found


def run(folder, name, system="clip", protocol="square448"):
  # At the pictures' own size, so that no pixel is between two classes.
  chosen = protocols.find(protocol)
  own = protocols.own(12, 12, "simple")
  chosen = protocols.Protocol(
    **{**own.settings(), "name": protocol, "rule": chosen.rule}
  )
  seen = {}

  def observer(benchmark):
    return seen.setdefault(benchmark.name, gathered.Gathered(benchmark))

  before = write.prepare(folder)
  results = scores.score_all(
    ByProtocol(Reads(), chosen),
    [(Benchmark(name), None)],
    scores.Settings(background_threshold=0.5, observer=observer),
    scores.Origin("simple", {"system": system, "weights": "W"}),
    chosen,
  )
  write.write(folder, before, results, seen)
  return results[name], (folder / write.HTML).read_text()


class Page(html.parser.HTMLParser):
  """The cells of the tables, and the addresses of the pictures."""

  def __init__(self, text):
    super().__init__()
    self.rows, self.sources, self._text = [], [], None
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    if tag == "tr":
      self.rows.append([])
    if tag in ("td", "th"):
      self._text = ""
    self.sources += [v for k, v in attrs if k in ("src", "href")]

  def handle_endtag(self, tag):
    if tag in ("td", "th"):
      self.rows[-1].append(self._text)
      self._text = None

  def handle_data(self, data):
    if self._text is not None:
      self._text += data


@pytest.mark.slow
def test_runs_stand_beside_the_printed_figures(tmp_path):
  first, _ = run(tmp_path, "voc")
  _, text = run(tmp_path, "voc", protocol="tcl")
  page = Page(text)
  # A table of each protocol, and no run in another protocol's.
  rows = [row for row in page.rows if row[0] == "CLIP"]
  ran = f"{first['mIoU']:.2f} (6)"
  assert len(rows) == 4  # Tables 2 and 4, for two protocols
  assert rows[0][:4] == ["CLIP", "13.5", ran, "8.1"]
  assert rows[0][4] == rows[1][2] == "not run" and rows[1][1] == "39.6"
  assert rows[2][2].endswith("(6)")
  assert ["DeepLabV3+, supervised", "78.7", "not run"] in [
    row[:3] for row in page.rows
  ]
  # Nothing is read from elsewhere, and names are text.
  assert page.sources and all(s.startswith("data:") for s in page.sources)
  assert "<dog>" not in text and "&lt;dog&gt;" in text
  # The same run again takes the place of the first.
  run(tmp_path, "voc")
  report = json.loads((tmp_path / write.JSON).read_text())
  assert len(report["runs"]) == 2
  run_ = report["runs"][0]
  assert run_["versions"]["numpy"] and "commit" in run_
  best, worst = (run_["pictures"][k] for k in ("best", "worst"))
  assert best[0]["id"] == "picture 0" and best[0]["mIoU"] == 100
  assert worst[0]["id"] == "picture 5" and len(worst) == 4
  confusion = np.array(run_["confusion"])
  assert confusion.shape == (4, 5) and confusion.sum() == 6 * 12 * 16
  assert run_["confused"][0][1] == "cat"  # what the damage looks like
  assert max(share for *_, share in run_["confused"]) <= 100


def test_printed_figures():
  with_, without = tables.TABLES[0].rows[-4], tables.TABLES[2].rows[4]
  assert with_[:3] == ("S-Seg", "sseg", (53.2, 27.9, 30.3))
  assert without[:3] == ("S-Seg", "sseg", (81.8, 27.2, 42.4))
  assert PAPER["dino"] == {"voc": 78.8, "context": 66.3, "seconds": 0.002}


@pytest.mark.parametrize(
  ("weights", "row"),
  [
    ("dino_vits16", "linearly probed DINO"),
    ("moco_v3_vits16", "linearly probed MoCo v3"),
    ("mine.npz", None),
  ],
)
def test_linear_probes_are_told_apart_by_their_weights(weights, row):
  result = {"system": "linear_probe", "backbone_weights": weights}
  rows = [r.name for t in tables.TABLES for r in t.rows if r.made(result)]
  assert rows == [row] * (row is not None)


def test_another_file_is_not_overwritten(tmp_path):
  (tmp_path / write.JSON).write_text('{"mine": 1}')
  with pytest.raises(InputError, match="is not a report of this version"):
    write.prepare(tmp_path)
