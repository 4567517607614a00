import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sseg_jax import default_config
from sseg_jax.errors import InputError
from sseg_jax.inference import (
  encoded,
  padding,
  scoring,
  segmenter,
  sliding_window,
)
from sseg_jax.inference.background import with_background
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.inference.segmenter import SSegSegmenter
from sseg_jax.models import layers, pooling, sseg
from sseg_jax.tokenizer import Tokenizer

COLOURS = ("red", "green", "blue")


def fake_network():
  """Three queries: each masks one colour channel and means its word."""
  words = [Tokenizer().encode(word)[0] for word in COLOURS]

  def apply_image(graphdef, params, model_state, image):
    b, h, w, _ = image.shape
    small = image.reshape(b, h // 4, 4, w // 4, 4, 3).mean((2, 4))
    logits = (small - 127.5).transpose(0, 3, 1, 2) / 8
    queries = jnp.broadcast_to(5 * jnp.eye(3), (b, 3, 3))
    return types.SimpleNamespace(
      mask_logits=logits[None], query_embeddings=queries
    )

  def apply_text(graphdef, params, model_state, tokens):
    has = [(tokens == word).any(-1) for word in words]
    return jnp.stack(has, -1).astype(jnp.float32) + 1e-3

  return types.SimpleNamespace(
    build=lambda config: ("graph", None, None),
    apply_image=apply_image,
    apply_text=apply_text,
  )


def config(image_size=32, stride=16, combiner="mean"):
  c = default_config.get_config()
  c.image_size = c.evaluate.image_size = image_size
  c.evaluate.stride = stride
  c.evaluate.combiner = combiner
  return c


PARAMS = {"logit_scale": np.float32(np.log(1 / 0.07))}


@pytest.fixture
def fake(monkeypatch):
  monkeypatch.setattr(segmenter, "sseg", fake_network())


def stripes(h, w):
  """A picture of a red, a green and a blue stripe, and its labels."""
  labels = np.minimum(np.arange(w) * 3 // w, 2)[None].repeat(h, 0)
  return (np.eye(3)[labels] * 255).astype(np.uint8), labels


# ---------------------------------------------------------------- the method


def test_class_embeddings_average_before_they_normalise():
  prompts = jnp.array([[3.0, 0.0], [0.0, 1.0], [0.0, 2.0], [0.0, 4.0]])
  got = scoring.class_embeddings(prompts, 2)
  np.testing.assert_allclose(got[0], np.array([3, 1]) / np.sqrt(10), rtol=1e-6)
  np.testing.assert_allclose(got[1], [0, 1], rtol=1e-6)


def test_class_probabilities_clamp_the_scale():
  queries, classes = jnp.array([[[2.0, 0.0]]]), jnp.eye(2)

  def first(logit_scale, largest):
    return scoring.class_probabilities(
      queries, classes, logit_scale, max_logit_scale=largest
    )[0, 0, 0]

  # Below the clamp p = sigmoid(exp(x)), whose slope is p (1 - p) exp(x).
  value, slope = jax.value_and_grad(first)(jnp.log(1.5), 2.0)
  p = 1 / (1 + np.exp(-1.5))
  np.testing.assert_allclose([value, slope], [p, p * (1 - p) * 1.5], rtol=1e-5)
  for huge in (jnp.log(1e6), jnp.float32(100)):  # exp(100) is infinite
    value, slope = jax.value_and_grad(first)(huge, 2.0)
    np.testing.assert_allclose(value, 1 / (1 + np.exp(-2)), rtol=1e-6)
    assert slope == 0


@pytest.mark.parametrize("combiner", scoring.COMBINERS)
def test_combiners_follow_their_formula(combiner):
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(2, 4, 3, 5)).astype(np.float32)
  p = rng.dirichlet(np.ones(6), (2, 4)).astype(np.float32)
  expected = np.zeros((2, 3, 5, 6))
  s = 1 / (1 + np.exp(-logits))
  for b, y, x in np.ndindex(2, 3, 5):
    if combiner == "hard":
      expected[b, y, x] = p[b, s[b, :, y, x].argmax()]
      continue
    if combiner == "smallest":
      inside = [q for q in range(4) if s[b, q, y, x] > 0.5]
      best = min(
        inside or range(4),
        key=lambda q: ((s[b, q] > 0.5).sum() * bool(inside), -s[b, q, y, x]),
      )
      expected[b, y, x] = p[b, best]
      continue
    for q in range(4):
      expected[b, y, x] += s[b, q, y, x] * p[b, q]
    if combiner == "mean":
      expected[b, y, x] /= s[b, :, y, x].sum()
  got = scoring.combine(jnp.array(logits), jnp.array(p), combiner)
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_mean_is_a_distribution_even_where_no_query_claims_a_pixel():
  logits = jnp.full((1, 3, 2, 2), -300.0)
  p = jnp.full((1, 3, 4), 0.25)
  got = scoring.combine(logits, p, "mean")
  np.testing.assert_allclose(got.sum(-1), 1, rtol=1e-6)


def test_unknown_combiner_is_named():
  with pytest.raises(InputError, match="'median'.*mean"):
    scoring.combine(jnp.zeros((1, 1, 1, 1)), jnp.ones((1, 1, 1)), "median")


def test_background_below_the_threshold():
  scores = np.array([[[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]]], np.float32)
  np.testing.assert_array_equal(with_background(scores, 0.55), [[1, 2, 0]])
  np.testing.assert_array_equal(with_background(scores, 0.0), [[1, 2, 1]])


def test_threshold_is_capped_at_the_best_score_of_the_image():
  scores = np.array([[[0.3, 0.1], [0.2, 0.25], [0.3, 0.2]]], np.float32)
  np.testing.assert_array_equal(with_background(scores, 0.95), [[1, 0, 1]])


def test_smallest_is_what_lies_in_front():
  large, small = np.full((1, 1, 4, 4), 4.0), np.full((1, 1, 4, 4), -4.0)
  small[..., 1:3, 1:3] = 1.0
  p = jnp.asarray([[[1.0, 0.0], [0.0, 1.0]]])
  logits = jnp.asarray(np.concatenate([large, small], 1), jnp.float32)
  got = np.asarray(scoring.combine(logits, p, "smallest"))[0, ..., 1]
  np.testing.assert_array_equal(got, small[0, 0] > 0)


def test_an_unknown_refinement_is_named(fake):
  with pytest.raises(InputError, match="refine='crf'.*none, pseudo_masks"):
    segmenter.SSegSegmenter(PARAMS, {}, config(), refine="crf")


# ------------------------------------------------------------------ geometry


@pytest.mark.parametrize(
  ("size", "expected"),
  [
    ((375, 500), (448, 597)),  # 597.33
    ((500, 375), (597, 448)),
    ((448, 448), (448, 448)),
    ((1001, 896), (501, 448)),  # 500.5 rounds up
    ((896, 1001), (448, 501)),
    ((100, 1000), (205, 2048)),  # the cap; 204.8 rounds up
  ],
)
def test_evaluation_size(size, expected):
  assert sliding_window.evaluation_size(*size, 448) == expected


def test_evaluation_size_above_the_cap_of_the_long_side():
  assert sliding_window.evaluation_size(100, 100, 4000) == (4000, 4000)


def test_window_starts_shift_the_last_inside():
  assert sliding_window.window_starts(448, 448, 224) == [0]
  assert sliding_window.window_starts(597, 448, 224) == [0, 149]
  assert sliding_window.window_starts(672, 448, 224) == [0, 224]
  assert sliding_window.window_starts(673, 448, 224) == [0, 224, 225]
  assert sliding_window.window_starts(200, 448, 224) == [0]


def test_a_picture_below_the_window_is_padded_by_its_edge():
  layout = sliding_window.Layout.of(2, 200, image_size=64, stride=32)
  assert layout.resized == (20, 2048) and layout.window == (32, 64)
  image = np.random.default_rng(0).integers(0, 256, (2, 200, 3), np.uint8)
  cut = layout.cut(image)
  np.testing.assert_array_equal(cut[:, 20:], cut[:, 19:20].repeat(12, 1))
  assert np.ptp(cut[:, 19]) > 100


def test_windows_are_averaged_by_visits():
  """One class whose score is the window's own: overlaps show the mean."""
  rng = np.random.default_rng(0)
  layout = sliding_window.Layout.of(32, 80, image_size=32, stride=16)
  g = len(layout.starts)
  assert [x for _, x in layout.starts] == [0, 16, 32, 48]
  p = rng.random((g, 1, 8)).astype(np.float32)
  got = sliding_window.assemble(
    jnp.zeros((g, 1, 8, 8)),
    jnp.array(p),
    layout.places(),
    images=1,
    window=layout.window,
    canvas=layout.canvas,
    combiner="mean",
  )
  total, visits = np.zeros((80, 8)), np.zeros((80, 1))
  for (_, x), score in zip(layout.starts, p[:, 0], strict=True):
    total[x : x + 32] += score
    visits[x : x + 32] += 1
  expected = np.broadcast_to(total / visits, (32, 80, 8))
  np.testing.assert_allclose(got[0, :, :80], expected, rtol=1e-5)


# ------------------------------------------------------------- the segmenter


@pytest.mark.parametrize("combiner", scoring.COMBINERS)
@pytest.mark.parametrize("size", [(32, 32), (48, 90), (90, 48), (20, 600)])
def test_colours_are_found_at_any_size(fake, size, combiner):
  image, labels = stripes(*size)
  model = SSegSegmenter(PARAMS, {}, config(combiner=combiner))
  scores = model.scores(image, ClassSet(COLOURS))
  assert scores.shape == (*size, 3) and scores.dtype == np.float32
  assert (scores.argmax(-1) == labels).mean() > 0.9


def test_class_order_does_not_matter(fake):
  image, _ = stripes(32, 48)
  model = SSegSegmenter(PARAMS, {}, config())
  a = model.scores(image, ClassSet(COLOURS))
  b = model.scores(image, ClassSet(COLOURS[::-1]))
  np.testing.assert_allclose(a, b[..., ::-1], atol=1e-6)


def test_many_images_equal_one_at_a_time(fake):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (5, 40, 70, 3), dtype=np.uint8)
  model = SSegSegmenter(PARAMS, {}, config())
  class_set = ClassSet(COLOURS)
  many = model.scores_many(images, class_set)
  for image, scores in zip(images, many, strict=True):
    np.testing.assert_allclose(
      model.scores(image, class_set), scores, atol=1e-5
    )


