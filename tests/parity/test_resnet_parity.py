"""The ResNet backbone against transformers'."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from torch_weights import load, relative_error

from sseg_jax.models import pretrained
from sseg_jax.models.resnet import LEVELS, ResNet

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

DEPTHS, WIDTH = (2, 1, 2, 1), 16


def randomize(module) -> None:
  """Draws weights that keep signals alive, and statistics that are not 0, 1."""
  torch.manual_seed(0)
  with torch.no_grad():
    for layer in module.modules():
      if isinstance(layer, torch.nn.Conv2d):
        fan_in = layer.weight[0].numel()
        layer.weight.normal_(0, (2 / fan_in) ** 0.5)
      elif isinstance(layer, torch.nn.BatchNorm2d):
        layer.weight.normal_(1, 0.1)
        layer.bias.normal_(0, 0.1)
        layer.running_mean.normal_(0, 0.1)
        layer.running_var.uniform_(0.5, 2)


def reference():
  config = transformers.ResNetConfig(
    embedding_size=WIDTH,
    hidden_sizes=[4 * WIDTH * 2**i for i in range(4)],
    depths=list(DEPTHS),
    layer_type="bottleneck",
    out_features=["stage1", "stage2", "stage3", "stage4"],
  )
  module = transformers.ResNetBackbone(config)
  randomize(module)
  return module


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 64), (96, 64)])
def test_outputs(size):
  module = reference().eval()
  model = ResNet(depths=DEPTHS, width=WIDTH, rngs=nnx.Rngs(0))
  load(model, pretrained.resnet, module)
  image = np.random.default_rng(0).normal(size=(2, *size, 3))
  image = image.astype(np.float32)
  with torch.inference_mode():
    theirs = module(torch.from_numpy(image.transpose(0, 3, 1, 2).copy()))
  ours = model(jnp.asarray(image))
  for name, expected in zip(LEVELS, theirs.feature_maps, strict=True):
    expected = expected.numpy().transpose(0, 2, 3, 1)
    assert relative_error(ours[name], expected) < 1e-5


@pytest.mark.slow
def test_training_takes_and_keeps_the_batch_s_statistics():
  module = reference().train()
  model = ResNet(depths=DEPTHS, width=WIDTH, rngs=nnx.Rngs(0))
  load(model, pretrained.resnet, module)
  image = np.random.default_rng(0).normal(size=(4, 64, 64, 3))
  image = image.astype(np.float32)
  with torch.no_grad():
    theirs = module(torch.from_numpy(image.transpose(0, 3, 1, 2).copy()))
  ours = model(jnp.asarray(image), train=True)
  expected = theirs.feature_maps[-1].numpy().transpose(0, 2, 3, 1)
  assert relative_error(ours["res5"], expected) < 1e-4
  kept = module.embedder.embedder.normalization
  mean = kept.running_mean.numpy()
  np.testing.assert_allclose(model.stem.norm.mean[...], mean, atol=1e-5)
  # Of the variance torch keeps the unbiased estimate, flax the biased one.
  cells = 4 * 32 * 32
  before = reference().embedder.embedder.normalization.running_var.numpy()
  ours_new = np.asarray(model.stem.norm.var[...]) - 0.9 * before
  theirs_new = kept.running_var.numpy() - 0.9 * before
  np.testing.assert_allclose(
    ours_new * cells / (cells - 1), theirs_new, rtol=1e-3, atol=1e-5
  )
