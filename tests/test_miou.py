import numpy as np
import pytest

from sseg_jax.benchmarks.miou import Confusion, ThresholdConfusions
from sseg_jax.benchmarks.retrieval import retrieval
from sseg_jax.errors import InputError
from sseg_jax.inference.background import apply_threshold


def brute_force_iou(images, classes):
  """Pixel by pixel, from sets of coordinates."""
  truth = {c: set() for c in range(classes)}
  guess = {c: set() for c in range(classes)}
  for number, (labels, predictions) in enumerate(images):
    for place, label in np.ndenumerate(labels):
      if label == 255:
        continue
      truth[label].add((number, place))
      if predictions[place] in guess:
        guess[int(predictions[place])].add((number, place))
  iou = []
  for c in range(classes):
    union = len(truth[c] | guess[c])
    iou.append(len(truth[c] & guess[c]) / union if union else np.nan)
  return np.array(iou)


def test_iou_equals_a_brute_force_count():
  rng = np.random.default_rng(0)
  images = []
  confusion = Confusion(6)
  for shape in [(7, 9), (5, 4), (8, 8)]:
    labels = rng.choice([0, 1, 2, 4, 255], shape)
    predictions = rng.choice([-1, 0, 1, 2, 4, 6, 99], shape)
    images.append((labels, predictions))
    confusion.add(labels, predictions)
  expected = brute_force_iou(images, 6)
  np.testing.assert_allclose(confusion.iou(), expected)
  # Classes 3 and 5 never occur and do not count.
  assert np.isnan(confusion.iou()[[3, 5]]).all()
  mean = 100 * np.mean(expected[[0, 1, 2, 4]])
  assert confusion.mean_iou() == pytest.approx(mean)


def test_counts_are_summed_before_they_are_divided():
  confusion = Confusion(2)
  confusion.add(np.zeros((1, 9), int), np.zeros((1, 9), int))
  confusion.add(np.zeros((1, 1), int), np.ones((1, 1), int))
  assert confusion.iou()[0] == pytest.approx(0.9)
  assert confusion.pixel_accuracy() == pytest.approx(90)


def test_nothing_counted_is_nan():
  confusion = Confusion(2)
  confusion.add(np.full((2, 2), 255), np.zeros((2, 2), int))
  assert np.isnan(confusion.mean_iou()) and np.isnan(confusion.pixel_accuracy())


@pytest.mark.parametrize("label", [3, 254, -1, 65535])
def test_a_label_that_is_no_class_is_an_error(label):
  labels = np.array([[0, 255, label]])
  with pytest.raises(InputError, match=f"label {label} is out of .* 0..2 and"):
    Confusion(3).add(labels, np.zeros((1, 3), int))
  with pytest.raises(InputError, match=f"label {label} is out of"):
    ThresholdConfusions(2, (0.5,)).add(
      labels, np.ones((1, 3), np.float32), np.zeros((1, 3), int)
    )


def test_255_is_a_class_above_255_classes():
  labels, predictions = np.array([[255, 65535, 299]]), np.full((1, 3), 255)
  confusion = Confusion(300)
  confusion.add(labels, predictions)
  assert confusion.counts.sum() == 2 and confusion.counts[255, 255] == 1
  sweep = ThresholdConfusions(299, (0.5,))
  sweep.add(labels, np.ones((1, 3), np.float32), predictions - 1)
  np.testing.assert_array_equal(sweep.at(0.5).counts, confusion.counts)


def test_one_pass_equals_a_pass_for_each_threshold():
  rng = np.random.default_rng(1)
  thresholds = (0.0, 0.3, 0.5, 0.8, 1.0)
  sweep = ThresholdConfusions(3, thresholds)
  separate = {t: Confusion(4) for t in thresholds}
  for top in (0.4, 0.95, 1.0):  # the cap at the best score matters in the first
    labels = rng.choice([0, 1, 2, 3, 255], (12, 10))
    best = (rng.integers(0, 11, (12, 10)) / 10 * top).astype(np.float32)
    index = rng.integers(0, 5, (12, 10))  # some are no class
    sweep.add(labels, best, index)
    for t, confusion in separate.items():
      confusion.add(labels, apply_threshold(best, index, t))
  for t, confusion in separate.items():
    np.testing.assert_array_equal(sweep.at(t).counts, confusion.counts)
  with pytest.raises(ValueError, match="not in the grid"):
    sweep.at(0.25)


def test_retrieval_ranks():
  # Image 0 finds its text second, 1 and 2 first; the scale is irrelevant.
  texts = np.eye(3)
  images = np.array([[0.5, 0.9, 0.0], [0.0, 3.0, 0.0], [0.0, 0.1, 1.0]])
  result = retrieval(images, texts)
  assert result["image_to_text_R@1"] == pytest.approx(200 / 3)
  assert result["image_to_text_R@5"] == 100
  assert result["image_to_text_median_rank"] == 1
  assert result["text_to_image_R@1"] == pytest.approx(100)


def test_ties_and_nan_count_against():
  same = np.ones((12, 4))
  assert retrieval(same, same)["image_to_text_R@10"] == 0
  assert retrieval(same, same)["text_to_image_median_rank"] == 12
  assert retrieval(same * np.nan, same)["image_to_text_R@1"] == 0
