import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sseg_jax import benchmarks, default_config
from sseg_jax.benchmarks import oracle
from sseg_jax.benchmarks.sample import Sample
from sseg_jax.data import shapes
from sseg_jax.errors import InputError
from sseg_jax.pseudo_masks import generator


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
  assert ours.keys() - {"masks_per_image", "mIoU_seeds"} | {"protocol"} == (
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


# ---------------------------------------- against scikit-learn, from one start


def reference_segments(image, *, k, stride, weight, iterations):
  """Clusters cells by scikit-learn in float64, from the farthest points."""
  cluster = pytest.importorskip("sklearn.cluster")
  h, w = (side // stride for side in image.shape[:2])
  colours = image[: h * stride, : w * stride].astype(np.float64) / 255
  colours = colours.reshape(h, stride, w, stride, 3).mean((1, 3))
  y, x = np.mgrid[0:h, 0:w]
  places = np.stack([(y + 0.5) / h, (x + 0.5) / w], -1) * weight
  points = np.concatenate([colours, places], -1).reshape(h * w, 5)
  nearest = ((points - points.mean(0)) ** 2).sum(1)
  centers = []
  for i in range(k):
    centers.append(points[nearest.argmax()])
    distance = ((points - centers[-1]) ** 2).sum(1)
    nearest = distance if i == 0 else np.minimum(nearest, distance)
  found = cluster.KMeans(
    k, init=np.array(centers), n_init=1, max_iter=iterations, tol=0
  )
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that it has not converged
    return found.fit(points).labels_.reshape(h, w)


def reference_score(segments, truths, classes):
  """The mIoU when each segment takes its most frequent class."""
  inter, union = np.zeros(classes), np.zeros(classes)
  for labels, truth in zip(segments, truths, strict=True):
    h, w = truth.shape
    rows = np.arange(h) * labels.shape[0] // h
    columns = np.arange(w) * labels.shape[1] // w
    counted = truth != 255
    cluster, truth = labels[rows][:, columns][counted], truth[counted]
    table = np.zeros((labels.max() + 1, classes))
    np.add.at(table, (cluster, truth), 1)
    for c in range(classes):
      chosen = table.argmax(1) == c
      inter[c] += table[chosen, c].sum()
      union[c] += table[chosen].sum() + table[~chosen, c].sum()
  return 100 * (inter[union > 0] / union[union > 0]).mean()


def check_against_scikit_learn(benchmark, *, image_size, k, stride, weight):
  config = default_config.get_config()
  config.pseudo_masks.update(
    k=k, stride=stride, position_weight=weight, init="farthest"
  )
  seen = {}
  result = oracle.score(
    generator.build(config),
    benchmark,
    image_size=image_size,
    square=True,
    observe=lambda sample, segments: seen.setdefault(sample.id, segments),
  )
  theirs, truths = [], []
  for i in range(len(benchmark)):
    sample = benchmark[i]
    image = Image.fromarray(sample.image)
    image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
    segments = reference_segments(
      np.asarray(image),
      k=k,
      stride=stride,
      weight=weight,
      iterations=config.pseudo_masks.iterations,
    )
    # Float32 may tip a cell that lies between two centers.
    assert (seen[sample.id] != segments).mean() < 0.002
    theirs.append(segments)
    truths.append(sample.labels)
  classes = len(benchmark.class_names) + benchmark.has_background
  expected = reference_score(theirs, truths, classes)
  assert result["mIoU"] == pytest.approx(expected, abs=0.05)


def test_score_of_scenes_equals_scikit_learns():
  scenes = [shapes.render("plain", "val", i) for i in range(12)]
  samples = [
    Sample(str(i), scene.image, scene.labels.astype(np.int32))
    for i, scene in enumerate(scenes)
  ]
  benchmark = Listed(samples)
  benchmark.class_names = shapes.CLASS_NAMES
  check_against_scikit_learn(
    benchmark, image_size=64, k=8, stride=4, weight=0.5
  )


@pytest.mark.slow
@pytest.mark.parametrize("weight", [0.5, 0.0])
def test_score_of_photos_equals_scikit_learns(shared, weight):
  benchmark = benchmarks.open_benchmark("voc", shared / "data")
  check_against_scikit_learn(
    benchmark, image_size=448, k=8, stride=8, weight=weight
  )
