import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sseg_jax.benchmarks import oracle
from sseg_jax.benchmarks.sample import Sample
from sseg_jax.errors import InputError


def ints(rows):
  return np.array(rows, np.int32)


def test_majority_of_the_labelled_pixels():
  # Segment 7 covers the left half: two pixels of 1, one of 2, five ignored.
  labels = ints(
    [[1, 255, 3, 3], [255, 255, 3, 0], [1, 255, 0, 3], [2, 255, 3, 3]]
  )
  predicted = oracle.oracle_labels(ints([[7, -1]]), labels)
  np.testing.assert_array_equal(predicted, ints([[1, 1, 3, 3]] * 4))
  assert predicted.dtype == np.int32


def test_a_segment_without_labels_changes_nothing():
  labels = ints([[255, 255, 4]])
  predicted = oracle.oracle_labels(ints([[0, 0, 1]]), labels)
  assert predicted[0, 2] == 4
  assert (oracle.oracle_labels(labels * 0, labels * 0 + 255) == 0).all()


def test_segments_are_resized_by_the_nearest():
  labels = ints([[0, 0, 1, 1, 1, 1]] * 2)
  # Three cells for six pixels, and back from more cells than pixels.
  np.testing.assert_array_equal(
    oracle.oracle_labels(ints([[5, 6, 6]]), labels), labels
  )
  wide = ints([[0] * 4 + [1] * 8] * 4)
  np.testing.assert_array_equal(oracle.oracle_labels(wide, labels), labels)


@pytest.mark.parametrize(
  ("picture", "expected"),
  [((96, 96), (96, 96)), ((50, 100), (96, 192)), ((99, 66), (144, 96))],
)
def test_segment_size(picture, expected):
  assert oracle.segment_size(*picture, image_size=96, stride=8) == expected


class Halves:
  """A generator of two masks: cells whose red is above the middle, or not."""

  k, stride, frozen = 2, 2, {}

  def generate(self, frozen, image, keys):
    b, h, w, _ = image.shape
    assert keys.shape == (b,)
    red = image[..., 0].reshape(b, h // 2, 2, w // 2, 2).mean((2, 4))
    labels = (red > 127.5).astype(jnp.int32)
    return labels, jnp.stack([(labels == i).any((1, 2)) for i in (0, 1)], 1)


class Listed:
  name, class_names, split = "listed", ("cat", "dog"), None

  def __init__(self, samples, has_background=False):
    self._samples = samples
    self.has_background = has_background

  def __len__(self):
    return len(self._samples)

  def __getitem__(self, index):
    return self._samples[index]


def half(h, w, left, right, name="x"):
  image = np.zeros((h, w, 3), np.uint8)
  image[:, w // 2 :, 0] = 255
  labels = np.full((h, w), left, np.int32)
  labels[:, w // 2 :] = right
  return Sample(name, image, labels)


@pytest.mark.parametrize("batch_size", [1, 32])
def test_scores_a_benchmark_of_mixed_sizes(batch_size):
  wrong = half(8, 8, 0, 1)
  wrong.labels[:2, :4] = 1  # a quarter of the left segment: 8 pixels
  samples = [half(8, 8, 0, 1), half(8, 16, 1, 0), wrong, half(8, 8, 1, 1)]
  calls = []
  result = oracle.score(
    Halves(),
    Listed(samples),
    image_size=8,
    batch_size=batch_size,
    progress=lambda done, total: calls.append((done, total)),
  )
  # Class 0: 32 + 64 + 24 right, 8 false. Class 1: 32 + 64 + 32 + 64, 8 missed.
  assert result["per_class"] == {
    "cat": pytest.approx(100 * 120 / 128, abs=0.01),
    "dog": pytest.approx(100 * 192 / 200, abs=0.01),
  }
  assert result["mIoU"] == pytest.approx((93.75 + 96.0) / 2, abs=0.01)
  assert result["images"] == 4 and result["masks_per_image"] == 2
  assert calls[-1] == (4, 4)


def test_background_is_a_class():
  benchmark = Listed([half(8, 8, 0, 2)], has_background=True)
  result = oracle.score(Halves(), benchmark, image_size=8)
  assert result["per_class"] == {"background": 100, "cat": None, "dog": 100}
  assert result["mIoU"] == 100


def test_has_the_fields_of_an_evaluation():
  from sseg_jax import evaluation

  class Black:
    def scores(self, image, class_set):
      return np.ones((*image.shape[:2], 2), np.float32)

  benchmark = Listed([half(8, 8, 0, 1)])
  ours = oracle.score(Halves(), benchmark, image_size=8)
  assert ours.keys() - {"masks_per_image", "mIoU_seeds"} == (
    evaluation.evaluate(Black(), benchmark).keys()
  )


def test_max_images_are_spread():
  seen = []

  class Watched(Listed):
    def __getitem__(self, index):
      seen.append(index)
      return super().__getitem__(index)

  benchmark = Watched([half(8, 8, 0, 1)] * 6)
  assert (
    oracle.score(Halves(), benchmark, image_size=8, max_images=3)["images"] == 3
  )
  assert seen == [0, 2, 4]


def test_too_small_a_picture():
  with pytest.raises(InputError, match="image_size=1 .*stride"):
    oracle.score(Halves(), Listed([half(8, 8, 0, 1)]), image_size=1)


class Coins(Halves):
  """Two masks by the key alone."""

  def generate(self, frozen, image, keys):
    b, h, w, _ = image.shape
    draw = jax.vmap(
      lambda key: jax.random.bernoulli(key, 0.5, (h // 2, w // 2))
    )
    return draw(keys).astype(jnp.int32), jnp.ones((b, 2), bool)


def test_several_seeds_are_scored_as_one_by_one():
  benchmark = Listed([half(16, 16, 0, 1), half(16, 8, 1, 0)])
  together = oracle.score(Coins(), benchmark, image_size=16, seed=3, seeds=3)
  alone = [
    oracle.score(Coins(), benchmark, image_size=16, seed=seed)["mIoU"]
    for seed in (3, 4, 5)
  ]
  assert together["mIoU_seeds"] == alone and len(set(alone)) > 1
  assert together["mIoU"] == pytest.approx(np.mean(alone), abs=0.01)


def test_square_pictures_and_an_observer():
  seen = []
  oracle.score(
    Halves(),
    Listed([half(8, 24, 0, 1, "a"), half(12, 8, 0, 1, "b")]),
    image_size=8,
    square=True,
    observe=lambda sample, segments: seen.append((sample.id, segments.shape)),
  )
  assert seen == [("a", (4, 4)), ("b", (4, 4))]
