import types

import jax.numpy as jnp
import numpy as np
import pytest

from sseg_jax import baselines
from sseg_jax.baselines import global_words
from sseg_jax.baselines.global_words import GlobalWords, deal
from sseg_jax.errors import InputError
from sseg_jax.inference import segmenter
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.inference.segmenter import Segmenter
from sseg_jax.tokenizer import Tokenizer

COLOURS = ("red", "green", "blue")
WORDS = ClassSet(COLOURS, ("{}",))


def test_the_largest_mask_gets_the_best_word():
  similarity = np.array([[0.1, 0.9, 0.5]], np.float32)
  segments = np.array([[[0, 2, 2], [2, 1, 1]]], np.int32)
  valid = np.ones((1, 3), bool)
  # Areas 1 2 3: words 1 2 0 go to masks 2 1 0.
  assert deal(similarity, segments, valid).tolist() == [[0, 2, 1]]


def test_words_are_dealt_again_and_missing_masks_come_last():
  similarity = np.array([[0.9, 0.5], [0.5, 0.9]], np.float32)
  segments = np.zeros((2, 2, 2), np.int32)
  segments[:, 0, 0] = 3
  segments[:, 0, 1] = 1
  valid = np.array([[1, 1, 0, 1]] * 2, bool)
  # Order of masks: 0 (two cells), 1, 3, and 2, which does not exist.
  assert deal(similarity, segments, valid).tolist() == [
    [0, 1, 1, 0],
    [1, 0, 0, 1],
  ]
  assert deal(similarity, segments, valid, 1).tolist() == [[0] * 4, [1] * 4]


@pytest.fixture
def fake(monkeypatch):
  """A network whose picture embedding is the picture's mean colour."""
  ids = [Tokenizer().encode(word)[0] for word in COLOURS]

  def apply_image(graphdef, params, model_state, image):
    return types.SimpleNamespace(image_embedding=image.mean((1, 2)) / 255)

  def apply_text(graphdef, params, model_state, tokens):
    has = [(tokens == i).any(-1) for i in ids]
    return jnp.stack(has, -1).astype(jnp.float32)

  network = types.SimpleNamespace(
    build=lambda config: ("graph", None, None),
    apply_image=apply_image,
    apply_text=apply_text,
  )
  monkeypatch.setattr(global_words, "sseg", network)
  monkeypatch.setattr(segmenter, "sseg", network)


@pytest.fixture
def model(fake, tiny_config):
  tiny_config.pseudo_masks.k = 3
  tiny_config.pseudo_masks.init = "farthest"
  tiny_config.pseudo_masks.position_weight = 0.0
  return GlobalWords({"logit_scale": np.float32(2)}, {}, tiny_config)


def picture(h, w):
  """Half green, then red and blue: 4, 3 and 1 eighths."""
  labels = np.array([1, 1, 1, 1, 0, 0, 0, 2]).repeat(w // 8)[None].repeat(h, 0)
  return (np.eye(3)[labels] * 255).astype(np.uint8), labels


def test_masks_named_by_rank(model):
  assert isinstance(model, Segmenter)
  image, labels = picture(32, 32)
  scores = model.scores(image, WORDS)
  assert scores.shape == (32, 32, 3) and scores.dtype == np.float32
  # Here the rank by area is the rank by similarity: all words fall right.
  np.testing.assert_array_equal(scores.argmax(-1), labels)
  # One word a pixel, with the probability that the whole picture gives it.
  mean = np.array([3, 4, 1]) / np.linalg.norm([3, 4, 1])
  exp = np.exp(np.exp(2.0) * mean)
  np.testing.assert_allclose(
    scores.max(-1), (exp / exp.sum())[labels], rtol=1e-3
  )
  assert ((scores > 0).sum(-1) == 1).all()


def test_it_cannot_tell_which_mask_a_word_means(model):
  # Bright blue is small and dark green large: blue is nearer, but green larger.
  image, labels = picture(32, 32)
  image[labels == 1] //= 16
  predicted = model.scores(image, WORDS).argmax(-1)
  assert (predicted[labels == 1] == 0).all()  # red, the picture's best word


def test_a_batch_equals_single_pictures_at_any_size(model):
  image, _ = picture(24, 40)
  images = np.stack([image, image[:, ::-1], image[..., ::-1]])
  best, index = model.winners_many(images, WORDS)
  assert best.shape == index.shape == (3, 24, 40)
  for one, b, i in zip(images, best, index, strict=True):
    scores = model.scores(np.ascontiguousarray(one), WORDS)
    np.testing.assert_allclose(scores.max(-1), b, rtol=1e-5)
    np.testing.assert_array_equal(scores.argmax(-1), i)


def test_one_word_for_the_whole_picture(fake, tiny_config):
  params = {"logit_scale": np.float32(2)}
  one = GlobalWords(params, {}, tiny_config, words=1)
  image, _ = picture(32, 32)
  assert (one.scores(image, WORDS).argmax(-1) == 1).all()
  with pytest.raises(InputError, match="words=-1"):
    GlobalWords(params, {}, tiny_config, words=-1)


@pytest.mark.slow
def test_with_the_network_itself(tiny_config):
  from sseg_jax.models import sseg

  params, model_state = sseg.init(tiny_config, 0)
  model = GlobalWords(params, model_state, tiny_config)
  image, _ = picture(40, 64)
  scores = model.scores(image, WORDS)
  assert scores.shape == (40, 64, 3)
  assert np.isfinite(scores).all() and (scores.max(-1) <= 1).all()


@pytest.mark.parametrize("name", baselines.BASELINES)
def test_every_baseline_is_a_segmenter(name):
  assert callable(baselines.find(name).scores)


def test_an_unknown_baseline_is_told():
  with pytest.raises(InputError, match="baseline='clip' .*global_words"):
    baselines.find("clip")
