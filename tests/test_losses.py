"""Losses against float64 NumPy, and what invalid rows may not touch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sseg_jax import losses, matching

WEIGHTS = {"dice_weight": 1.0, "focal_weight": 20.0}


contrastive = jax.jit(losses.contrastive, static_argnames="max_logit_scale")
mask_loss = jax.jit(
  losses.mask_loss, static_argnames=("dice_weight", "focal_weight", "k", "size")
)
dice = jax.jit(losses.dice)
focal = jax.jit(losses.focal)


def _sigmoid(x):
  return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def _contrastive(image, text, scale, valid):
  """Eq. 2-3 over the valid pairs alone, in float64."""
  image, text = (np.asarray(x, np.float64)[valid] for x in (image, text))
  image /= np.linalg.norm(image, axis=1, keepdims=True)
  text /= np.linalg.norm(text, axis=1, keepdims=True)
  logits = scale * image @ text.T
  down = np.log(np.exp(logits).sum(0)) - np.diag(logits)
  across = np.log(np.exp(logits).sum(1)) - np.diag(logits)
  return across.mean(), down.mean()


def _pairs(b=6, e=5):
  rng = np.random.default_rng(0)
  image, text = rng.normal(size=(2, b, e)).astype(np.float32)
  return image, text, np.array([True, True, False, True, False, True][:b])


def _masks(layers=2, b=2, n=5, k=3, h=6, w=4):
  rng = np.random.default_rng(1)
  logits = 3 * rng.normal(size=(layers, b, n, h, w)).astype(np.float32)
  labels = rng.integers(0, k, (b, 2 * h, 2 * w)).astype(np.int32)
  valid = np.array([[True, True, False], [True, False, False]])
  return logits, labels, valid


def test_contrastive_equals_the_formula_over_valid_pairs():
  image, text, valid = _pairs()
  loss, metrics = contrastive(
    image, text, jnp.float32(np.log(7)), valid, max_logit_scale=100.0
  )
  across, down = _contrastive(image, text, 7, valid)
  np.testing.assert_allclose(loss, across + down, rtol=1e-5)
  np.testing.assert_allclose(metrics["contrastive_i2t"], across, rtol=1e-5)
  np.testing.assert_allclose(metrics["contrastive_t2i"], down, rtol=1e-5)
  np.testing.assert_allclose(metrics["logit_scale"], 7, rtol=1e-5)


def test_contrastive_accuracy_counts_valid_pairs_only():
  image = np.eye(4, dtype=np.float32)
  text = image[[0, 2, 2, 3]]  # of the valid pairs, 1 -> its text is another's
  valid = np.array([True, True, True, False])
  _, metrics = contrastive(
    image, text, jnp.float32(1), valid, max_logit_scale=100.0
  )
  # Image 1 finds no text, image 2 finds text 1 first; text 1 finds image 2.
  assert metrics["image_to_text_accuracy"] == pytest.approx(1 / 3)
  assert metrics["text_to_image_accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("block", [1, 4, 12])
def test_contrastive_in_blocks_is_the_same_with_its_gradients(block):
  image, text, _ = _pairs(b=12)
  valid = jnp.arange(12) % 5 != 1

  def value(image, text, scale, block):
    loss, metrics = losses.contrastive(
      image, text, scale, valid, max_logit_scale=100.0, block=block
    )
    return loss, metrics

  both = jax.jit(
    jax.value_and_grad(value, argnums=(0, 1, 2), has_aux=True),
    static_argnames="block",
  )
  whole = both(image, text, jnp.float32(3), block=0)
  parts = both(image, text, jnp.float32(3), block=block)
  assert float(whole[0][0]) > 1
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
    whole,
    parts,
  )


def test_contrastive_in_blocks_never_holds_all_logits():
  b = 256
  shapes = [jax.ShapeDtypeStruct((b, 8), jnp.float32)] * 2
  shapes += [jax.ShapeDtypeStruct((), jnp.float32)]
  shapes += [jax.ShapeDtypeStruct((b,), jnp.bool_)]

  def compiled(block):
    def value(*arguments):
      return losses.contrastive(*arguments, max_logit_scale=100.0, block=block)

    gradient = jax.value_and_grad(value, argnums=(0, 1, 2), has_aux=True)
    return jax.jit(gradient).lower(*shapes).compile().as_text()

  assert f"f32[{b},{b}]" in compiled(0)
  assert f"f32[{b},{b}]" not in compiled(16)


def test_contrastive_scale_is_clamped_where_it_is_used():
  image, text, valid = _pairs()

  def loss(scale):
    return contrastive(image, text, scale, valid, max_logit_scale=100.0)

  for huge in (10.0, 1000.0):  # exp(1000) is infinite
    (_, metrics), slope = jax.value_and_grad(loss, has_aux=True)(
      jnp.float32(huge)
    )
    np.testing.assert_allclose(metrics["logit_scale"], 100, rtol=1e-5)
    assert slope == 0


@pytest.mark.parametrize("rubbish", [0.0, np.nan])
def test_contrastive_invalid_pairs_touch_nothing(rubbish):
  image, text, valid = _pairs()
  image[~valid] = text[~valid] = rubbish

  def loss(image, text):
    return contrastive(
      image, text, jnp.float32(2), valid, max_logit_scale=100.0
    )[0]

  value, gradients = jax.value_and_grad(loss, (0, 1))(image, text)
  np.testing.assert_allclose(
    value, sum(_contrastive(image, text, np.exp(2), valid)), rtol=1e-5
  )
  for gradient in gradients:
    np.testing.assert_array_equal(gradient[~valid], 0)
    assert np.isfinite(gradient).all() and np.abs(gradient[valid]).min() > 0


def test_contrastive_of_zero_embeddings_and_of_no_valid_pair_is_finite():
  zeros = jnp.zeros((3, 4))
  for valid in (np.ones(3, bool), np.zeros(3, bool)):
    value, gradient = jax.value_and_grad(
      lambda x, valid=valid: contrastive(
        x, x, jnp.float32(1), valid, max_logit_scale=100.0
      )[0]
    )(zeros)
    expected = 2 * np.log(3) if valid.any() else 0
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert np.isfinite(gradient).all()


def test_dice_and_focal_equal_the_formulas():
  logits, _, valid = _masks()
  logits = logits[:, :, :3]
  masks = np.random.default_rng(2).integers(0, 2, logits.shape[1:])
  masks = masks.astype(np.float32)
  p, t = _sigmoid(logits), masks.astype(np.float64)
  dice_loss = 1 - (2 * (p * t).sum((3, 4)) + 1) / ((p + t).sum((3, 4)) + 1)
  focal_loss = np.where(
    t == 1, 0.25 * (1 - p) ** 2 * -np.log(p), 0.75 * p**2 * -np.log(1 - p)
  ).mean((3, 4))
  for function, per_mask in ((dice, dice_loss), (focal, focal_loss)):
    expected = (per_mask * valid).sum((1, 2)) / 3
    got = function(logits, masks, valid)  # a value for each layer
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    one = function(logits[1], masks, valid)  # without the layers axis
    np.testing.assert_allclose(one, expected[1], rtol=1e-5)


def test_focal_is_stable_far_from_zero():
  logits = jnp.array([[[[1e4, -1e4]]]])
  masks = np.array([[[[0.0, 1.0]]]])
  value, gradient = jax.value_and_grad(focal)(
    logits, masks, np.ones((1, 1), bool)
  )
  np.testing.assert_allclose(value, (0.75 + 0.25) * 1e4 / 2)
  np.testing.assert_allclose(gradient[0, 0, 0], [0.375, -0.125])


def test_mask_loss_of_perfect_masks_is_nearly_zero_whatever_the_query_order():
  labels = np.random.default_rng(3).integers(0, 3, (2, 6, 4))
  truth = labels[:, None] == np.arange(3)[:, None, None]
  logits = np.where(truth, 20.0, -20.0).astype(np.float32)
  order = [2, 0, 1]
  other = -np.ones_like(logits)  # queries that no mask wants
  both = np.concatenate([other, logits[:, order]], 1)[None]
  loss, _ = mask_loss(both, labels, np.ones((2, 3), bool), k=3, **WEIGHTS)
  assert loss < 1e-4
  labels[labels == 2] = 255  # in no mask: the query of label 2 is now wrong
  loss, _ = mask_loss(both, labels, np.ones((2, 3), bool), k=3, **WEIGHTS)
  assert loss > 0.1


def test_mask_loss_sums_layers_and_reports_the_last():
  logits, labels, valid = _masks()
  total, metrics = mask_loss(logits, labels, valid, k=3, **WEIGHTS)
  parts = [
    mask_loss(layer[None], labels, valid, k=3, **WEIGHTS) for layer in logits
  ]
  np.testing.assert_allclose(total, parts[0][0] + parts[1][0], rtol=1e-5)
  for name in ("dice", "focal"):
    np.testing.assert_allclose(metrics[name], parts[1][1][name], rtol=1e-5)
  expected = metrics["dice"] + 20 * metrics["focal"]
  np.testing.assert_allclose(parts[1][0], expected, rtol=1e-5)


def test_mask_loss_gradient_reaches_matched_queries_only():
  logits, labels, valid = _masks()
  gradient = jax.grad(lambda x: mask_loss(x, labels, valid, k=3, **WEIGHTS)[0])(
    logits
  )
  reached = np.abs(gradient).max((3, 4)) > 0  # [layers, b, n]
  np.testing.assert_array_equal(reached.sum(2), [[2, 1], [2, 1]])


def test_mask_loss_without_a_valid_mask_is_zero_with_zero_gradient():
  logits, labels, valid = _masks()
  value, gradient = jax.value_and_grad(
    lambda x: mask_loss(x, labels, valid & False, k=3, **WEIGHTS)[0]
  )(logits)
  assert value == 0
  np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("rubbish", [np.nan, np.inf, -np.inf])
def test_invalid_masks_reach_neither_losses_nor_gradients(rubbish):
  logits, _, valid = _masks(n=3)
  masks = (logits[0] > 1).astype(np.float32)
  dirty, dirty_masks = logits.copy(), masks.copy()
  dirty[:, ~valid] = dirty_masks[~valid] = rubbish
  for function in (dice, focal):
    one, other = (
      jax.value_and_grad(lambda x, m, f=function: f(x, m, valid).sum())(x, m)
      for x, m in ((logits, masks), (dirty, dirty_masks))
    )
    np.testing.assert_allclose(other[0], one[0], rtol=1e-6)
    np.testing.assert_allclose(other[1], one[1], rtol=1e-6)


@pytest.mark.parametrize("rubbish", [np.nan, np.inf, -np.inf])
def test_mask_loss_sees_neither_bad_pictures_nor_bad_queries(rubbish):
  """A query that is not finite goes to a mask that does not count."""
  logits, labels, _ = _masks(n=3)
  valid = np.array([[True, True, False], [False, False, False]])
  bad = np.array([[False, False, True], [True, True, True]])
  logits[:, bad] = rubbish
  value, gradient = jax.value_and_grad(
    lambda x: mask_loss(x, labels, valid, k=3, **WEIGHTS)[0]
  )(logits)
  assert 0 < value < np.inf
  assert np.isfinite(gradient).all()
  np.testing.assert_array_equal(gradient[:, bad], 0)
  assert np.abs(gradient[:, ~bad]).max((2, 3)).min() > 0


def test_mask_loss_takes_a_coarser_label_map_at_the_size_of_the_logits():
  logits, labels, valid = _masks()
  coarse = labels[:, :3, :2]  # half the logits' 6x4
  fine = coarse.repeat(2, 1).repeat(2, 2)
  np.testing.assert_allclose(
    mask_loss(logits, coarse, valid, k=3, **WEIGHTS)[0],
    mask_loss(logits, fine, valid, k=3, **WEIGHTS)[0],
    rtol=1e-6,
  )


@pytest.mark.slow
@pytest.mark.parametrize("stride", [1, 4])
def test_mask_loss_at_a_size_of_its_own(stride):
  """As of logits and labels that were brought to that size before."""
  logits, labels, valid = _masks()  # labels 12x8, logits 6x4
  size = (24 // stride, 16 // stride)
  value, gradient = jax.value_and_grad(
    lambda x: mask_loss(x, labels, valid, k=3, size=size, **WEIGHTS)[0]
  )(logits)

  @jax.jit
  def brought(x):
    small = losses.resize_labels(jnp.asarray(labels), x.shape[-2:])
    small = jax.nn.one_hot(small, 3, axis=1)
    costs = matching.cost_matrix(
      jax.lax.stop_gradient(x), small, dice=1.0, focal=20.0
    )
    index = jax.vmap(matching.match, (0, None))(costs, jnp.asarray(valid))
    masks = losses.resize_labels(jnp.asarray(labels), size)
    masks = jax.nn.one_hot(masks, 3, axis=1)
    x = jnp.take_along_axis(x, index[..., None, None], axis=2)
    x = losses.resize_bilinear(x, size)
    return (dice(x, masks, valid) + 20 * focal(x, masks, valid)).sum()

  expected, of_brought = jax.value_and_grad(brought)(jnp.asarray(logits))
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  np.testing.assert_allclose(gradient, of_brought, rtol=1e-4, atol=1e-6)


def test_resize_labels_takes_floor_of_the_scaled_index():
  labels = np.arange(5)[None] + np.zeros((3, 1), int)
  np.testing.assert_array_equal(
    losses.resize_labels(jnp.asarray(labels), (2, 3)), [[0, 1, 3]] * 2
  )
  np.testing.assert_array_equal(
    losses.resize_labels(jnp.asarray(labels), (3, 10))[0],
    np.arange(5).repeat(2),
  )


def test_resize_bilinear_doubles_a_ramp_by_half_pixels():
  ramp = jnp.array([[0.0, 1.0, 2.0]])
  np.testing.assert_allclose(
    losses.resize_bilinear(ramp, (2, 6)), [[0, 0.25, 0.75, 1.25, 1.75, 2]] * 2
  )


def test_everything_is_float32_under_strict_promotion():
  logits, labels, valid = _masks()
  image, text, pair_valid = _pairs()
  low = jnp.bfloat16
  with jax.numpy_dtype_promotion("strict"):
    mask = jax.eval_shape(
      lambda *a: mask_loss(*a, k=3, **WEIGHTS),
      logits.astype(low),
      labels,
      valid,
    )
    pair = jax.eval_shape(
      lambda *a: contrastive(*a, max_logit_scale=100.0),
      image.astype(low),
      text.astype(low),
      jnp.float32(1),
      pair_valid,
    )
  values = jax.tree.leaves((mask, pair))
  assert all(v.dtype == jnp.float32 and v.shape == () for v in values)
