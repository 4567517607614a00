import numpy as np
import pytest
from PIL import Image

from sseg_jax.errors import InputError
from sseg_jax.images import drawing
from sseg_jax.images.palette import palette


def scene(h=60, w=90):
  labels = np.zeros((h, w), np.int32)
  labels[10:40, 10:40] = 1
  labels[20:50, 50:80] = 2
  image = np.full((h, w, 3), 128, np.uint8)
  return image, labels


def test_palette_is_black_for_background_and_distinct():
  colours = palette(21, has_background=True)
  assert tuple(colours[0]) == (0, 0, 0)
  np.testing.assert_array_equal(palette(20, has_background=False), colours[1:])
  apart = np.abs(colours[:, None].astype(int) - colours[None]).sum(-1)
  assert apart[~np.eye(21, dtype=bool)].min() > 60


def test_colours_of_many_classes_repeat():
  for has_background in (True, False):
    colours = palette(600, has_background=has_background)
    assert colours[int(has_background) :].any(1).all()  # black is background's
    few = palette(255, has_background=has_background)
    np.testing.assert_array_equal(colours[:255], few)
  labels = np.array([[0, 255, 256, 599]])
  painted = drawing.colourize(labels, colours)
  np.testing.assert_array_equal(painted[0], colours[labels[0]])


def test_overlay_tints_classes_and_dims_the_background():
  image, labels = scene()
  colours = palette(3, has_background=True)
  painted = drawing.overlay(image, labels, colours, has_background=True)
  assert painted.shape == image.shape and painted.dtype == np.uint8
  expected = 128 + (colours[1].astype(float) - 128) * 0.55
  np.testing.assert_allclose(painted[25, 25], expected, atol=1)
  assert painted[5, 5].max() < 128
  assert painted[10, 25].min() > 150  # the outline


def test_palette_png_holds_the_labels(tmp_path):
  _, labels = scene()
  labels[0, 0] = 255
  colours = palette(3, has_background=True)
  path = tmp_path / "labels.png"
  drawing.save_labels(path, labels, colours)
  with Image.open(path) as image:
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image), labels)
    rgb = np.asarray(image.convert("RGB"))
  np.testing.assert_array_equal(rgb[25, 25], colours[1])


@pytest.mark.parametrize("classes", [255, 256, 300])
def test_labels_png_of_many_classes(tmp_path, classes):
  labels = np.arange(classes, dtype=np.int32)[None].repeat(4, 0)
  colours = palette(classes, has_background=False)
  drawing.save_labels(tmp_path / "x.png", labels, colours)
  with Image.open(tmp_path / "x.png") as image:
    assert image.mode == ("P" if classes < 256 else "I;16")
    np.testing.assert_array_equal(np.asarray(image), labels)


def test_own_files_are_known(tmp_path):
  image, labels = scene()
  drawing.save(tmp_path / "a.png", image)
  drawing.save_labels(
    tmp_path / "b.png", labels, palette(3, has_background=True)
  )
  assert drawing.is_ours(tmp_path / "a.png")
  assert drawing.is_ours(tmp_path / "b.png")
  Image.fromarray(image).save(tmp_path / "c.png")
  (tmp_path / "d.png").write_text("mine")
  assert not any(drawing.is_ours(tmp_path / f"{n}.png") for n in "cde")


def test_overlay_in_bands_is_the_same(monkeypatch):
  image, labels = scene()
  colours = palette(3, has_background=True)
  whole = drawing.overlay(image, labels, colours, has_background=True)
  monkeypatch.setattr(drawing, "_BAND_PIXELS", 7 * 90)
  bands = drawing.overlay(image, labels, colours, has_background=True)
  np.testing.assert_array_equal(whole, bands)


def test_legend_grows_columns_and_cuts_long_names():
  entries = [((i, 0, 0), f"class number {i}", "1.0 %") for i in range(40)]
  one = drawing.legend(entries[:5], height=300)
  many = drawing.legend(entries, height=300)
  assert one.shape[0] == many.shape[0] == 300
  assert many.shape[1] > 2 * one.shape[1]
  long = drawing.legend([((0, 0, 0), "word " * 100, "")], max_width=200)
  assert long.shape[1] < 300


def test_annotated_enlarges_small_pictures():
  image, labels = scene()
  names = ("background", "cat", "potted plant")
  out = drawing.annotated(
    image, labels, names, palette(3, has_background=True), has_background=True
  )
  assert out.shape[0] >= 240 and out.shape[1] > 360


def test_grid_shows_every_sample():
  image, labels = scene()
  guess = labels.copy()
  guess[:5] = 3
  labels[0] = 255
  rows = [(image, labels, guess)] * 5
  names = ("cat", "dog", "tree")
  out = drawing.grid(rows, names, has_background=True, cell=60)
  assert 3 * 40 < out.shape[0] < 3 * 60  # five samples, two a line
  colours = palette(4, has_background=True)  # of those that occur
  flat = out.reshape(-1, 3)
  for colour in colours[1:]:
    assert (flat == colour).all(-1).sum() > 100


def test_curve_is_a_picture(tmp_path):
  pytest.importorskip("matplotlib")
  path = tmp_path / "curve.png"
  drawing.curve(
    path,
    {"voc": ([0.1, 0.5, 0.9], [10.0, 30.0, 20.0])},
    title="mIoU",
    x="threshold",
    y="mIoU",
    mark=(0.5, 30.0, "30 at 0.5"),
  )
  with Image.open(path) as image:
    assert image.size == (900, 570)


def test_unwritable_path_is_named(tmp_path):
  with pytest.raises(InputError, match="absent"):
    drawing.save(tmp_path / "absent" / "x.png", scene()[0])
