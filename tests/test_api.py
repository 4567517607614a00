"""The Python API on a network of three colours; see test_segmenter."""

import itertools
from concurrent import futures

import numpy as np
import pytest
from PIL import Image
from test_segmenter import COLOURS, PARAMS, config, stripes

from sseg_jax.errors import InputError
from sseg_jax.inference.api import Model, Segmentation
from sseg_jax.inference.background import with_background
from sseg_jax.inference.segmenter import SSegSegmenter


def same(one: Segmentation, other: Segmentation) -> None:
  np.testing.assert_array_equal(one.labels, other.labels)
  np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)
  assert one.names == other.names and one.threshold == other.threshold


def test_the_best_synonym_counts(coloured):
  image, labels = stripes(32, 48)
  found = coloured.segment(
    image, {"warm": ["red", "green"], "cold": "blue"}, background=False
  )
  assert found.names == ("warm", "cold")
  # Away from the edges.
  inner = np.abs(np.diff(labels, axis=1, prepend=labels[:, :1])) == 0
  assert (found.labels == (labels == 2))[inner].mean() > 0.9
  # The synonyms of a word do not take scores from each other.
  alone = coloured.segment(
    image, {"warm": ["red"], "cold": "blue"}, background=False
  )
  np.testing.assert_allclose(
    found.scores[:, :8], alone.scores[:, :8], atol=1e-3
  )
  assert found.source.class_set.words == ("red", "green", "blue")


def test_many_pictures_are_as_one_by_one(coloured):
  sizes = [(32, 48), (32, 32), (32, 48), (40, 32), (32, 48), (32, 48)]
  images = [np.roll(stripes(*size)[0], i, 1) for i, size in enumerate(sizes)]
  texts = []
  encode = coloured.segmenter._encode_text
  coloured.segmenter._encode_text = lambda *a: texts.append(1) or encode(*a)
  many = coloured.segment_many(images, COLOURS, batch_size=3)
  assert len(texts) == 1  # the words are encoded once
  for image, found in zip(images, many, strict=True):
    same(found, coloured.segment(image, list(COLOURS)))
    np.testing.assert_array_equal(found.image, image)
  assert coloured.segment_many([], COLOURS) == []
  with pytest.raises(InputError, match="batch_size=0"):
    coloured.segment_many(images, COLOURS, batch_size=0)


def test_frames_come_as_they_are_asked_for(coloured):
  image, _ = stripes(32, 32)
  asked = []

  def video():
    for i in itertools.count():
      asked.append(i)
      yield np.roll(image, i, 1)

  found = list(
    itertools.islice(coloured.segment_frames(video(), COLOURS, batch_size=4), 5)
  )
  assert len(asked) <= 9  # two batches and one that opens the third
  for i, result in enumerate(found):
    same(result, coloured.segment(np.roll(image, i, 1), COLOURS))
  asked.clear()
  one = coloured.segment_frames(video(), COLOURS, batch_size=1)
  next(one)
  assert asked == [0]
  mixed = [image, image, stripes(32, 48)[0], image]
  shapes = [r.labels.shape for r in coloured.segment_frames(mixed, COLOURS)]
  assert shapes == [(32, 32), (32, 32), (32, 48), (32, 32)]
  with pytest.raises(InputError, match="words is empty"):
    coloured.segment_frames(video(), "")


def test_scores_of_one_word_and_its_heat_map(coloured):
  image, _ = stripes(40, 90)
  found = coloured.segment(image, COLOURS)
  scores = coloured.scores(image, COLOURS)
  for index, word in enumerate(COLOURS):
    np.testing.assert_allclose(
      found.word_scores(word), scores[..., index], atol=1e-6
    )
  heat = np.asarray(found.heatmap("green")).astype(int).sum(-1)
  assert heat.shape == (40, 90)
  assert heat[:, 40:50].mean() > 2 * heat[:, :20].mean()
  with pytest.raises(InputError, match="'teal' is none of the words: red"):
    found.heatmap("teal")
  with pytest.raises(InputError, match="none of the words"):
    found.heatmap("background")