def test_large_vocabulary_in_chunks(fake, monkeypatch):
  names = COLOURS + tuple(f"{a} {b}" for a in "abcdef" for b in "uvwxyz")
  image, _ = stripes(32, 48)
  model = SSegSegmenter(PARAMS, {}, config())
  whole = model.scores(image, ClassSet(names))
  monkeypatch.setattr(segmenter, "_CLASS_CHUNK", 8)
  monkeypatch.setattr(padding, "_AT_ONCE", 4)
  chunks = SSegSegmenter(PARAMS, {}, config())
  np.testing.assert_allclose(
    chunks.scores(image, ClassSet(names)), whole, atol=1e-6
  )
  best, index = chunks.winners_many(image[None], ClassSet(names))
  np.testing.assert_allclose(best[0], whole.max(-1), atol=1e-6)
  np.testing.assert_array_equal(index[0], whole.argmax(-1))


def test_class_embeddings_are_computed_once(fake, monkeypatch):
  model = SSegSegmenter(PARAMS, {}, config())
  first = model.encode_classes(ClassSet(COLOURS))
  assert model.encode_classes(ClassSet(COLOURS)) is first
  model.set_weights(PARAMS, {})
  assert model.encode_classes(ClassSet(COLOURS)) is not first


def test_few_shapes_are_compiled(fake):
  model = SSegSegmenter(PARAMS, {}, config())
  for width in range(50, 64):
    model.scores(stripes(32, width)[0], ClassSet(COLOURS))
  assert model._encode_windows._cache_size() <= 2


