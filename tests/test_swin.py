"""Sizes, shapes and masks of the Swin backbone; parity is in tests/parity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sseg_jax.errors import InputError
from sseg_jax.models import swin_attention, windows
from sseg_jax.models.dropout import ExampleRngs
from sseg_jax.models.kernels import flash
from sseg_jax.models.swin import SWIN_SIZES, Swin

TINY = dict(embed_dim=8, depths=(2, 2), num_heads=(1, 2), window=3)


@functools.cache  # one build of each; the tests change no parameter
def tiny(**overrides):
  """Builds a tiny Swin whose every parameter is random, without compiling."""
  model = nnx.eval_shape(lambda: Swin(**(TINY | overrides), rngs=nnx.Rngs(0)))
  graphdef, state = nnx.split(model)
  rng = np.random.default_rng(0)

  def draw(leaf):
    return jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype)

  return nnx.merge(graphdef, jax.tree.map(draw, state))


@functools.cache
def published(size):
  """The shapes of a published network, which take a while to find."""
  return nnx.eval_shape(lambda: Swin(**SWIN_SIZES[size], rngs=nnx.Rngs(0)))


@nnx.jit  # as the backbone is run, and far fewer compilations than op by op
def outputs(model, image):
  return model(image)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("size", "count"), [("swin_t", 27_520_698), ("swin_s", 48_838_602)]
)
def test_published_parameter_counts(size, count):
  model = published(size)
  leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
  assert sum(leaf.size for leaf in leaves) == count
  assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


@pytest.mark.slow
@pytest.mark.parametrize(
  ("size", "width", "blocks"),
  [("swin_t", 96, 12), ("swin_s", 96, 24), ("swin_b", 128, 24)]
  + [("swin_l", 192, 24)],
)
def test_published_sizes(size, width, blocks):
  model = published(size)
  assert list(model.channels.values()) == [width * 2**i for i in range(4)]
  assert sum(len(stage) for stage in model.stages) == blocks
  # Every published size has 32 channels a head.
  for stage, channels in zip(
    model.stages, model.channels.values(), strict=True
  ):
    assert all(b.attention.num_heads * 32 == channels for b in stage)


@pytest.mark.slow
@pytest.mark.parametrize(("h", "w"), [(224, 224), (75, 130)])
def test_output_shapes(h, w):
  model = published("swin_t")
  graphdef, state = nnx.split(model)
  maps = jax.eval_shape(
    lambda state, image: nnx.merge(graphdef, state)(image),
    state,
    jax.ShapeDtypeStruct((2, h, w, 3), jnp.float32),
  )
  assert list(maps) == ["res2", "res3", "res4", "res5"]
  for name, x in maps.items():
    stride = model.strides[name]
    side = (-(-h // stride), -(-w // stride))
    assert x.shape == (2, *side, model.channels[name])
  assert model.strides == {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


def test_the_structure_is_static_under_jit():
  graphdef, state = nnx.split(tiny())
  run = jax.jit(lambda g, s, x: nnx.merge(g, s)(x), static_argnums=0)
  image = jax.random.normal(jax.random.key(0), (2, 21, 30, 3))
  maps = run(graphdef, state, image)
  assert {name: x.shape for name, x in maps.items()} == {
    "res2": (2, 6, 8, 8),
    "res3": (2, 3, 4, 16),
  }
  assert all(jnp.isfinite(x).all() for x in maps.values())


def test_windows_come_back_in_place():
  x = np.arange(2 * 6 * 9 * 2).reshape(2, 6, 9, 2)
  cut = windows.partition(x, 3)
  assert cut.shape == (2 * 6, 9, 2)
  np.testing.assert_array_equal(cut[1], x[0, :3, 3:6].reshape(9, 2))
  np.testing.assert_array_equal(windows.join(cut, 3, 6, 9), x)


def test_relative_positions_share_a_row_exactly_when_displacements_agree():
  window = 3
  index = windows.relative_position_index(window)
  at = [divmod(i, window) for i in range(window**2)]
  rows = {}
  for i, (y, x) in enumerate(at):
    for j, (v, u) in enumerate(at):
      assert rows.setdefault((y - v, x - u), index[i, j]) == index[i, j]
  assert sorted(rows.values()) == list(range((2 * window - 1) ** 2))


def test_a_shifted_window_never_joins_opposite_borders():
  """Rolls token coordinates along and compares them within regions."""
  size, window, shift = 9, 3, 1
  regions = windows.shift_regions(size, size, window, shift)
  rows, columns = np.indices((1, size, size))[1:]
  at = np.roll(np.stack([rows, columns], -1), (-shift, -shift), (1, 2))
  cut = windows.partition(at, window)
  for tokens, ids in zip(cut, regions, strict=True):
    gaps = np.abs(tokens[:, None] - tokens[None]).max(-1)
    together = ids[:, None] == ids[None]
    assert (together == (gaps < window)).all()


@pytest.mark.slow
def test_shift_lets_windows_exchange_information():
  def reach(**overrides):
    """Tokens of res2 that change with the first token's pixels."""
    model = tiny(**overrides)
    image = jax.random.normal(jax.random.key(1), (1, 36, 36, 3))
    moved = image.at[:, :4, :4].add(1.0)
    change = outputs(model, moved)["res2"] - outputs(model, image)["res2"]
    return np.abs(change[0]).max(-1) > 0  # out of reach, nothing moves

  one = np.zeros((9, 9), bool)
  one[:3, :3] = True
  np.testing.assert_array_equal(reach(depths=(1, 1)), one)
  two = np.zeros((9, 9), bool)
  two[:4, :4] = True  # the windows of the second block start at token 1
  np.testing.assert_array_equal(reach(depths=(2, 1)), two)