def test_another_threshold_needs_no_network(coloured):
  image, _ = stripes(40, 90)
  image[:, 40:50] //= 2  # scores that differ
  found = coloured.segment(image, COLOURS, background=False)
  calls = []
  coloured.segmenter._encode_windows = lambda *a: calls.append(a)
  for threshold in (0.0, 0.5, float(np.median(found.scores)), 2.0):
    other = found.with_threshold(threshold)
    np.testing.assert_array_equal(
      other.labels,
      with_background(
        np.eye(3)[found.labels] * found.scores[..., None], threshold
      ),
    )
    assert other.names == ("background", *COLOURS)
    assert other.threshold == threshold
    assert other.areas["background"] == (other.labels == 0).mean()
    # And from there to a third one.
    same(other.with_threshold(0.3), found.with_threshold(0.3))
  assert not calls
  for bad in (-1.0, float("nan")):
    with pytest.raises(InputError, match="background_threshold"):
      found.with_threshold(bad)


def test_bytes_of_a_result_count_what_it_keeps(coloured):
  image, _ = stripes(32, 48)
  found = coloured.segment(image, COLOURS)
  before = found.nbytes
  assert before == 32 * 48 * (3 + 4 + 4 + 4)
  found.heatmap("red")
  assert found.nbytes > before


def test_masks_of_queries_and_their_words(coloured):
  image, labels = stripes(32, 96)  # several windows
  found = coloured.segment(image, COLOURS)
  assert found.masks and all(query.probability > 0.9 for query in found.masks)
  whole = np.zeros((3, 32, 96), bool)
  for query in found.masks:
    assert query.mask.shape == (32, 96)
    assert query.mask.mean() == pytest.approx(query.area, abs=0.1)
    whole[COLOURS.index(query.name)] |= query.mask
  for index in range(3):
    assert (whole[index] == (labels == index)).mean() > 0.9
  areas = [query.area for query in found.masks]
  assert areas == sorted(areas, reverse=True)


@pytest.mark.parametrize("size", [(32, 48), (70, 200), (5, 7), (1, 3000)])
def test_pseudo_masks_are_the_regions_of_a_picture(coloured, size):
  fields = {"generator": "pixels", "k": 3, "stride": 4, "init": "farthest"}
  coloured.segmenter.config.pseudo_masks.update(fields)
  image, labels = stripes(*size)
  found = coloured.pseudo_masks(image)
  assert found.shape == size and found.min() >= 0 and found.max() < 3
  if min(size) < 32:
    return  # the stripes are not as wide as cells
  for number in range(3):
    inside = labels == number
    one = np.bincount(found[inside], minlength=3)
    assert one.max() > 0.8 * inside.sum()  # away from the edges


def test_a_result_is_a_picture(coloured, tmp_path):
  image, _ = stripes(32, 48)
  found = coloured.segment(Image.fromarray(image), "red, green, blue")
  assert found.overlay(legend=False).size == (48, 32)
  shown = found.show()
  assert isinstance(shown, Image.Image) and shown.width > 48
  assert found._repr_png_().startswith(b"\x89PNG")
  found.save(tmp_path / "a.png")
  with Image.open(tmp_path / "a.png") as saved:
    assert saved.size == shown.size
  found.save_labels(tmp_path / "b.png")
  with Image.open(tmp_path / "b.png") as labels:
    np.testing.assert_array_equal(np.asarray(labels), found.labels)
  with pytest.raises(InputError, match="cannot be written"):
    found.save(tmp_path / "absent" / "a.png")


def test_threads_get_what_one_gets(coloured):
  image, _ = stripes(32, 48)
  words = [[*COLOURS, f"word {i}"] for i in range(24)]
  expected = [coloured.segment(image, some) for some in words]
  other = Model(
    SSegSegmenter(PARAMS, {}, config()),
    templates=("{}",),
    threshold=None,
    step=1,
    metadata={},
  )
  with futures.ThreadPoolExecutor(6) as pool:
    found = list(pool.map(lambda some: other.segment(image, some), words))
  for one, two in zip(expected, found, strict=True):
    same(one, two)


def test_thousands_of_words_are_encoded_in_parts(coloured):
  image, labels = stripes(32, 32)
  words = [*COLOURS, *(f"thing {i}" for i in range(1000))]
  found = coloured.segment(image, words, background=False)
  assert (found.labels == labels).mean() > 0.8


def test_only_some_sets_of_words_are_kept(coloured):
  image, _ = stripes(32, 32)
  for i in range(40):
    coloured.segment(image, [*COLOURS, f"word {i}"])
  assert coloured.segmenter._embeddings.cache_info().currsize <= 16
