"""Table 1's command on a folder of pictures and a small network."""

import json
import os

import numpy as np
import pytest
import saved_networks
import small_vit
from PIL import Image

from sseg_jax import evaluate
from sseg_jax.benchmarks import table1, table1_rows
from sseg_jax.errors import InputError
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
