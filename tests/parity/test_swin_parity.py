"""The Swin backbone against MaskFormer's and Swin's own in transformers."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from torch_weights import TorchWeights, randomize, relative_error

from sseg_jax.models.swin import SWIN_SIZES, Swin

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TINY = dict(embed_dim=16, depths=(2, 2, 3, 2), num_heads=(1, 2, 4, 8), window=7)

# transformers' two ports of Swin name the same parts differently.
SWIN_TO_MASKFORMER = [
  (r"^swin\.", ""),
  (r"attention\.q_proj", "attention.self.query"),
  (r"attention\.k_proj", "attention.self.key"),
  (r"attention\.v_proj", "attention.self.value"),
  (r"attention\.o_proj", "attention.output.dense"),
  (r"attention\.relative_position_bias\.", "attention.self."),
  (r"mlp\.fc1", "intermediate.dense"),
  (r"mlp\.fc2", "output.dense"),
]


def swin_weights(module) -> TorchWeights:
  """Returns the weights of either port under MaskFormerSwinBackbone's names."""
  weights = {}
  for name, value in module.state_dict().items():
    name = name.removeprefix("model.")
    for pattern, replacement in SWIN_TO_MASKFORMER:
      name = re.sub(pattern, replacement, name)
    name = re.sub(  # listed as stage1 … or as 0 …
      r"norms\.stage(\d)", lambda m: f"norms.{int(m[1]) - 1}", name
    )
    # An index that follows from the window, and a norm backbones leave unused.
    if not re.search(r"relative_position_index|^layernorm\.", name):
      weights[name] = value.numpy()
  return TorchWeights(weights)


def copy_swin(model: Swin, weights: TorchWeights) -> None:
  """Writes weights with MaskFormerSwinBackbone's names into `model`."""
  weights.conv(model.patch_embedding, "embeddings.patch_embeddings.projection")
  weights.norm(model.patch_norm, "embeddings.norm")
  for i, blocks in enumerate(model.stages):
    for j, block in enumerate(blocks):
      layer = f"encoder.layers.{i}.blocks.{j}"
      attention = f"{layer}.attention.self"
      weights.norm(block.norm1, f"{layer}.layernorm_before")
      weights.linear(
        block.attention.qkv,
        *(f"{attention}.{name}" for name in ("query", "key", "value")),
      )
      block.attention.relative_position_bias[...] = weights.take(
        f"{attention}.relative_position_bias_table"
      )
      weights.linear(block.attention.out, f"{layer}.attention.output.dense")
      weights.norm(block.norm2, f"{layer}.layernorm_after")
      weights.linear(block.mlp_in, f"{layer}.intermediate.dense")
      weights.linear(block.mlp_out, f"{layer}.output.dense")
  for i, merge in enumerate(model.merges):
    weights.norm(merge.norm, f"encoder.layers.{i}.downsample.norm")
    weights.linear(merge.reduction, f"encoder.layers.{i}.downsample.reduction")
  for i, norm in enumerate(model.norms):
    weights.norm(norm, f"hidden_states_norms.{i}")


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
  weights = swin_weights(reference)
  copy_swin(model, weights)
  assert not weights.unused
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
@pytest.mark.parametrize("size", [(64, 64), (75, 130), (224, 224)], ids=str)
def test_tiny_equals_maskformer(size):
  errors = relative_errors(*random_pair("MaskFormerSwin", TINY), *size)
  assert max(errors.values()) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("size", [(224, 224), (100, 180)], ids=str)
def test_swin_t_equals_maskformer(size):
  pair = random_pair("MaskFormerSwin", SWIN_SIZES["swin_t"])
  assert max(relative_errors(*pair, *size).values()) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("size", [(256, 256), (270, 330)], ids=str)
def test_tiny_equals_swin_where_maps_exceed_a_window(size):
  errors = relative_errors(*random_pair("Swin", TINY), *size)
  assert max(errors.values()) <= 1e-4
