"""Tests of the augmentation: aligned, reproducible, with the right rates."""

import io

import numpy as np
import pytest
from PIL import Image

from sseg_jax.data import augment, decode, import_tensorflow

SCALE, RATIO = (0.4, 1.0), (3 / 4, 4 / 3)


@pytest.fixture(scope="module")
def tf():
  return import_tensorflow()


def _crops(tf, size, seeds, **changes):
  options = {"scale": SCALE, "ratio": RATIO, "flip": 0.5} | changes

  def draw(seed):
    crop = augment.random_crop(tf.constant(size), seed, **options)
    return crop.box, crop.flip

  ds = tf.data.Dataset.from_tensor_slices(seeds).map(draw).batch(len(seeds))
  box, flip = ds.get_single_element()
  return box.numpy(), flip.numpy()


def _seeds(tf, count):
  return tf.stack([tf.range(count), tf.zeros(count, tf.int32)], 1)


@pytest.mark.slow
def test_boxes_lie_inside_and_follow_scale_and_ratio(tf):
  box, flip = _crops(tf, (90, 120), _seeds(tf, 1000))
  np.testing.assert_array_equal(box, np.round(box))
  assert box[:, :2].min() >= 0
  assert (box[:, 0] + box[:, 2]).max() <= 90
  assert (box[:, 1] + box[:, 3]).max() <= 120
  share = box[:, 2] * box[:, 3] / (90 * 120)
  ratio = box[:, 3] / box[:, 2]
  assert 0.39 < share.min() < 0.42
  assert share.max() > 0.9
  assert 0.74 < ratio.min() < 0.8
  assert 1.25 < ratio.max() < 1.35
  # Five standard deviations of a fair coin.
  assert abs(flip.mean() - 0.5) < 5 * 0.5 / np.sqrt(1000)


@pytest.mark.parametrize(
  "sides", [(5, 9), (1, 40), (70, 3), (63, 64), (97, 131), (640, 427)]
)
@pytest.mark.parametrize("size", [4, 16, 48])
def test_shrinking_has_the_bits_of_tensorflows(tf, sides, size):
  """The results of runs must not change."""
  image = np.random.default_rng(0).integers(0, 256, (*sides, 3), np.uint8)
  expected = tf.image.resize(image, [size, size], antialias=True)
  made = augment._shrink(tf.constant(image), size)
  np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_box_has_the_pixels_of_the_whole_picture(tf, subsampling, kind):
  """Where colours have half the resolution, too: at the border of the box."""
  rng = np.random.default_rng(0)
  noise = Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8))
  out = io.BytesIO()
  options = {"subsampling": subsampling} if kind == "JPEG" else {}
  noise.resize((141, 97)).save(out, kind, **options)
  whole = decode.image(out.getvalue()).numpy()
  for _ in range(12):
    h, w = rng.integers(1, 98), rng.integers(1, 142)
    top, left = rng.integers(0, 98 - h), rng.integers(0, 142 - w)
    where = tf.constant([top, left, h, w], tf.float32)
    part, crop = decode.box(
      out.getvalue(), lambda size, w=where: augment.Crop(w, size, False)
    )
    assert crop.size.numpy().tolist() == [97, 141]
    np.testing.assert_array_equal(part, whole[top : top + h, left : left + w])


@pytest.mark.slow
def test_every_place_and_ratio_is_drawn_as_often(tf):
  box, _ = _crops(
    tf, (10, 11), _seeds(tf, 1000), scale=(81 / 110,) * 2, ratio=(1.0, 1.0)
  )
  assert (box[:, 2:] == 9).all()
  for starts, places in ((box[:, 0], 2), (box[:, 1], 3)):
    rates = [(starts == i).mean() for i in range(places)]
    assert sum(rates) == pytest.approx(1)
    # Five standard deviations.
    np.testing.assert_allclose(rates, 1 / places, atol=5 * 0.5 / 1000**0.5)
  box, _ = _crops(tf, (900, 900), _seeds(tf, 2000), scale=(0.3, 0.4))
  ratio = np.log(box[:, 3] / box[:, 2])  # uniform, as torchvision draws it
  assert abs(ratio.mean()) < 5 * np.log(4 / 3) / np.sqrt(3 * 2000)


@pytest.mark.parametrize("flip", [0.0, 1.0, 0.2])
def test_flip_rate(tf, flip):
  _, flipped = _crops(tf, (32, 32), _seeds(tf, 1000), flip=flip)
  assert abs(flipped.mean() - flip) <= 5 * np.sqrt(flip * (1 - flip) / 1000)


@pytest.mark.parametrize(
  ("size", "central"),
  [
    # torchvision: round to the ratio, then (height - h) // 2, (width - w) // 2.
    ((10, 400), (0, 193, 10, 13)),  # 387 columns are free
    ((10, 401), (0, 194, 10, 13)),
    ((400, 10), (193, 0, 13, 10)),
    ((401, 10), (194, 0, 13, 10)),
    ((1, 1), (0, 0, 1, 1)),
  ],
)
def test_extreme_shapes_fall_back_to_the_centre(tf, size, central):
  box, _ = _crops(tf, size, _seeds(tf, 20), scale=(0.9, 1.0))
  assert (box == central).all()


