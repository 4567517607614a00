"""Losses and their gradients against torch's own functions, in float32."""

import jax
import jax.numpy as jnp
import mask_losses
import numpy as np
import pytest

from sseg_jax import losses, matching

torch = pytest.importorskip("torch")
functional = torch.nn.functional
_cost_matrix = jax.jit(matching.cost_matrix)
_match = jax.jit(matching.match)

TOLERANCE = {"rtol": 2e-5, "atol": 1e-6}


def _torch_focal(logits, targets):  # [m, pixels] -> [m]
  cross_entropy = functional.binary_cross_entropy_with_logits(
    logits, targets, reduction="none"
  )
  p = torch.sigmoid(logits)
  p_right = p * targets + (1 - p) * (1 - targets)
  alpha = 0.25 * targets + 0.75 * (1 - targets)
  return (alpha * cross_entropy * (1 - p_right) ** 2).mean(1)


def _torch_dice(logits, targets):
  p = torch.sigmoid(logits)
  overlap = 2 * (p * targets).sum(1)
  return 1 - (overlap + 1) / (p.sum(1) + targets.sum(1) + 1)


def _tensor(x):
  return torch.tensor(np.array(x), requires_grad=True)


def test_contrastive_and_its_gradients():
  rng = np.random.default_rng(0)
  image, text = rng.normal(size=(2, 7, 12)).astype(np.float32)
  valid = np.array([1, 1, 0, 1, 1, 0, 1], bool)
  scale = np.float32(np.log(1 / 0.07))

  tensors = [_tensor(x) for x in (image, text, scale)]
  kept = [functional.normalize(x[torch.tensor(valid)]) for x in tensors[:2]]
  logits = tensors[2].exp().clamp(max=100) * kept[0] @ kept[1].T
  target = torch.arange(len(logits))
  expected = functional.cross_entropy(logits, target)
  expected = expected + functional.cross_entropy(logits.T, target)
  expected.backward()

  @jax.jit
  def loss(image, text, scale):
    return losses.contrastive(
      image, text, scale, jnp.asarray(valid), max_logit_scale=100.0
    )[0]

  value, gradients = jax.value_and_grad(loss, (0, 1, 2))(
    jnp.asarray(image), jnp.asarray(text), jnp.asarray(scale)
  )
  np.testing.assert_allclose(value, expected.item(), **TOLERANCE)
  for mine, tensor in zip(gradients, tensors, strict=True):
    np.testing.assert_allclose(mine, tensor.grad.numpy(), **TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("label_size", [(21, 17), (8, 12)])
def test_mask_loss_and_its_gradient(label_size):
  rng = np.random.default_rng(1)
  layers, b, n, k, h, w = 2, 3, 6, 3, 8, 12
  logits = (4 * rng.normal(size=(layers, b, n, h, w))).astype(np.float32)
  labels = rng.integers(0, k + 1, (b, *label_size)).astype(np.int32)
  valid = np.array([[1, 1, 1], [1, 0, 1], [0, 0, 0]], bool)

  @jax.jit
  def loss(logits):
    return losses.mask_loss(
      logits,
      jnp.asarray(labels),
      jnp.asarray(valid),
      dice_weight=1.0,
      focal_weight=20.0,
      k=k,
    )

  (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(
    jnp.asarray(logits)
  )

  # The matching is compared with scipy elsewhere; here it is given.
  masks = torch.tensor(labels[:, None] == np.arange(k)[:, None, None]).float()
  small = functional.interpolate(masks, size=(h, w), mode="nearest")
  cost = _cost_matrix(jnp.asarray(logits), jnp.asarray(small))
  tensor = _tensor(logits)
  expected, last = 0.0, []
  for layer in range(layers):
    index = np.asarray(_match(cost[layer], jnp.asarray(valid)))
    large = functional.interpolate(
      tensor[layer], size=label_size, mode="bilinear", align_corners=False
    )
    rows = [(i, j) for i in range(b) for j in range(k) if valid[i, j]]
    chosen = torch.stack([large[i, index[i, j]].flatten() for i, j in rows])
    wanted = torch.stack([masks[i, j].flatten() for i, j in rows])
    last = [
      f(chosen, wanted).sum() / len(rows) for f in (_torch_dice, _torch_focal)
    ]
    expected = expected + last[0] + 20 * last[1]
  expected.backward()

  np.testing.assert_allclose(value, expected.item(), **TOLERANCE)
  np.testing.assert_allclose(metrics["dice"], last[0].item(), **TOLERANCE)
  np.testing.assert_allclose(metrics["focal"], last[1].item(), **TOLERANCE)
  np.testing.assert_allclose(gradient, tensor.grad.numpy(), **TOLERANCE)


@pytest.mark.slow
def test_costs_assignment_and_losses_are_maskformer_s():
  """Against transformers' MaskFormerHungarianMatcher and MaskFormerLoss."""
  pytest.importorskip("transformers")
  rng = np.random.default_rng(0)
  b, n, k = 8, 12, 5
  logits = (4 * rng.normal(size=(b, n, 12, 16))).astype(np.float32)
  labels = rng.integers(0, k + 1, (b, 6, 8)).repeat(8, 1).repeat(8, 2)
  valid = np.array([[(one == j).any() for j in range(k)] for one in labels])
  valid[0, 1] = False  # a mask that is not to be matched
  present = [
    np.stack([(one == j) for j in np.flatnonzero(ok)]).astype(np.float32)
    for one, ok in zip(labels, valid, strict=True)
  ]
  theirs = mask_losses.reference(logits, present)

  small = losses.resize_labels(jnp.asarray(labels, jnp.int32), (12, 16))
  small = jax.nn.one_hot(small, k, axis=1)
  cost = matching.cost_matrix(
    jnp.asarray(logits)[None], small, dice=1.0, focal=20.0
  )[0]
  index = np.asarray(_match(cost, jnp.asarray(valid)))
  for i in range(b):
    np.testing.assert_allclose(
      np.asarray(cost[i])[valid[i]], theirs["costs"][i], rtol=1e-4
    )
    np.testing.assert_array_equal(index[i][valid[i]], theirs["index"][i])

  @jax.jit
  def loss(logits):
    return losses.mask_loss(
      logits[None],
      jnp.asarray(labels, jnp.int32),
      jnp.asarray(valid),
      dice_weight=1.0,
      focal_weight=20.0,
      k=k,
    )

  (_, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(
    jnp.asarray(logits)
  )
  for name in ("dice", "focal"):
    np.testing.assert_allclose(metrics[name], theirs[name], rtol=1e-5)
  np.testing.assert_allclose(gradient, theirs["gradient"], **TOLERANCE)


@pytest.mark.parametrize("size", [(14, 28), (56, 56), (9, 31), (5, 3), (7, 14)])
def test_resizing_is_torch_s(size):
  rng = np.random.default_rng(3)
  values = rng.normal(size=(2, 3, 7, 14)).astype(np.float32)
  tensor = torch.tensor(values)
  expected = functional.interpolate(
    tensor, size=size, mode="bilinear", align_corners=False
  )
  # Torch computes its sampling positions in float32: weights differ by 1e-6.
  np.testing.assert_allclose(
    losses.resize_bilinear(jnp.asarray(values), size),
    expected.numpy(),
    rtol=1e-5,
    atol=1e-5,
  )
  labels = rng.integers(0, 99, (2, 7, 14))
  expected = functional.interpolate(
    torch.tensor(labels)[:, None].float(), size=size, mode="nearest"
  )[:, 0]
  np.testing.assert_array_equal(
    losses.resize_labels(jnp.asarray(labels), size),
    expected.numpy().astype(int),
  )
