"""The forms in which captions see regions, against NumPy; blocks and meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xla_flags

from sseg_jax import contrastive, region_words, word_bags
from sseg_jax.contrastive import Captions, Pictures

FORMS = ("caption_attends", "words")
SHARPNESS = 5.0


def batch(form, b=6, k=3, w=4, e=5):
  """Returns regions, words and which pairs are valid, with gaps in all."""
  rng = np.random.default_rng(0)
  if form == "caption_attends":
    w = 1
  regions = rng.normal(size=(b, k, e)).astype(np.float32)
  words = rng.normal(size=(b, w, e)).astype(np.float32)
  exist = rng.random((b, k)) < 0.7
  counted = rng.random((b, w)) < 0.7
  exist[:, 0] = counted[:, 0] = True
  valid = np.arange(b) % 5 != 3
  return Pictures(regions, exist), Captions(words, counted), valid


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def similar(form, pictures, captions):
  """The definition, pair by pair, in float64."""
  regions, words = (
    unit(np.asarray(x[0], np.float64)) for x in (pictures, captions)
  )
  result = np.zeros((len(regions), len(words)))
  for i, exist in enumerate(pictures.exist):
    for j, counted in enumerate(captions.exist):
      of_words = []
      for word in words[j][counted]:
        cosine = regions[i][exist] @ word
        weight = np.exp(SHARPNESS * cosine)
        weight /= weight.sum()
        if form == "words":
          of_words.append(weight @ cosine)
        else:
          of_words.append(unit(weight @ regions[i][exist]) @ word)
      result[i, j] = np.mean(of_words)
  return result


of_regions = jax.jit(
  contrastive.of_regions,
  static_argnames=(
    *("form", "sharpness", "max_logit_scale", "heads", "block", "mesh"),
  ),
)
similarity = jax.jit(
  contrastive.similarity, static_argnames=("form", "sharpness")
)


def loss(form, pictures, captions, scale, valid, **how):
  return of_regions(
    pictures,
    captions,
    scale,
    valid,
    form=form,
    sharpness=SHARPNESS,
    max_logit_scale=100.0,
    **how,
  )


@pytest.mark.parametrize("form", FORMS)
def test_the_similarity_is_that_of_the_definition(form):
  pictures, captions, _ = batch(form)
  found = similarity(pictures, captions, form=form, sharpness=SHARPNESS)
  np.testing.assert_allclose(
    found, similar(form, pictures, captions), atol=1e-6
  )


@pytest.mark.parametrize("form", FORMS)
def test_the_loss_is_both_cross_entropies_over_valid_pairs(form):
  pictures, captions, valid = batch(form)
  found, metrics = loss(form, pictures, captions, np.float32(np.log(7)), valid)
  logits = 7 * similar(form, pictures, captions)[valid][:, valid]
  right = np.diag(logits)
  across = (np.log(np.exp(logits).sum(1)) - right).mean()
  down = (np.log(np.exp(logits).sum(0)) - right).mean()
  np.testing.assert_allclose(metrics["contrastive_i2t"], across, rtol=1e-5)
  np.testing.assert_allclose(metrics["contrastive_t2i"], down, rtol=1e-5)
  np.testing.assert_allclose(found, across + down, rtol=1e-5)


@pytest.mark.slow
def test_words_that_are_embedded_once_give_the_same_loss_and_gradients():
  pictures, captions, valid = batch("words", e=10)
  ids = np.random.default_rng(1).integers(0, 5, captions.exist.shape)
  table = np.random.default_rng(2).normal(size=(5, 10)).astype(np.float32)

  def apart(table, regions):
    words = captions._replace(words=table[ids])
    pairs = pictures._replace(regions=regions), words
    return loss("words", *pairs, jnp.float32(1), valid, heads=2)[0]

  @jax.jit
  def once(table, regions):
    exist = jnp.asarray(captions.exist & valid[:, None])
    found, places, fits = word_bags.different(jnp.asarray(ids), exist, 6)
    shares = word_bags.shares(places, exist, 6)
    # What fills the rest may be anything.
    words = jnp.where(shares.any(1)[:, None], table[found], np.nan)
    shared = contrastive.Vocabulary(words, shares)
    pairs = pictures._replace(regions=regions), shared
    return loss("words", *pairs, jnp.float32(1), valid, heads=2)[0], fits

  want, of_want = jax.value_and_grad(apart, (0, 1))(table, pictures.regions)
  (got, fits), of_got = jax.value_and_grad(once, (0, 1), has_aux=True)(
    table, pictures.regions
  )
  assert fits
  np.testing.assert_allclose(got, want, rtol=1e-6)
  for a, b in zip(of_got, of_want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def asked(b=6, words=9, e=10):
  """Returns regions, shares of words as `word_bags` gives them, and valid."""
  pictures, captions, valid = batch("words", b, e=e)
  rng = np.random.default_rng(1)
  ids = jnp.asarray(rng.integers(0, words - 2, captions.exist.shape))
  exist = jnp.asarray(captions.exist & valid[:, None])
  found, places, _ = word_bags.different(ids, exist, words)
  shares = word_bags.shares(places, exist, words)
  table = rng.normal(size=(words, e)).astype(np.float32)
  return pictures, contrastive.Vocabulary(table[found], shares), valid


to_words = jax.jit(
  region_words.regions_to_words,
  static_argnames=("max_logit_scale", "heads", "q"),
)


@pytest.mark.parametrize(("heads", "q"), [(1, 0.0), (2, 0.0), (2, 0.5)])
def test_regions_are_asked_for_a_word_of_their_caption(heads, q):
  pictures, captions, valid = asked()
  found = to_words(
    *(pictures, captions, np.float32(np.log(7)), valid),
    max_logit_scale=100.0,
    heads=heads,
    q=q,
  )
  has = np.asarray(captions.shares).T > 0  # [b, u]
  assert (has[valid].sum(0) > 1).any()  # a word of several captions
  wanted = []
  for part in np.split(np.arange(10), heads):
    words = unit(np.asarray(captions.words, np.float64)[:, part])
    for i in np.flatnonzero(valid):
      for region in pictures.regions[i][pictures.exist[i]][:, part]:
        each = np.exp(7 * words @ unit(region.astype(np.float64)))
        # Other captions' words, as often as there are captions with them.
        others = sum(
          each[has[j] & ~has[i]].sum() for j in np.flatnonzero(valid)
        )
        own = each[has[i]].sum()
        p = own / (own + others)
        wanted.append((1 - p**q) / q if q else -np.log(p))
  np.testing.assert_allclose(found, np.mean(wanted), rtol=1e-5)


def test_only_valid_pairs_with_regions_and_words_ask_for_words():
  pictures, captions, valid = asked()

  def value(regions, words, shares):
    return region_words.regions_to_words(
      pictures._replace(regions=regions),
      contrastive.Vocabulary(words, shares),
      jnp.float32(1),
      jnp.asarray(valid),
      max_logit_scale=100.0,
    )

  both = jax.jit(jax.value_and_grad(value, (0, 1)))
  wanted, _ = both(pictures.regions, captions.words, captions.shares)
  regions = pictures.regions.copy()
  regions[~valid] = np.nan  # what fills a batch may be anything
  regions[~pictures.exist & valid[:, None]] += 3
  unused = ~(np.asarray(captions.shares) > 0).any(1)
  assert unused.any()
  words = np.where(unused[:, None], np.nan, captions.words)
  # A pair that is not valid may have words: they are not among the others.
  shares = np.asarray(captions.shares).copy()
  shares[:, ~valid] = 1 / len(shares)
  shares[unused] = 0
  found, gradients = both(regions, words, jnp.asarray(shares))
  np.testing.assert_allclose(found, wanted, rtol=1e-6)
  assert all(np.isfinite(x).all() for x in gradients)
  assert not gradients[0][~pictures.exist | ~valid[:, None]].any()
  # Without any word nothing is asked.
  none, gradients = both(regions, words, jnp.zeros_like(captions.shares))
  assert none == 0
  assert all(np.isfinite(x).all() for x in gradients)


@pytest.mark.parametrize(("most", "fits"), [(3, False), (4, True), (5, True)])
def test_more_different_words_than_there_is_place_for_are_told(most, fits):
  ids = jnp.asarray([[7, 3, 7], [9, 0, 8]])
  exist = jnp.asarray([[True, True, True], [True, True, False]])
  found, places, told = word_bags.different(ids, exist, most)
  shares = word_bags.shares(places, exist, most)
  assert bool(told) == fits and len(found) == most
  if fits:
    assert found[:4].tolist() == [0, 3, 7, 9]
    np.testing.assert_allclose(
      shares[:4].T, [[0, 1 / 3, 2 / 3, 0], [1 / 2, 0, 0, 1 / 2]], rtol=1e-6
    )
    assert not shares[4:].any()


@pytest.mark.parametrize("block", [0, 2])
def test_heads_have_losses_of_their_own(block):
  pictures, captions, valid = batch("words", e=10)
  arguments = jnp.float32(1), valid
  both, metrics = loss(
    "words", pictures, captions, *arguments, heads=2, block=block
  )
  each = [
    loss(
      "words",
      pictures._replace(regions=pictures.regions[..., part]),
      captions._replace(words=captions.words[..., part]),
      *arguments,
    )
    for part in (slice(5), slice(5, 10))
  ]
  for name, value in metrics.items():
    wanted = (each[0][1][name] + each[1][1][name]) / 2
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
  np.testing.assert_allclose(both, (each[0][0] + each[1][0]) / 2, rtol=1e-5)
  assert not np.isclose(each[0][0], each[1][0])


@pytest.mark.parametrize("form", FORMS)
def test_pairs_without_regions_or_words_count_as_not_valid(form):
  pictures, captions, valid = batch(form)
  wanted = loss(form, pictures, captions, jnp.float32(1), valid)[0]
  # Pair 3 is not valid: it may be empty, and hold NaN.
  empty = Pictures(pictures.regions.copy(), pictures.exist.copy())
  empty.regions[3], empty.exist[3] = np.nan, False
  everywhere = np.ones_like(valid)
  value, gradient = jax.value_and_grad(
    lambda x: loss(
      form, Pictures(x, empty.exist), captions, jnp.float32(1), everywhere
    )[0]
  )(empty.regions)
  np.testing.assert_allclose(value, wanted, rtol=1e-6)
  assert np.isfinite(gradient).all()
  none = Captions(captions.words, captions.exist.copy())
  none.exist[3] = False
  value = loss(form, pictures, none, 1.0, everywhere)[0]
  np.testing.assert_allclose(value, wanted, rtol=1e-6)


def test_a_region_or_word_that_does_not_exist_changes_nothing():
  pictures, captions, valid = batch("words")
  wanted = loss("words", pictures, captions, jnp.float32(1), valid)[0]
  pictures.regions[~pictures.exist] += 3
  captions.words[~captions.exist] += 3
  found = loss("words", pictures, captions, jnp.float32(1), valid)[0]
  np.testing.assert_allclose(found, wanted, rtol=1e-6)


def gradients(form, mesh, block, sharding=None):
  pictures, captions, valid = batch(form, b=48)

  def f(regions, words, scale):
    return loss(
      form,
      Pictures(regions, pictures.exist),
      Captions(words, captions.exist),
      scale,
      valid,
      block=block,
      mesh=mesh,
    )[0]

  arguments = pictures.regions, captions.words, np.float32(2)
  if sharding is not None:
    arguments = (
      *jax.device_put(arguments[:2], sharding),
      jnp.asarray(arguments[2]),
    )
  return jax.device_get(
    jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2)))(*arguments)
  )


def difference(a, b):
  return max(
    jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(x - y).max()), a, b))
  )


def gradients_of_words(mesh=None, block=0, sharding=None):
  """Returns value and gradients of `regions_to_words`."""
  pictures, captions, valid = asked(b=48)

  def f(regions, words, shares, exist, valid):
    return region_words.regions_to_words(
      Pictures(regions, exist),
      contrastive.Vocabulary(words, shares),
      jnp.float32(2),
      valid,
      max_logit_scale=100.0,
      block=block,
      mesh=mesh,
    )

  of_pictures = pictures.regions, pictures.exist, jnp.asarray(valid)
  if sharding is not None:
    of_pictures = jax.device_put(of_pictures, sharding)
  regions, exist, valid = of_pictures
  return jax.device_get(
    jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(
      regions, *captions, exist, valid
    )
  )


@pytest.mark.slow
def test_regions_in_blocks_ask_for_the_same_words():
  whole, blocks = (gradients_of_words(None, block) for block in (0, 16))
  assert difference(whole, blocks) < 1e-5
  assert max(np.abs(x).max() for x in whole[1]) > 1e-2


@pytest.mark.parametrize("form", FORMS)
def test_blocks_give_the_same_loss_and_gradients(form):
  whole, blocks = (gradients(form, None, block) for block in (0, 16))
  assert difference(whole, blocks) < 1e-5
  assert max(np.abs(x).max() for x in whole[1]) > 1e-2


SCRIPT = """
import json
import jax, ml_collections
import test_contrastive as t
from sseg_jax import sharding

found = {}
words = t.gradients_of_words()
one = {form: t.gradients(form, None, 0) for form in t.FORMS}
for data, fsdp in ((8, 1), (2, 4)):
  mesh = sharding.make_mesh(
    ml_collections.ConfigDict({"data": data, "fsdp": fsdp})
  )
  rows = sharding.batch_sharding(mesh)
  for block in (0, 16):
    many = t.gradients_of_words(mesh, block, rows)
    name = f"regions_to_words {data}x{fsdp} {block}"
    found[name] = t.difference(words, many)
    for form in t.FORMS:
      many = t.gradients(form, mesh, block, rows)
      found[f"{form} {data}x{fsdp} {block}"] = t.difference(one[form], many)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_meshes_give_the_same_loss_and_gradients():
  found = xla_flags.found_on(8, SCRIPT)
  assert len(found) == 12
  assert {name: x for name, x in found.items() if x > 1e-5} == {}
