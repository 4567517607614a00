"""The supervised loss against NumPy, for a network of fixed outputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sseg_jax import default_config
from sseg_jax.models import sseg
from sseg_jax.tasks import supervised

# So that 254, the neighbour of the ignored label 255, is a class.
CLASSES, B, N, K, SIDE = 255, 3, 5, 4, 16


def _outputs():
  rng = np.random.default_rng(0)
  side = SIDE // 4

  def draw(*shape):
    return rng.normal(size=shape).astype(np.float32)

  outputs = sseg.ImageOutputs(
    draw(1, B, N, side, side),
    draw(B, N, 8),
    draw(B, N, 8),
    draw(B, K, 8),
    draw(B, 8),
    np.ones((B, K), np.float32),
  )
  return outputs, draw(CLASSES, 8)


def _batch():
  labels = np.full((B, SIDE, SIDE), 254, np.int32)
  labels[:, :8, :8] = 3
  labels[:, 8:, 8:] = 255
  labels[1, :8, 8:] = 255
  return {
    "id": np.arange(B, dtype=np.uint32),
    "valid": np.array([True, True, False]),
    "image": np.zeros((B, SIDE, SIDE, 3), np.uint8),
    "labels": labels,
  }


def _config(by_regions):
  c = default_config.get_config()
  c.pseudo_masks.k = K
  if by_regions:
    c.model.query_embedding, c.model.pool_masks = "mask_pooled", "pseudo"
  return c


def _loss(config, batch, outputs, text, targets=None, regions=None):
  class Fixed(sseg.SSeg):
    def __init__(self):
      self.logit_scale = nnx.Param(jnp.log(5.0))

    def encode_image(self, *_, **__):
      return outputs

    def encode_text(self, *_, **__):
      return text

  return supervised.loss(
    config,
    Fixed(),
    (
      jnp.zeros((CLASSES, 2), int),
      jnp.eye(CLASSES) if targets is None else targets,
    ),
    jax.tree.map(jnp.asarray, batch),
    jax.random.key(0),
    regions,
  )


def _log_probabilities(embeddings, text):
  embeddings, text = (
    x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (embeddings, text)
  )
  logits = 5.0 * embeddings.astype(np.float64) @ text.T
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_the_ignored_label_does_not_count_and_its_neighbour_does():
  outputs, text = _outputs()
  batch = _batch()
  _, metrics = jax.jit(lambda *a: _loss(_config(False), batch, *a))(
    outputs, text
  )
  p = np.exp(_log_probabilities(outputs.query_embeddings, text))
  s = 1 / (1 + np.exp(-outputs.mask_logits[-1].astype(np.float64)))
  scores = np.einsum("bnhw,bnc->bhwc", s / s.sum(1, keepdims=True), p)
  losses = [
    -np.log(scores[b, y, x, label])
    for (b, y, x), label in np.ndenumerate(batch["labels"][:, ::4, ::4])
    if batch["valid"][b] and label != 255
  ]
  assert len(losses) == 12 + 8
  np.testing.assert_allclose(metrics["loss/pixel"], np.mean(losses), rtol=1e-5)


def test_a_region_counts_for_its_class():
  outputs, text = _outputs()
  _, metrics = jax.jit(lambda *a: _loss(_config(True), _batch(), *a))(
    outputs, text
  )
  log_p = _log_probabilities(outputs.part_embeddings, text)
  # The present classes take the first masks in their order.
  losses = -log_p[:2, 0, 3], -log_p[:2, 1, 254]
  np.testing.assert_allclose(metrics["loss/region"], np.mean(losses), rtol=1e-5)


@pytest.mark.parametrize("soft", [False, True])
def test_a_pseudo_mask_has_the_label_of_most_of_its_pixels(soft):
  outputs, text = _outputs()
  batch = _batch()
  maps = np.zeros((B, 4, 4), np.int32)  # four pixels a cell
  maps[:, :, 2:] = 1
  maps[:, 0, 0] = 1
  maps[:, 3, 3] = 2  # has ignored pixels alone
  present = np.array([[True, True, True, False]] * B)
  # Pixels of each label in the first two regions of both valid pictures.
  pixels = np.zeros((2, 2, CLASSES))
  pixels[:, 0, 254], pixels[:, 0, 3] = 64, 48
  pixels[0, 1, 254], pixels[:, 1, 3] = 64, 16
  wanted = np.eye(CLASSES)[pixels.argmax(-1)]
  if soft:
    planes = np.zeros((B, 2, SIDE, SIDE), np.uint8)
    planes[:, 0], planes[:, 1] = 7, 51  # a fifth
    batch["soft_labels"] = planes
    wanted = 0.8 * pixels / pixels.sum(-1, keepdims=True)
    wanted[..., 7] += 0.2
  regions = jnp.asarray(maps), jnp.asarray(present)
  _, metrics = jax.jit(
    lambda *a: _loss(_config(True), batch, *a, regions=regions)
  )(outputs, text)
  log_p = _log_probabilities(outputs.part_embeddings, text)[:2, :2]
  losses = -(wanted * log_p).sum(-1)
  np.testing.assert_allclose(metrics["loss/region"], losses.mean(), rtol=1e-5)


@pytest.mark.parametrize("by_regions", [False, True])
def test_an_invalid_picture_reaches_neither_loss_nor_gradient(by_regions):
  outputs, text = _outputs()
  config, batch = _config(by_regions), _batch()

  @jax.jit
  def run(outputs, text):
    return jax.value_and_grad(
      lambda o, t: _loss(config, batch, o, t)[0], argnums=(0, 1)
    )(outputs, text)

  expected = run(outputs, text)
  for rubbish in (np.nan, np.inf):
    outputs.mask_logits[:, 2] = rubbish
    for x in outputs[1:]:
      x[2] = rubbish
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
      run(outputs, text),
      expected,
    )


def test_background_wants_all_classes_equally_unlikely():
  config = default_config.get_config()
  made = supervised.frozen(config, ("background", "cat", "dog"))
  assert made["class_tokens"].shape == (2, 77)
  np.testing.assert_allclose(
    made["class_targets"], [[0.5, 0.5], [1, 0], [0, 1]]
  )
  made = supervised.frozen(config, ("cat", "dog"))
  np.testing.assert_allclose(made["class_targets"], np.eye(2))


@pytest.mark.parametrize("by_regions", [False, True])
def test_background_is_learned_as_that(by_regions):
  outputs, text = _outputs()
  targets = np.eye(CLASSES, dtype=np.float32)
  targets[3] = 1 / CLASSES
  name = "loss/region" if by_regions else "loss/pixel"
  config, batch = _config(by_regions), _batch()
  run = jax.jit(lambda *a: _loss(config, batch, *a)[1][name])
  # With equal embeddings all classes are equally likely: log(classes), and no
  # other target of label 3 is so easy.
  same = outputs._replace(
    query_embeddings=0 * outputs.query_embeddings + 1,
    part_embeddings=0 * outputs.part_embeddings + 1,
  )
  ones = np.ones_like(text)
  np.testing.assert_allclose(
    run(same, ones, targets), np.log(CLASSES), rtol=1e-5
  )
  p = _log_probabilities(outputs.part_embeddings, text)
  if by_regions:
    losses = -p[:2, 0].mean(-1), -p[:2, 1, 254]
    np.testing.assert_allclose(
      run(outputs, text, targets), np.mean(losses), rtol=1e-5
    )