@pytest.mark.parametrize("label_scale", [1, 2])
def test_picture_and_labels_stay_aligned(tf, label_scale):
  """A chessboard cut, resized and flipped as picture and as label map."""
  rows, columns = np.indices((96, 144)) // 24
  board = ((rows + columns) % 2).astype(np.uint8)
  image = tf.constant(np.repeat(board[..., None] * 255, 3, -1))
  labels = tf.constant(board[::label_scale, ::label_scale])
  flips = set()
  for i in range(20):
    crop = augment.random_crop(
      tf.shape(image)[:2], [i, 7], scale=SCALE, ratio=RATIO, flip=0.5
    )
    flips.add(bool(crop.flip))
    seen = augment.crop_image(image, crop, 64).numpy()[..., 0]
    told = augment.crop_labels(labels, crop, 64).numpy()
    # Antialiased edges are grey; everywhere else the two must agree.
    sure = np.abs(seen - 127.5) > 70
    assert sure.mean() > 0.85
    assert np.mean((seen > 127.5)[sure] == told[sure]) > 0.998
    assert np.mean((seen > 127.5) == told) > 0.97
  assert flips == {True, False}


def test_labels_at_lower_size_take_the_centre(tf):
  labels = np.arange(64, dtype=np.uint8).reshape(8, 8)
  crop = augment.Crop(
    tf.constant([0.0, 0.0, 80.0, 80.0]),
    tf.constant([80.0, 80.0]),
    tf.constant(False),
  )
  out = augment.crop_labels(tf.constant(labels), crop, 8)
  np.testing.assert_array_equal(out, labels)
  mirrored = augment.Crop(crop.box, crop.size, tf.constant(True))
  out = augment.crop_labels(tf.constant(labels), mirrored, 8)
  np.testing.assert_array_equal(out, labels[:, ::-1])


def test_whole_picture_at_its_size_is_unchanged(tf):
  image = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
  crop = augment.Crop(
    tf.constant([0.0, 0.0, 12.0, 12.0]),
    tf.constant([12.0, 12.0]),
    tf.constant(False),
  )
  out = augment.to_uint8(augment.crop_image(tf.constant(image), crop, 12))
  np.testing.assert_array_equal(out, image)


def test_shrinking_averages(tf):
  # Without antialiasing only the two middle columns of four would be seen.
  stripes = np.tile(np.array([0, 255, 255, 0], np.uint8), 16)
  image = tf.constant(np.broadcast_to(stripes[None, :, None], (64, 64, 3)))
  crop = augment.Crop(
    tf.constant([0.0, 0.0, 64.0, 64.0]),
    tf.constant([64.0, 64.0]),
    tf.constant(False),
  )
  out = augment.crop_image(image, crop, 16).numpy()
  np.testing.assert_allclose(out[1:-1, 1:-1], 127.5, atol=1)


def test_bytes_are_rounded_and_clipped(tf):
  got = augment.to_uint8(tf.constant([-3.0, 0.4, 0.6, 254.7, 300.0]))
  np.testing.assert_array_equal(got, [0, 0, 1, 255, 255])


def test_seeds_reproduce(tf):
  one = _crops(tf, (50, 60), _seeds(tf, 5))
  two = _crops(tf, (50, 60), _seeds(tf, 5))
  np.testing.assert_array_equal(one[0], two[0])
  assert len({tuple(box) for box in one[0]}) > 1


def test_photometric_changes_within_its_strength(tf):
  rng = np.random.default_rng(0)
  image = tf.constant(rng.uniform(0, 255, (16, 16, 3)).astype(np.float32))
  still = augment.photometric(image, [1, 2], 0.0)
  np.testing.assert_allclose(still, image, atol=0.01)
  weak = np.abs(augment.photometric(image, [1, 2], 0.1) - image).mean()
  strong = augment.photometric(image, [1, 2], 1.0)
  assert 0 < weak < np.abs(strong - image).mean()
  assert strong.numpy().min() >= 0
  assert strong.numpy().max() <= 255
  np.testing.assert_array_equal(strong, augment.photometric(image, [1, 2], 1.0))


def test_photometric_brightness_range(tf):
  grey = tf.fill([4, 4, 3], 100.0)  # contrast, saturation, hue leave it alone
  ds = tf.data.Dataset.range(200).map(
    lambda i: tf.reduce_mean(augment.photometric(grey, tf.stack([i, 0]), 1.0))
  )
  means = [float(mean) for mean in ds]
  assert 60 <= min(means) < 70
  assert 130 < max(means) <= 140


def test_photometric_changes_saturation(tf):
  """Of a flat picture all three factors scale how far it is from grey."""
  flat = tf.constant(np.full((1, 1, 3), (130.0, 100.0, 100.0), np.float32))
  ds = tf.data.Dataset.range(400).map(
    lambda i: augment.photometric(flat, tf.stack([i, 0]), 1.0)
  )
  spread = np.array([np.ptp(image.numpy()) / 30 for image in ds])
  # Two factors alone reach from 0.36 to 1.96.
  assert 0.6**3 < spread.min() < 0.33 and 2.05 < spread.max() < 1.4**3


@pytest.mark.parametrize("size", [(20, 40), (40, 20), (7, 7), (16, 17)])
def test_central_square(tf, size):
  image = tf.zeros([*size, 3], tf.uint8)
  assert augment.central_square(image, 16).shape == (16, 16, 3)


def test_central_square_is_the_middle(tf):
  wide = np.random.default_rng(0).integers(0, 256, (12, 19, 3), np.uint8)
  for image, middle in (
    (wide, wide[:, 3:15]),
    (wide.swapaxes(0, 1), wide[:, 3:15].swapaxes(0, 1)),
  ):
    got = augment.to_uint8(augment.central_square(tf.constant(image), 12))
    np.testing.assert_array_equal(got, middle)