def test_bad_input_is_named(fake):
  with pytest.raises(InputError, match="image_size=100.*96"):
    SSegSegmenter(PARAMS, {}, config(), image_size=100)
  with pytest.raises(InputError, match="combiner='median'"):
    SSegSegmenter(PARAMS, {}, config(), combiner="median")
  with pytest.raises(InputError, match="no {}"):
    ClassSet(("cat",), ("a photo",))
  with pytest.raises(InputError, match="non-empty"):
    ClassSet(("cat", " "))


def test_image_size_scales_the_stride(fake):
  model = SSegSegmenter(PARAMS, {}, config(448, 224), image_size=224)
  assert (model.image_size, model.stride) == (224, 112)


@pytest.mark.slow
def test_real_network(tiny_config):
  c = tiny_config
  params, model_state = sseg.init(c, 0)
  model = SSegSegmenter(params, model_state, c)
  class_set = ClassSet(("cat", "dog", "sky"), ("a photo of a {}.", "{}"))
  image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
  scores = model.scores(image, class_set)
  np.testing.assert_allclose(scores.sum(-1), 1, atol=1e-5)
  # The same by hand, from the network's own outputs.
  graphdef = sseg.build(c)[0]
  out = sseg.apply_image(
    graphdef, params, model_state, jnp.asarray(image[None])
  )
  tokens = Tokenizer(c.text.context_length)(class_set.prompts)
  text = sseg.apply_text(graphdef, params, model_state, jnp.asarray(tokens))
  text = np.asarray(text).reshape(3, 2, -1).mean(1)
  text /= np.linalg.norm(text, axis=-1, keepdims=True)
  query = np.asarray(out.query_embeddings[0])
  query = query / np.linalg.norm(query, axis=-1, keepdims=True)
  p = np.asarray(jax.nn.softmax(query @ text.T / 0.07, axis=-1))
  masks = jax.image.resize(out.mask_logits[-1, 0], (8, 32, 32), "bilinear")
  s = np.asarray(jax.nn.sigmoid(masks))
  expected = np.einsum("nhw,nc->hwc", s, p) / s.sum(0)[..., None]
  np.testing.assert_allclose(scores, expected, atol=1e-4)


