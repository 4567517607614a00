"""Table 1's command on a folder of pictures and a small network."""

import json
import os

import numpy as np
import pytest
import saved_networks
import small_vit
from PIL import Image
from test_paper_report import Benchmark, Page

from sseg_jax import evaluate
from sseg_jax.benchmarks import table1, table1_rows
from sseg_jax.errors import InputError
from sseg_jax.paper_report import generators, write
from sseg_jax.pseudo_masks import generator


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Three pictures, left half red and right half blue, with their labels."""
  root = tmp_path_factory.mktemp("halves")
  for name in ("images", "labels"):
    (root / name).mkdir()
  (root / "classes.txt").write_text("background\nred\n")
  for i in range(3):
    image = np.zeros((32, 40 + 8 * i, 3), np.uint8)
    labels = np.zeros(image.shape[:2], np.uint8)
    image[:, :20, 0], image[:, 20:, 2] = 255, 255
    labels[:, :20] = 1
    Image.fromarray(image).save(root / "images" / f"{i}.png")
    Image.fromarray(labels).save(root / "labels" / f"{i}.png")
  return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
  return small_vit.write(tmp_path_factory.mktemp("weights") / "vit.npz")


def command(folder, *more):
  return evaluate.main(
    [
      "--oracle",
      f"--benchmarks=halves={folder}",
      "--image_size=32",
      "--time_size=16",
      "--time_batch=2",
      "--k=4",
      *more,
    ]
  )


@pytest.mark.slow
def test_the_command_writes_a_table_and_pictures(
  folder, weights, tmp_path, capsys
):
  out = tmp_path / "out"
  code = command(
    folder,
    "--generators=pixels,spectral,and_keys",
    f"--weights={weights}",
    "--seeds=2",
    f"--out={out}",
  )
  assert code == 2  # the small network has no layer 10
  assert "keys:10" in capsys.readouterr().err
  assert (
    command(
      folder,
      "--generators=pixels,spectral,dino",
      f"--weights={weights}",
      "--seeds=2",
      "--pictures=2",
      f"--out={out}",
    )
    == 0
  )
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in lines[2:]] == [
    "pixels",
    "spectral",
    "dino",
  ]
  # The paper's seconds stand beside ours.
  assert lines[2].split()[-1] == "0.188"
  results = json.loads((out / "result.json").read_text())
  assert results["pixels"]["benchmarks"]["halves"]["mIoU"] > 80
  assert len(results["dino"]["benchmarks"]["halves"]["mIoU_seeds"]) == 2
  assert results["dino"]["seconds_per_image"] > 0
  with Image.open(out / "masks_halves.png") as picture:
    assert picture.size == (4 * 228, 2 * 228)


def test_groups_and_rows_are_chosen():
  assert table1_rows.choose("spectral, pixels") == ["spectral", "pixels"]
  # GroupViT's weights must be given; without them the group leaves it out.
  table = table1_rows.choose("table", "dino=a,groupvit=b")
  assert set(table1_rows.PAPER) < set(table)
  assert set(table) - set(table1_rows.choose("table", "a")) == {"groupvit"}
  assert table1_rows.choose("groupvit") == ["groupvit"]
  assert table1_rows.choose("study")[0] == "plain"
  every = table1_rows.choose("table,study,dino,groupvit")
  assert len(every) == len(table1_rows.ROWS)
  with pytest.raises(InputError, match="generators='dyno' .*dino.*study"):
    table1_rows.choose("dyno")
  with pytest.raises(InputError, match="names none"):
    table1_rows.choose(" ,")


@pytest.mark.parametrize("row", table1_rows.ROWS)
def test_every_row_is_a_configuration(row):
  config = table1_rows.config_of(row, {"k": 5})
  assert config.pseudo_masks.generator in generator.GENERATORS
  assert config.pseudo_masks.k == 5


def test_the_paper_s_plain_form_switches_nothing_on():
  plain = table1_rows.config_of("plain", {}).pseudo_masks
  assert (plain.feature, plain.restarts, plain.upsample) == ("tokens", 1, 1)
  assert (plain.smooth_radius, plain.colour_steps) == (0, 0)


def test_fields_that_do_not_fit():
  with pytest.raises(InputError, match="pseudo_masks.knots=3.*no such field"):
    table1_rows.config_of("dino", {"knots": 3})
  with pytest.raises(InputError, match="pseudo_masks.k='many'"):
    table1_rows.config_of("dino", {"k": "many"})


@pytest.mark.parametrize("flag", ["--seeds=0", "--k=0", "--generators=x"])
def test_wrong_flags_are_told(folder, flag, capsys):
  assert command(folder, flag) == 2
  assert capsys.readouterr().err.startswith("error: ")


def test_seconds_are_per_image():
  made = generator.build(table1_rows.config_of("pixels", {"k": 2}))
  seconds = table1.seconds_per_image(made, image_size=16, batch_size=4)
  assert 0 < seconds < 1


@pytest.mark.slow
def test_the_row_of_groupvit(folder, tmp_path, capsys):
  pytest.importorskip("transformers")
  saved_networks.groupvit(tmp_path / "groupvit")
  flags = ("--generators=groupvit", f"--out={tmp_path}", "--pictures=1")
  weights = f"--weights=groupvit={tmp_path / 'groupvit'}"
  assert command(folder, *flags, weights, "--time_batch=0") == 0
  lines = capsys.readouterr().out.splitlines()
  # As the paper prints it: 0.002 s a picture.
  assert lines[2].split()[0] == "groupvit" and lines[2].endswith("0.002")
  result = json.loads((tmp_path / "result.json").read_text())["groupvit"]
  score = result["benchmarks"]["halves"]
  assert score["images"] == 3 and 0 < score["mIoU"] <= 100
  assert 1 <= score["masks_per_image"] <= 4
  assert (tmp_path / "masks_halves.png").is_file()
  # The file has four groups.
  assert command(folder, *flags, weights, "--k=3") == 2
  assert "makes 4 groups; give k=4" in capsys.readouterr().err
  assert command(folder, *flags) == 2
  assert "give a folder that transformers saved" in capsys.readouterr().err


def test_weights_are_given_by_generator():
  rows = ("pixels", "dino", "plain", "mae")
  assert table1.parse_weights("", rows) == {}
  assert table1.parse_weights("a.npz", ("pixels", "dino", "plain")) == {
    "dino": "a.npz"
  }
  home = table1.parse_weights("dino=~/a.npz", rows)
  assert home == {"dino": os.path.expanduser("~/a.npz")}
  assert table1.parse_weights("dino=a.npz,mae=b.npz", rows) == {
    "dino": "a.npz",
    "mae": "b.npz",
  }
  with pytest.raises(InputError, match="2 networks.*dino=PATH,mae=PATH"):
    table1.parse_weights("a.npz", rows)
  with pytest.raises(InputError, match="'dinov2=b' is not GENERATOR=PATH"):
    table1.parse_weights("dinov2=b", rows)


def test_a_benchmark_without_labels_has_a_dash():
  score = {"mIoU": None, "mIoU_seeds": [None], "masks_per_image": 8.0}
  row = {"benchmarks": {"f": score}, "seconds_per_image": None}
  assert (
    table1.table({"pixels": row}).splitlines()[-1].split()[1:3] == ["-"] * 2
  )


def test_the_command_fills_table_1_of_a_report(folder, tmp_path, capsys):
  report = tmp_path / "report"
  flags = (f"--report={report}", "--generators=pixels", "--time_batch=0")
  assert command(folder, *flags) == 0
  kept = json.loads((report / write.JSON).read_text())
  (entry,) = kept["oracle"]
  assert entry["settings"]["k"] == 4 and entry["settings"]["image_size"] == 32
  assert entry["versions"]["numpy"] and "commit" in entry
  head, spectral, pixels = next(tables_of_masks(report))[:3]
  assert head[2:5] == ["voc, paper", "voc, here (pictures)", "context, paper"]
  assert spectral[2:4] == ["49.2", "not run"] and spectral[-1] == "not run"
  assert pixels[2:4] == ["49.5", "not run"]
  assert head[6] == "halves, here (pictures)"
  assert pixels[6] == f"{entry['result']['mIoU']:.2f} (3)"
  assert pixels[7:] == ["0.188", "not run"]
  # Tables 2 to 4 are there, without a run.
  text = (report / write.HTML).read_text()
  assert "Table 4" in text and kept["runs"] == []
  # Nothing is added to what is no report.
  (report / write.JSON).write_text("[]")
  assert command(folder, *flags) == 2
  assert "is not a report of this version" in capsys.readouterr().err


def tables_of_masks(report):
  """Yields the rows of each Table 1 of a report."""
  rows = Page((report / write.HTML).read_text()).rows
  size = len(table1_rows.PAPER) + 2
  for i, row in enumerate(rows):
    if row[0] == generators.TITLE:
      yield rows[i : i + size]


def test_scores_of_different_settings_do_not_share_a_table(tmp_path):
  before = write.prepare(tmp_path)

  def add(miou, name="voc", split="val", *, row="dino", weights="", **settings):
    nonlocal before
    score = {"benchmark": name, "images": 9, "mIoU": miou}
    score["mIoU_seeds"] = [miou - 1, miou + 1] if miou else [None, None]
    fields = table1_rows.ROWS[row] | {"k": 8, "weights": weights}
    found = {"benchmarks": {name: score}, "fields": fields}
    opened = Benchmark(name)
    opened.split = split
    new = generators.entries(
      row,
      {**found, "seconds_per_image": 0.0123},
      [opened],
      table1.Settings(**{"time_batch": 4, **settings}),
    )
    before = write.write_oracle(tmp_path, before, new)

  add(60.0)
  add(61.0)  # the same again takes the place of the first
  add(62.0, split="train")
  add(63.0, "context")
  add(64.0, weights="mine.npz")
  add(65.0, image_size=224)
  add(66.0, max_images=9)
  add(None, row="mae")
  first, smaller, fewer = tables_of_masks(tmp_path)
  assert first[5][:4] == [
    "K-means of DINO (the paper's)",
    "dino_vits8",
    "78.8",
    "61.00 [60.00-62.00] (9, val)62.00 [61.00-63.00] (9, train)",
  ]
  assert first[5][4:6] == ["66.3", "63.00 [62.00-64.00] (9, val)"]
  assert first[5][7] == "0.0123 (cpu, 4 of 224 pixels)"
  assert first[6][1:4] == ["mine.npz", "78.8", "64.00 [63.00-65.00] (9, val)"]
  assert smaller[5][3].startswith("65.00") and fewer[5][3].startswith("66.00")
  text = (tmp_path / write.HTML).read_text()
  assert "Run here: 224x224 pixels" in text and "9 pictures of each" in text
  # A row that the paper does not have, and nothing that could be scored.
  assert "<td>mae</td><td>mae_vitb16</td>" in text
  assert "<b>-</b>" not in text
  # What was kept is kept by the next call, of whichever kind.
  write.write(tmp_path, write.prepare(tmp_path), {}, {})
  assert write.prepare(tmp_path) == before
