"""Pictures of results: what is drawn, and where."""

import numpy as np
import pytest
from PIL import Image
from test_segmenter import COLOURS, stripes

from sseg_jax import benchmarks, figures
from sseg_jax.data import shapes
from sseg_jax.errors import InputError
from sseg_jax.images.bar_chart import bars
from sseg_jax.images.sheet import sheet

CELL = 230


def cell(picture, row, column):
  """The pixels of one picture of a sheet, without its title."""
  y, x = 10 + 30 + row * (CELL + 40), 10 + column * (CELL + 10)
  return np.asarray(picture)[y : y + CELL, x : x + CELL].astype(int)


def test_a_sheet_scales_pictures_and_puts_them_in_rows():
  red, blue = np.zeros((2, 4, 3), np.uint8), np.zeros((400, 400, 3), np.uint8)
  red[..., 0] = blue[..., 2] = 255
  wide = Image.fromarray(red).convert("P")
  drawn = sheet([("a", wide), ("b " * 99, blue), ("猫", blue)], columns=2)
  assert drawn.size == (10 + 2 * 240, 10 + (30 + CELL + 10) * 2)
  assert (cell(drawn, 0, 0)[: CELL // 2] == [255, 0, 0]).all()
  assert (cell(drawn, 0, 0)[CELL // 2 :] == 255).all()
  assert (cell(drawn, 1, 0) == [0, 0, 255]).all()
  assert (cell(drawn, 1, 1) == 255).all()
  title = np.asarray(drawn)[10:40, 250 : 250 + CELL]
  assert title.min() < 60  # letters
  assert (np.asarray(drawn)[10:40, -10:] == 255).all()  # cut to the cell


def test_heat_maps_and_masks_are_where_the_words_are(coloured):
  image, _ = stripes(48, 48)
  result = coloured.segment(image, [*COLOURS, "teal"])
  heat = figures.heatmaps(result, most=2)
  assert heat.size == (10 + 3 * 240, 10 + 30 + CELL + 10)
  first = result.words.index(max(COLOURS, key=lambda w: result.areas[w]))
  columns = cell(heat, 0, 1).sum((0, 2))
  thirds = [columns[i * 77 : i * 77 + 76].mean() for i in range(3)]
  assert int(np.argmax(thirds)) == first
  masks = figures.query_masks(result, most=1)
  third = COLOURS.index(result.masks[0].name)
  # The mask has its word's colour; the rest is dark.
  height = slice(40, 110)
  middles = [cell(masks, 0, 1)[height, i * 77 + 38].mean() for i in range(3)]
  assert int(np.argmax(middles)) == third


def test_pseudo_masks_stand_beside_the_truth(coloured, tmp_path):
  fields = {"generator": "pixels", "k": 6, "stride": 1, "init": "farthest"}
  coloured.segmenter.config.pseudo_masks.update(fields)
  shapes.write_things(tmp_path / "things", train_size=1, val_size=3)
  benchmark = benchmarks.open_benchmark(str(tmp_path / "things"))
  assert benchmark.split == "val" and benchmark.has_background
  assert benchmarks.open_training(str(tmp_path / "things"), benchmark)
  drawn = figures.pseudo_masks(coloured, benchmark, count=2)
  for row in range(2):
    assert not (cell(drawn, row, 1) == cell(drawn, row, 2)).all()
    same = (cell(drawn, row, 2) == cell(drawn, row, 3)).all(-1).mean()
    assert same > 0.9


def test_things_have_the_numbers_of_their_names(tmp_path):
  root = shapes.write_things(tmp_path, train_size=1, val_size=2)
  names = (root / "classes.txt").read_text().split()
  assert names == ["background", *shapes.THINGS]
  for i in range(2):
    scene = shapes.render("plain", "val", i)
    labels = np.asarray(Image.open(root / "labels" / "val" / f"{i:05d}.png"))
    assert {names[n] for n in np.unique(labels)} - {"background"} == set(
      scene.nouns
    ) & set(shapes.THINGS)
    for noun in set(scene.nouns) & set(shapes.THINGS):
      np.testing.assert_array_equal(
        labels == names.index(noun),
        scene.labels == shapes.CLASS_NAMES.index(noun),
      )


def test_bars_are_as_long_as_their_values(tmp_path):
  pytest.importorskip("matplotlib")
  result = {
    "benchmark": "pets",
    "mIoU": 40.0,
    "images": 3,
    "per_class": {"cat": 20.0, "$dog$": 80.0, "猫" * 40: None},
  }
  drawn = np.asarray(figures.class_scores(result)).astype(int)
  blue = drawn[..., 2] - drawn[..., 0] > 100
  lengths = blue.sum(1)[blue.any(1)]
  # Rows from the top: the long bar, then the short one.
  assert lengths[0] == pytest.approx(4 * lengths[-1], rel=0.05)
  many = {f"class {i}": float(i) for i in range(60)}
  assert bars(many, title="t", x="IoU", highest=100).height > 1500


def test_what_keeps_no_picture_is_not_drawn(coloured):
  import dataclasses

  result = coloured.segment(stripes(32, 48)[0], COLOURS)
  bare = dataclasses.replace(result, image=None)
  for draw in (figures.heatmaps, figures.query_masks):
    with pytest.raises(InputError, match="keeps no picture"):
      draw(bare)
