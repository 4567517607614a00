"""The ViT against its originals: golden outputs, and transformers live."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from torch_weights import randomize, relative_error

from sseg_jax.models import positions, vit_weights
from sseg_jax.models.layers import normalize_pixels

TOLERANCE = 2e-5
GOLDEN = pathlib.Path(__file__).with_name("vit_golden.npz")


def network(arrays, **changes):
  """Returns the model that `arrays` describe, with `changes` to its sizes."""
  arrays = vit_weights.rename(arrays, "test")
  sizes = vit_weights.infer_sizes(arrays, "test") | changes
  graphdef, _ = vit_weights.build(sizes)
  return nnx.merge(graphdef, vit_weights.convert(arrays, sizes))


def run(model, image):
  return np.asarray(nnx.jit(lambda m, x: m(x))(model, jnp.asarray(image)[None]))


def below(golden, prefix):
  return {
    name.removeprefix(prefix): golden[name]
    for name in golden
    if name.startswith(prefix)
  }


@pytest.mark.parametrize("rule", positions.RULES)
@pytest.mark.parametrize("size", [(9, 14), (4, 5)], ids=str)
def test_positions_are_torch_s(rule, size):
  with np.load(GOLDEN) as golden:
    ours = positions.resize_positions(jnp.asarray(golden["table"]), size, rule)
    theirs = golden[f"table_{rule}_{size[0]}x{size[1]}"]
  # Torch computes its sampling coordinates in float32.
  assert relative_error(ours, theirs) <= TOLERANCE


@pytest.mark.parametrize(
  "name, rule", [("registers", "antialias"), ("vit", "size")]
)
@pytest.mark.parametrize("size", ["24x24", "32x20"])
def test_golden_networks(name, rule, size):
  with np.load(GOLDEN) as golden:
    model = network(below(golden, f"{name}/"), num_heads=2, position_rule=rule)
    ours = run(model, golden[f"{name}_image_{size}"])[0]
    assert relative_error(ours, golden[f"{name}_tokens_{size}"]) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("size", ["224x224", "448x448", "192x256"])
def test_dino_s_own_code(shared, size):
  with np.load(shared / "data" / "golden_dino_layout.npz") as golden:
    model = network(below(golden, "weights/"), num_heads=3)
    assert (model.position_rule, model.patch) == ("dino", 8)
    ours = run(model, golden[f"image_{size}"])[0]
    assert relative_error(ours, golden[f"tokens_{size}"]) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("size", ["224x224", "448x336"])
def test_real_weights_on_real_photos(shared, size):
  folder = shared / "data" / "weights"
  graphdef, params = vit_weights.load(
    folder / "vit_s14_grouping.safetensors", position_rule="size"
  )
  with np.load(folder / "vit_s14_grouping_reference.npz") as reference:
    image = normalize_pixels(jnp.asarray(reference[f"image_{size}"])[None])
    theirs = reference[f"tokens_{size}"]
  ours = jax.jit(lambda p, x: nnx.merge(graphdef, p)(x))(params, image)[0]
  assert relative_error(ours, theirs) <= TOLERANCE


SMALL = dict(
  hidden_size=96,
  num_hidden_layers=3,
  num_attention_heads=3,
  intermediate_size=192,
  patch_size=8,
  image_size=48,
)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(48, 48), (64, 40)], ids=str)
@pytest.mark.parametrize(
  "kind, rule, epsilon",
  [
    ("ViT", "size", 1e-12),
    ("ViTMAE", "size", 1e-12),
    ("Dinov2", "size", 1e-6),
    ("Dinov2WithRegisters", "antialias", 1e-6),
  ],
)
def test_transformers(kind, rule, epsilon, size):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  config = getattr(transformers, f"{kind}Config")(**SMALL)
  flags = {}
  if kind.startswith("Dinov2"):
    config.mlp_ratio = 2
  else:
    flags["interpolate_pos_encoding"] = True
  if kind == "ViTMAE":
    # Keep every patch, in its place.
    config.mask_ratio = 0.0
    flags["noise"] = torch.arange(size[0] * size[1] // 64)[None].float()
  reference = getattr(transformers, f"{kind}Model")(config).eval()
  randomize(reference)
  arrays = {k: v.numpy() for k, v in reference.state_dict().items()}
  model = network(arrays, num_heads=3, position_rule=rule, epsilon=epsilon)
  image = np.random.default_rng(1).normal(size=(*size, 3)).astype(np.float32)
  with torch.no_grad():
    pixels = torch.from_numpy(image.transpose(2, 0, 1)[None].copy())
    theirs = reference(pixels, output_hidden_states=True, **flags)
    hidden = [reference.layernorm(x).numpy() for x in theirs.hidden_states]
  assert (
    relative_error(run(model, image), theirs.last_hidden_state) <= TOLERANCE
  )
  parts = [("tokens", 0), ("tokens", 1)]
  between = model.features(jnp.asarray(image)[None], parts)
  for ours, expected in zip(between, hidden[1:], strict=False):
    assert relative_error(ours, expected) <= TOLERANCE
