"""Size, end-token pooling and causality of the text tower."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sseg_jax import content_words
from sseg_jax.errors import InputError
from sseg_jax.models.dropout import ExampleRngs
from sseg_jax.models.text import TextTower
from sseg_jax.tokenizer import Tokenizer

TINY = dict(vocab_size=50, context_length=12, width=16, layers=2, num_heads=4)
END = TINY["vocab_size"] - 1


@functools.cache  # one build of each; the tests change no parameter
def tiny(**overrides):
  return TextTower(**(TINY | overrides), rngs=nnx.Rngs(0))


@nnx.jit  # as the tower is run, and far fewer compilations than op by op
def features(model, tokens):
  return model(tokens)


@pytest.fixture
def tokens():
  """Three texts of 3, 5 and 8 tokens, the start and end tokens included."""
  rows = np.zeros((3, 12), np.int32)
  rng = np.random.default_rng(0)
  for row, length in zip(rows, (3, 5, 8), strict=True):
    row[:length] = [END - 1, *rng.integers(1, 40, length - 2), END]
  return jnp.asarray(rows)


def paper_size():
  return TextTower(
    vocab_size=49408,
    context_length=77,
    width=256,
    layers=12,
    num_heads=4,
    rngs=nnx.Rngs(0),
  )


def test_parameter_count_at_the_papers_size():
  state = nnx.state(nnx.eval_shape(paper_size), nnx.Param)
  assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 22_145_792
  blocks = jax.tree.leaves(state["blocks"])
  assert sum(leaf.size for leaf in blocks) == 9_477_120


@pytest.mark.slow
def test_initial_deviations():
  model = tiny(width=128, layers=6)
  block = model.blocks[0]
  out = 128**-0.5 * 12**-0.5
  for param, std in [
    (model.token_embedding.embedding, 0.02),
    (model.position_embedding, 0.01),
    (block.attention.qkv.kernel, 128**-0.5),
    (block.attention.out.kernel, out),
    (block.mlp_in.kernel, 256**-0.5),
    (block.mlp_out.kernel, out),
  ]:
    np.testing.assert_allclose(jnp.std(param[...]), std, rtol=0.1)
  assert not block.attention.qkv.bias[...].any()


def test_tokens_after_the_end_change_nothing(tokens):
  model = tiny()
  tokens = np.asarray(tokens)
  after = np.arange(12) > tokens.argmax(axis=1)[:, None]
  np.testing.assert_array_equal(
    features(model, tokens), features(model, np.where(after, 7, tokens))
  )


def test_a_token_before_the_end_changes_the_feature(tokens):
  model = tiny()
  changed = tokens.at[:, 1].set(45)
  change = np.abs(features(model, tokens) - features(model, changed))
  assert (change.max(axis=1) > 1e-4).all()


def test_short_context_gives_the_same_features(tokens):
  model = tiny()
  np.testing.assert_allclose(
    features(model, tokens), features(model, tokens[:, :8]), atol=1e-5
  )


def test_order_of_tokens_matters(tokens):
  model = tiny()
  swapped = tokens.at[2, 1:3].set(tokens[2, 1:3][::-1])
  change = np.abs(features(model, tokens) - features(model, swapped))
  assert change[2].max() > 1e-4


def test_dropout_acts_in_training_only(tokens):
  model = tiny(dropout=0.5)
  plain = features(model, tokens)
  np.testing.assert_array_equal(plain, features(tiny(), tokens))

  @nnx.jit
  def train(model, tokens):
    return model(
      tokens,
      train=True,
      rngs=ExampleRngs.from_ids(jax.random.key(0), jnp.arange(len(tokens))),
    )

  assert not np.allclose(plain, train(model, tokens))


@pytest.mark.slow
def test_gradients_are_finite_and_reach_every_parameter(tokens):
  graphdef, params = nnx.split(tiny())

  def loss(params):
    return jnp.sum(jnp.sin(nnx.merge(graphdef, params)(tokens)))

  for path, leaf in jax.tree_util.tree_leaves_with_path(
    jax.jit(jax.grad(loss))(params)
  ):
    assert jnp.isfinite(leaf).all(), path
    assert jnp.abs(leaf).max() > 0, path


def test_too_long_a_row_is_refused():
  with pytest.raises(InputError, match="text.context_length is 12"):
    tiny()(jnp.zeros((1, 13), jnp.int32))


def test_heads_must_divide_the_width():
  with pytest.raises(InputError, match="text.width is 18"):
    tiny(width=18)


def test_words_are_the_tokens_that_a_picture_can_show():
  tokenizer = Tokenizer(16)
  model = TextTower(
    vocab_size=49408,
    context_length=16,
    width=8,
    layers=0,
    num_heads=1,
    rngs=nnx.Rngs(0),
  )
  texts = ["A photo of two dogs, on the wet grass!", "a dog", "On it.", "dogs"]
  found, exist = nnx.jit(lambda m, x: m.words(x, 3))(model, tokenizer(texts))
  # dogs wet grass; dog; "on", "it" and the point, for lack of better; dogs.
  np.testing.assert_array_equal(exist.sum(1), [3, 1, 3, 1])
  assert exist[:, 0].all()
  # Without layers a token stands for itself, wherever it is.
  np.testing.assert_array_equal(found[0, 0], found[3, 0])
  assert np.abs(found[1, 0] - found[3, 0]).max() > 0.1
  table = content_words.content_tokens()
  ids = tokenizer.encode("the brick wall, 3 of them: é")
  pieces = [bool(table[i]) for i in ids]
  assert pieces == [False, True, True, False, False, False, False, False, True]
