"""PAMR against torch, and what it must do whatever the formula."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from sseg_jax.inference import pamr


def blurred(rng, h, w, c):
  """Smooth values in [0, 1], float32 [h, w, c]."""
  coarse = rng.integers(0, 256, (6, 7, c), dtype=np.uint8)
  parts = [Image.fromarray(coarse[..., i]).resize((w, h)) for i in range(c)]
  return np.stack(parts, -1).astype(np.float32) / 255


@pytest.mark.parametrize(
  ("size", "dilations"), [((60, 80), pamr.DILATIONS), ((5, 33), (1, 3))]
)
def test_equals_torch(rng, size, dilations):
  torch = pytest.importorskip("torch")
  import torch_pamr

  image = 255 * np.moveaxis(blurred(rng, *size, 3), -1, 0)
  image[:, :4, :9] = 7  # one colour: differences and deviation are 0
  maps = np.moveaxis(blurred(rng, *size, 4), -1, 0)
  expected = torch_pamr.pamr(
    torch.from_numpy(image), torch.from_numpy(maps), dilations
  )
  found = pamr.pamr(jnp.asarray(image), jnp.asarray(maps), dilations)
  np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)
  assert np.abs(np.asarray(found) - maps).max() > 0.05


@pytest.mark.parametrize("size", [(64, 96), (63, 49), (3, 1), (1, 200)])
def test_a_window_equals_torch(rng, size):
  torch = pytest.importorskip("torch")
  import torch_pamr

  window = 255 * blurred(rng, *size, 3)
  scores = blurred(rng, *size, 3)
  found = pamr.refined(window, scores)
  assert found.dtype == np.float32 and found.shape == scores.shape
  expected = torch_pamr.refined(*map(torch.from_numpy, (window, scores)))
  np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_weights_sum_to_one_and_scores_stay_between():
  image = jnp.zeros((3, 20, 30)).at[:, :, 15:].set(200.0)
  weights = np.asarray(pamr.affinities(image))
  assert weights.shape == (48, 20, 30)
  np.testing.assert_allclose(weights.sum(0), 1, rtol=1e-5)
  # Far from the edge all neighbours look the same.
  one = np.asarray(pamr.affinities(image[..., :10]))
  np.testing.assert_allclose(one, 1 / 48, rtol=1e-4)


def test_scores_move_to_the_edge_of_the_picture():
  """A mask that ends four pixels beside the edge ends at the edge afterwards.

  The colour of the edge is noise-free, so the weights across it are small.
  """
  rng = np.random.default_rng(0)
  image = rng.normal(0, 2, (3, 48, 64)).astype(np.float32)
  image[:, :, 32:] += 200
  maps = np.zeros((1, 48, 64), np.float32)
  maps[:, :, 36:] = 1
  found = np.asarray(pamr.pamr(jnp.asarray(image), jnp.asarray(maps)))[0]
  assert (found[:, 34] > 0.4).all() and (found[:, 30] < 0.2).all()