@pytest.mark.slow
def test_words_are_encoded_without_their_padding(tiny_config):
  c = tiny_config
  c.text.context_length = 77
  params, model_state = sseg.init(c, 0)
  model = SSegSegmenter(params, model_state, c)
  encode, shapes = model._encode_text, []

  def noted(*args):
    shapes.append(args[-1].shape)
    return encode(*args)

  model._encode_text = noted
  for longest, length in (("cat", 16), ("very " * 9, 16), ("very " * 10, 32)):
    class_set = ClassSet(("a", longest))
    found = model.encode_classes(class_set)
    assert shapes.pop() == (2, length)
    whole = model.encode_tokens(Tokenizer(77)(class_set.prompts))
    assert shapes.pop() == (2, 77)
    expected = scoring.class_embeddings(whole, 2)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_refined_masks_follow_the_pictures_regions(monkeypatch):
  network = fake_network()

  def uneven(graphdef, params, model_state, image, labels=None):
    out = network.apply_image(graphdef, params, model_state, image)
    ramp = jnp.linspace(-1, 1, out.mask_logits.shape[-2])
    logits = out.mask_logits[-1] / 8 + ramp[None, None, :, None]
    if labels is not None:
      logits = pooling.snap(logits, labels, 3)
    out.mask_logits = logits[None]
    return out

  fields = vars(network) | {"apply_image": uneven}
  monkeypatch.setattr(segmenter, "sseg", types.SimpleNamespace(**fields))
  c = config(image_size=96, stride=96)
  c.pseudo_masks.update(k=3, stride=1, position_weight=0.0)
  image, labels = stripes(96, 96)
  spread = {}
  for refine in ("none", "pseudo_masks"):
    one = segmenter.SSegSegmenter(PARAMS, {}, c, refine=refine)
    scores = one.scores(image, ClassSet(COLOURS))
    spread[refine] = max(scores[labels == i].std(0).max() for i in range(3))
    np.testing.assert_array_equal(scores.argmax(-1), labels)
  assert spread["none"] > 1e-2
  assert spread["pseudo_masks"] < 1e-4


def test_vectors_of_any_length_become_units():
  vectors = jnp.array([[3e-5, 4e-5], [3e5, -4e5], [3e-8, 4e-8], [0, 0]])
  units = [[0.6, 0.8], [0.6, -0.8], [0.03, 0.04], [0, 0]]
  np.testing.assert_allclose(layers.unit(vectors), units, rtol=1e-5)


@pytest.mark.slow
def test_zero_embeddings_have_finite_gradients():
  """That of an empty mask may be zero: it must not cost a run its steps."""
  classes = scoring.class_embeddings(jnp.eye(3, 4), 3)

  def best(embeddings):
    p = scoring.class_probabilities(
      embeddings, classes, jnp.asarray(2.0), max_logit_scale=100.0
    )
    return p[..., 0].sum()

  embeddings = jnp.zeros((1, 2, 4)).at[0, 1].set(1.0)
  assert jnp.isfinite(jax.grad(best)(embeddings)).all()


def test_parts_of_a_vocabulary_are_made_one_by_one(monkeypatch):
  """Hundreds of words for a large picture do not fit a host together."""
  live = []

  def assemble_winners(masks, p, count, *args, **kwargs):
    live.append(int(count))
    best = np.full((1, 4, 4), float(np.asarray(p)[0, 0, 0]), np.float32)
    return best, np.zeros((1, 4, 4), np.int32)

  monkeypatch.setattr(encoded, "assemble_winners", assemble_winners)
  model = SSegSegmenter.__new__(SSegSegmenter)
  model.combiner = "hard"
  layout = sliding_window.Layout.of(4, 4, image_size=32, stride=16)
  probabilities = jnp.array([0.1, 0.3, 0.2])[None, None]
  masks = jnp.zeros((1, 1, 4, 4))
  group = encoded.Encoded(masks, probabilities, layout, layout.places(), 1, 1)
  next(group.winners("hard"))
  assert live == [1]
  monkeypatch.setattr(model, "_groups", lambda *_: [group], raising=False)
  images = np.zeros((1, 4, 4, 3), np.uint8)
  best, index = model.winners_many(images, ClassSet(("a", "b", "c")))
  assert (index == 1).all() and best.max() == np.float32(0.3)
