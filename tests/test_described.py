"""Masks that show nowhere name no pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sseg_jax.inference import scoring
from sseg_jax.models import query_embedding, sseg
from sseg_jax.models.described import HIDDEN, Described, Seen
from sseg_jax.models.maskformer import MaskFormerOutputs


def form(masks):
  return query_embedding.MaskPooled(
    mean="after",
    normalize_queries=True,
    counted_queries="all",
    levels=("pixel",),
    masks=masks,
    outline=False,
    place=False,
    stride=4,
    regions=4,
    by_regions=False,
  )


@pytest.fixture
def seen():
  """A left mask, a right one, and one behind both that shows nowhere."""
  logits = np.full((1, 3, 8, 8), -5.0, np.float32)
  logits[0, 0, :, :4] = logits[0, 1, :, 4:] = 5
  logits[0, 2] = 3
  logits = jnp.asarray(logits)
  rng = np.random.default_rng(0)
  pixels = jnp.asarray(rng.normal(size=(1, 8, 8, 6)), jnp.float32)
  queries = jnp.zeros((1, 3, 5))
  masks = MaskFormerOutputs(logits[None], queries, pixels, queries[None])
  picture = jnp.zeros((1, 32, 32, 3))
  return Seen(picture, None, {}, masks, logits, logits, 1)


def test_a_mask_behind_all_others_is_not_shown(seen):
  found = form("pseudo").features(seen)
  np.testing.assert_array_equal(found.shown, [[True, True, False]])
  assert not found.query_features[0, 2].any()
  masks = found.masks(seen.logits[None])
  np.testing.assert_array_equal(masks[0, :, :2], seen.logits[:, :2])
  assert (masks[0, 0, 2] == HIDDEN).all()
  # A mask of probabilities is never without pixels.
  soft = form("soft").features(seen)
  assert soft.shown.all()
  np.testing.assert_array_equal(soft.masks(seen.logits[None])[0], seen.logits)
  # The paper's form describes queries by the decoder.
  plain = Described(*found[:3])
  np.testing.assert_array_equal(plain.masks(seen.logits[None])[0], seen.logits)


def test_pixels_have_the_words_of_what_is_in_front(seen):
  """Also with the combiner "mean", which weighs all masks of a pixel."""
  words = jnp.eye(3)[None]  # each mask has a word of its own
  masks = form("pseudo").features(seen).masks(seen.logits[None])[-1]
  scores = scoring.combine(masks, words, "mean")[0]
  assert (scores[:, :4, 0] > 0.99).all() and (scores[:, 4:, 1] > 0.99).all()
  behind = scoring.combine(seen.logits, words, "mean")[0]
  assert (behind[..., 2] > 0.4).all()


@pytest.mark.slow
def test_a_network_hides_them_at_test_alone(tiny_config, monkeypatch):
  tiny_config.model.query_embedding = "mask_pooled"
  tiny_config.model.pool_masks = "pseudo"
  tiny_config.model.pool_feature = "pixel"
  tiny_config.model.mean = "after"
  params, state = sseg.init(tiny_config, 0)
  graphdef = sseg.build(tiny_config)[0]
  image = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3)) * 255
  out = sseg.apply_image(graphdef, params, state, image)
  hidden = (out.query_features == 0).all(-1)
  assert hidden.any() and not hidden.all()
  logits = np.asarray(out.mask_logits[-1])
  assert (logits[np.asarray(hidden)] == HIDDEN).all()
  monkeypatch.setattr(Described, "masks", lambda self, logits: logits)
  before = sseg.apply_image(graphdef, params, state, image)
  kept = ~np.asarray(hidden)
  np.testing.assert_array_equal(
    logits[kept], np.asarray(before.mask_logits[-1])[kept]
  )
