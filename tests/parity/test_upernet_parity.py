"""UperNet over a ViT against transformers' BEiT and UperNet."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from torch_weights import load, randomize, relative_error

from sseg_jax.models import pretrained, upernet

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

WIDTH, HEAD, CLASSES = 32, 24, 5
SIZES = dict(
  patch=16, depth=12, num_heads=2, grid=4, mlp_ratio=2.0, position_rule="size"
)


@pytest.fixture(scope="module")
def reference():
  backbone = transformers.BeitConfig(
    hidden_size=WIDTH,
    num_hidden_layers=12,
    num_attention_heads=2,
    intermediate_size=2 * WIDTH,
    image_size=64,
    patch_size=16,
    layer_norm_eps=1e-6,
    layer_scale_init_value=0.0,
    use_absolute_position_embeddings=True,
    use_relative_position_bias=False,
    # As BEiT and MAE are tuned: after blocks 4, 6, 8 and 12.
    out_features=["stage4", "stage6", "stage8", "stage12"],
    add_fpn=True,
    reshape_hidden_states=True,
  )
  config = transformers.UperNetConfig(
    backbone_config=backbone,
    hidden_size=HEAD,
    use_auxiliary_head=True,
    auxiliary_in_channels=WIDTH,
    auxiliary_channels=upernet.AUXILIARY_CHANNELS,
    num_labels=CLASSES,
  )
  model = transformers.UperNetForSemanticSegmentation(config).eval()
  randomize(model)
  # Statistics as after training, to see the norms at work.
  for name, buffer in model.named_buffers():
    if name.endswith("running_mean"):
      buffer.normal_(0, 0.1)
    if name.endswith("running_var"):
      buffer.uniform_(0.5, 1.5)
  return model


_HEADS = (
  (r"^decode_head\.psp_modules\.(\d)\.1\.", r"head.pools.\1."),
  (r"^decode_head\.lateral_convs\.", "head.laterals."),
  (r"^decode_head\.fpn_convs\.", "head.outputs."),
  (r"^decode_head\.fpn_bottleneck\.", "head.join."),
  (r"^decode_head\.", "head."),
  (r"^auxiliary_head\.convs\.0\.", "auxiliary.conv."),
  (r"^auxiliary_head\.", "auxiliary."),
  (r"\.classifier\.", ".classify."),
  (r"\.batch_norm\.", ".norm."),
)


def _heads(arrays, leaves, place):
  found = {}
  for name, array in arrays.items():
    if not name.endswith("num_batches_tracked"):
      for old, new in _HEADS:
        name = re.sub(old, new, name)
      found[name] = array
  return pretrained.converted(found, leaves, place)


def _pyramid(arrays, leaves, place):
  """Converts the backbone: its ViT by the published names, and the pyramid."""
  arrays = {k.removeprefix("backbone."): v for k, v in arrays.items()}
  arrays = {k.removeprefix("beit."): v for k, v in arrays.items()}
  levels = {
    k.removeprefix("fpn."): arrays.pop(k)
    for k in list(arrays)
    if k.startswith("fpn.")
  }
  found = {}
  for i in range(12):  # BEiT's keys have no bias
    query = next(
      k for k in arrays if re.search(rf"\.{i}\..*(query|q_proj)\.bias", k)
    )
    key = query.replace("query", "key").replace("q_proj", "k_proj")
    arrays[key] = np.zeros(WIDTH, np.float32)
  # The final norm is not used.
  arrays |= {
    "layernorm.weight": np.ones(WIDTH, np.float32),
    "layernorm.bias": np.zeros(WIDTH, np.float32),
  }
  found |= pretrained.vit(arrays, leaves, place)
  for name, theirs in (
    ("four", "fpn1.conv_transpose1"),
    ("four_more", "fpn1.conv_transpose2"),
    ("twice", "fpn2"),
  ):
    kernel = levels[f"{theirs}.weight"].transpose(0, 2, 3, 1)  # [i, 2, 2, o]
    found[f"{name}/linear/kernel"] = kernel.reshape(WIDTH, -1)
    found[f"{name}/linear/bias"] = np.tile(levels[f"{theirs}.bias"], 4)
  for ours, theirs in (
    ("scale", "weight"),
    ("bias", "bias"),
    ("mean", "running_mean"),
    ("var", "running_var"),
  ):
    found[f"norm/{ours}"] = levels[f"fpn1.normalization.{theirs}"]
  return found


@pytest.mark.slow
def test_upernet_gives_the_reference_s_logits(reference, rng):
  arrays = {k: v.numpy() for k, v in reference.state_dict().items()}
  how = dict(dtype=jnp.float32, rngs=nnx.Rngs(0))
  pyramid = upernet.TokenPyramid(width=WIDTH, **SIZES, **how)
  heads = upernet.UperNet(WIDTH, HEAD, CLASSES, **how)
  parts = {True: {}, False: {}}
  for name, array in arrays.items():
    parts[name.startswith("backbone.")][name] = array
  load(pyramid, _pyramid, parts[True])
  load(heads, _heads, parts[False])
  image = rng.normal(size=(2, 64, 96, 3)).astype(np.float32)
  # BEiT takes square pictures alone where positions are not interpolated.
  image = image[:, :, :64]
  with torch.no_grad():
    pixels = torch.from_numpy(image.transpose(0, 3, 1, 2))
    levels = reference.backbone(pixels).feature_maps
    logits = reference.decode_head(levels)
    auxiliary = reference.auxiliary_head(levels)
  found = nnx.jit(lambda model, x: model(x))(pyramid, jnp.asarray(image))
  for ours, theirs in zip(found, levels, strict=True):
    theirs = theirs.permute(0, 2, 3, 1)
    assert relative_error(ours, theirs) <= 1e-4

  @nnx.jit
  def run(heads, levels):
    more = heads.auxiliary(levels[2], train=False, rngs=None, valid=None)
    return heads(levels).logits, more

  for ours, theirs in zip(run(heads, found), (logits, auxiliary), strict=True):
    assert relative_error(ours, theirs.permute(0, 2, 3, 1)) <= 1e-4


@pytest.mark.parametrize(("side", "bins"), [(2, 6), (7, 3), (16, 6), (14, 1)])
def test_cells_of_the_pooling_are_torch_s(side, bins, rng):
  x = rng.normal(size=(1, side, side + 1, 2)).astype(np.float32)
  theirs = torch.nn.functional.adaptive_avg_pool2d(
    torch.from_numpy(x.transpose(0, 3, 1, 2)), bins
  )
  ours = upernet.adaptive_mean(jnp.asarray(x), bins)
  np.testing.assert_allclose(
    ours, theirs.permute(0, 2, 3, 1).numpy(), atol=1e-6
  )