@pytest.mark.slow
def test_drop_path_grows_linearly_and_acts_in_training_only():
  model = tiny(drop_path=0.3)
  rates = [b.drop_path.rate for blocks in model.stages for b in blocks]
  np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3])
  image = jax.random.normal(jax.random.key(2), (4, 12, 12, 3))
  plain = outputs(model, image)["res3"]
  np.testing.assert_array_equal(plain, outputs(tiny(), image)["res3"])

  @nnx.jit
  def train(model, image):
    return model(
      image,
      train=True,
      rngs=ExampleRngs(jax.random.split(jax.random.key(0), 4)),
    )["res3"]

  assert not np.allclose(plain, train(model, image))


@pytest.mark.slow
def test_every_parameter_gets_a_gradient():
  graphdef, params = nnx.split(tiny())
  image = jax.random.normal(jax.random.key(3), (2, 36, 36, 3))

  def loss(params):
    maps = nnx.merge(graphdef, params)(image)
    return sum(jnp.sum(jnp.sin(x)) for x in maps.values())

  for path, leaf in jax.tree_util.tree_leaves_with_path(
    jax.jit(jax.grad(loss))(params)
  ):
    assert jnp.isfinite(leaf).all(), path
    assert jnp.abs(leaf).max() > 0, path


@pytest.mark.slow
@pytest.mark.parametrize("maps", [1, 3])
def test_attention_s_gradients_are_jax_s_own(maps):
  rng = np.random.default_rng(0)
  q, k, v, g = jnp.asarray(rng.normal(size=(4, 6, 9, 2, 4)), jnp.float32)
  bias = jnp.asarray(rng.normal(size=(maps, 2, 9, 9)), jnp.float32)

  def plain(q, k, v, bias):
    logits = jnp.einsum("mqhc,mkhc->mhqk", q, k) / 2
    logits += jnp.tile(bias, (6 // maps, 1, 1, 1))
    return jnp.einsum("mhqk,mkhc->mqhc", jax.nn.softmax(logits), v)

  expected, back = jax.vjp(plain, q, k, v, bias)
  found, ours = jax.vjp(swin_attention._mix, q, k, v, bias)
  np.testing.assert_allclose(found, expected, atol=1e-6)
  for a, b in zip(ours(g), back(g), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shifted", [False, True])
def test_windows_padded_for_gpus_give_the_same(monkeypatch, shifted):
  rng = np.random.default_rng(0)
  attention = swin_attention.WindowAttention(
    8, 2, 3, dtype=jnp.float32, rngs=nnx.Rngs(0)
  )
  x = jnp.asarray(rng.normal(size=(8, 9, 8)), jnp.float32)
  regions = rng.integers(3, size=(4, 9)) if shifted else None
  expected = attention(x, regions)
  monkeypatch.setattr(flash, "_capability", lambda: 9.0)
  np.testing.assert_allclose(attention(x, regions), expected, atol=1e-6)


def test_heads_must_divide_channels():
  with pytest.raises(InputError, match="3 heads"):
    tiny(num_heads=(3, 2))
