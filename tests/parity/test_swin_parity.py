"""The Swin backbone against MaskFormer's and Swin's own in transformers."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from torch_weights import load, randomize, relative_error

from sseg_jax.models import pretrained
from sseg_jax.models.swin import SWIN_SIZES, Swin

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TINY = dict(embed_dim=16, depths=(2, 2, 3, 2), num_heads=(1, 2, 4, 8), window=7)


def random_pair(kind, size):
  """Returns transformers' backbone with random weights and our copy of it."""
  config = getattr(transformers, f"{kind}Config")(
    embed_dim=size["embed_dim"],
    depths=list(size["depths"]),
    num_heads=list(size["num_heads"]),
    window_size=7,
    drop_path_rate=0.0,
    out_features=["stage1", "stage2", "stage3", "stage4"],
  )
  reference = getattr(transformers, f"{kind}Backbone")(config).eval()
  randomize(reference)
  model = Swin(**size, rngs=nnx.Rngs(0))
  load(model, pretrained.swin, reference)
  return reference, model


def relative_errors(reference, model, height, width):
  image = np.random.default_rng(1).normal(size=(2, height, width, 3))
  image = image.astype(np.float32)
  with torch.no_grad():
    pixels = torch.from_numpy(image.transpose(0, 3, 1, 2).copy())
    expected = reference(pixels).feature_maps
  run = nnx.jit(lambda model, image: model(image))
  errors = {
    name: relative_error(ours, theirs.permute(0, 2, 3, 1))
    for (name, ours), theirs in zip(
      run(model, jnp.asarray(image)).items(), expected, strict=True
    )
  }
  print({name: f"{error:.1e}" for name, error in errors.items()})
  return errors


@pytest.mark.slow
@pytest.mark.parametrize("size", [(75, 130), (224, 224)], ids=str)
def test_tiny_equals_maskformer(size):
  errors = relative_errors(*random_pair("MaskFormerSwin", TINY), *size)
  assert max(errors.values()) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("size", [(100, 180)], ids=str)
def test_swin_t_equals_maskformer(size):
  pair = random_pair("MaskFormerSwin", SWIN_SIZES["swin_t"])
  assert max(relative_errors(*pair, *size).values()) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("size", [(270, 330)], ids=str)
def test_tiny_equals_swin_where_maps_exceed_a_window(size):
  errors = relative_errors(*random_pair("Swin", TINY), *size)
  assert max(errors.values()) <= 1e-4
