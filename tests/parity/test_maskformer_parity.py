"""Pixel and transformer decoder against transformers' MaskFormer."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from torch_weights import TorchWeights, load, randomize, relative_error

from sseg_jax import default_config
from sseg_jax.errors import InputError
from sseg_jax.models import backbones, pretrained, sseg
from sseg_jax.models.maskformer import MaskFormer
from sseg_jax.models.pixel_decoder import Encoder
from sseg_jax.models.swin import Swin
from sseg_jax.models.transformer import sine_positions

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# 256 wide like the published network: its group norms have 32 groups.
CHANNELS = {"res2": 16, "res3": 32, "res4": 64, "res5": 128}
SIZES = dict(
  hidden_dim=256,
  mask_dim=32,
  num_queries=6,
  decoder_layers=3,
  num_heads=8,
  ffn_dim=64,
  dropout=0.0,
  memory="res5",
  deep_supervision=True,
  dtype=jnp.dtype("float32"),
)


@pytest.fixture(scope="module")
def reference():
  backbone = transformers.MaskFormerSwinConfig(
    embed_dim=16,
    depths=[1, 1, 1, 1],
    num_heads=[1, 2, 4, 8],
    out_features=["stage1", "stage2", "stage3", "stage4"],
  )
  decoder = transformers.DetrConfig(
    d_model=256,
    decoder_layers=3,
    decoder_attention_heads=8,
    decoder_ffn_dim=64,
    num_queries=6,
    encoder_layers=1,  # DETR's own; MaskFormer builds none
  )
  config = transformers.MaskFormerConfig(
    fpn_feature_size=256,
    mask_feature_size=32,
    backbone_config=backbone,
    decoder_config=decoder,
  )
  module = transformers.MaskFormerForInstanceSegmentation(config).eval()
  randomize(module)
  return module


def decoder_weights(module):
  """All weights but the backbone's and the class head's, which S-Seg drops."""
  dropped = ("model.pixel_level_module.encoder.", "class_", "criterion.")
  return {
    name: value.numpy()
    for name, value in module.state_dict().items()
    if not name.startswith(dropped)
  }


@pytest.mark.slow
def test_masks_and_queries_equal_maskformer(reference):
  model = MaskFormer(CHANNELS, **SIZES, rngs=nnx.Rngs(0))
  load(model, pretrained.maskformer, decoder_weights(reference))

  rng = np.random.default_rng(0)
  features = {
    name: rng.normal(size=(2, 64 // 2**i, 96 // 2**i, channels))
    for i, (name, channels) in enumerate(CHANNELS.items())
  }
  features = {name: x.astype(np.float32) for name, x in features.items()}
  with torch.no_grad():
    maps = [
      torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
      for x in features.values()
    ]
    pixel = reference.model.pixel_level_module.decoder(
      maps, output_hidden_states=True
    )
    transformer = reference.model.transformer_module
    decoded = transformer(maps[-1], output_hidden_states=True, return_dict=True)
    # The first is the decoder's input, and only the last has been normed; the
    # published code applies the norm to what it returns of every layer.
    hidden = [
      *map(transformer.decoder.layernorm, decoded.hidden_states[1:-1]),
      decoded.last_hidden_state,
    ]
    masks = torch.einsum(
      "lbqc,bchw->lbqhw",
      reference.mask_embedder(torch.stack(hidden)),
      pixel.last_hidden_state,
    )

  run = nnx.jit(lambda model, features: model(features, train=True))
  ours = run(model, jax.tree.map(jnp.asarray, features))
  errors = {
    "pixel_features": relative_error(
      ours.pixel_features, pixel.hidden_states[-1].permute(0, 2, 3, 1)
    ),
    "query_features": relative_error(
      ours.query_features, decoded.last_hidden_state
    ),
    "mask_logits": relative_error(ours.mask_logits, masks),
  }
  print({name: f"{error:.1e}" for name, error in errors.items()})
  assert max(errors.values()) <= 1e-4


# Names in files on the hub, where they are not those of today's modules.
TO_PUBLISHED = [
  (r"(transformer_module\..*)\.o_proj\.", r"\1.out_proj."),
  (r"(transformer_module\..*)\.mlp\.fc", r"\1.fc"),
]


@pytest.mark.slow
def test_the_whole_file_is_the_start_of_a_run(reference, monkeypatch, tmp_path):
  sizes = dict(embed_dim=16, depths=(1,) * 4, num_heads=(1, 2, 4, 8))
  monkeypatch.setitem(backbones.BACKBONES, "swin_small", (Swin, sizes))
  c = default_config.get_config()
  c.dtype = "float32"
  c.model.update(backbone="swin_small", mask_dim=32, num_queries=6)
  c.model.update(decoder_layers=3, ffn_dim=64)
  c.text.layers = 1
  graphdef, *abstract = sseg.build(c)

  def load(arrays):
    np.savez(tmp_path / "maskformer.npz", **arrays)
    c.model.weights = str(tmp_path / "maskformer.npz")
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract)
    return pretrained.load(c, *zeros)

  arrays = {k: v.numpy() for k, v in reference.state_dict().items()}
  params, model_state = load(arrays)
  for pattern, name in TO_PUBLISHED:
    arrays = {re.sub(pattern, name, k): v for k, v in arrays.items()}
  jax.tree.map(np.testing.assert_array_equal, load(arrays)[0], params)

  # No multiple of 32: the sides of the levels are rounded up, so that the
  # pixel decoder enlarges 3 cells to 5 and 5 to 9.
  image = np.random.default_rng(0).normal(size=(2, 50, 70, 3))
  image = image.astype(np.float32)

  @jax.jit
  def run(params, image):
    model = nnx.merge(graphdef, params, model_state)
    return model.maskformer(model.backbone(image)).mask_logits[-1]

  with torch.no_grad():
    pixels = torch.from_numpy(image.transpose(0, 3, 1, 2).copy())
    expected = reference(pixels).masks_queries_logits
  assert relative_error(run(params, image), expected) <= 1e-4

  c.model.num_queries = 8
  abstract = sseg.build(c)[1:]
  with pytest.raises(InputError, match=r"query_positions has shape \(6, 256\)"):
    load(arrays)


@pytest.mark.slow
def test_sine_positions_equal_maskformer(reference):
  embedder = reference.model.transformer_module.position_embedder
  expected = embedder(
    torch.Size((1, 256, 7, 10)), torch.device("cpu"), torch.float32
  )
  error = relative_error(
    sine_positions(7, 10, 256), expected[0].permute(1, 2, 0)
  )
  assert error <= 1e-4


@pytest.mark.slow
def test_encoder_equals_detr():
  """The pixel decoder's encoder is DETR's, over projected features."""
  detr = pytest.importorskip("transformers.models.detr.modeling_detr")
  config = transformers.DetrConfig(
    d_model=64,
    encoder_layers=2,
    encoder_attention_heads=8,
    encoder_ffn_dim=96,
    dropout=0.0,
    attention_dropout=0.0,
    attn_implementation="eager",
  )
  reference = detr.DetrEncoder(config).eval()
  randomize(reference)
  ours = Encoder(
    32,
    64,
    layers=2,
    num_heads=8,
    ffn_dim=96,
    dropout=0.0,
    dtype=jnp.dtype("float32"),
    rngs=nnx.Rngs(0),
  )
  weights = TorchWeights(
    {name: value.numpy() for name, value in reference.state_dict().items()}
  )
  for i, layer in enumerate(ours.layers):
    theirs = f"layers.{i}"
    for part, name in [
      (layer.attention.query, "self_attn.q_proj"),
      (layer.attention.key, "self_attn.k_proj"),
      (layer.attention.value, "self_attn.v_proj"),
      (layer.attention.out, "self_attn.o_proj"),
      (layer.fc1, "mlp.fc1"),
      (layer.fc2, "mlp.fc2"),
    ]:
      weights.linear(part, f"{theirs}.{name}")
    weights.norm(layer.norms[0], f"{theirs}.self_attn_layer_norm")
    weights.norm(layer.norms[1], f"{theirs}.final_layer_norm")
  assert not weights.unused

  x = np.random.default_rng(0).normal(size=(2, 5, 7, 32)).astype(np.float32)
  projected = np.array(ours.input_proj(jnp.asarray(x))).reshape(2, 35, 64)
  positions = sine_positions(5, 7, 64).reshape(1, 35, 64)
  with torch.no_grad():
    expected = reference(
      inputs_embeds=torch.from_numpy(projected),
      spatial_position_embeddings=torch.from_numpy(positions).expand(2, -1, -1),
    ).last_hidden_state
  actual = np.asarray(ours(jnp.asarray(x))).reshape(2, 35, 64)
  assert relative_error(actual, expected) <= 1e-4


@pytest.mark.slow
def test_published_parameter_counts():
  def count(module):
    leaves = jax.tree.leaves(nnx.state(module, nnx.Param))
    return sum(leaf.size for leaf in leaves)

  paper = dict(mask_dim=256, num_queries=64, decoder_layers=6, ffn_dim=2048)
  swin_s = {f"res{i + 2}": 96 * 2**i for i in range(4)}
  maskformer = nnx.eval_shape(
    lambda: MaskFormer(swin_s, **(SIZES | paper), rngs=nnx.Rngs(0))
  )
  pixel_decoder = count(maskformer.fpn)
  assert pixel_decoder == 4_304_640
  assert count(maskformer) - pixel_decoder == 9_883_648
