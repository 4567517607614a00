"""Networks and mask losses against transformers' outputs, which are stored.

`make_network_golden.py` made them; neither torch nor transformers is needed.
"""

import functools
import json
import pathlib

import drawn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from torch_weights import load, relative_error

from sseg_jax import default_config, losses, matching
from sseg_jax.models import backbones, pretrained
from sseg_jax.models.maskformer import MaskFormer
from sseg_jax.models.swin import SWIN_SIZES, Swin
from sseg_jax.models.text import TextTower

TOLERANCE = 1e-4
GOLDEN = pathlib.Path(__file__).with_name("network_golden.npz")


@pytest.fixture(scope="module")
def golden():
  with np.load(GOLDEN) as file:
    return dict(file)


def give(golden, name, module, convert):
  shapes = json.loads(str(golden[f"{name}/shapes"]))
  load(module, convert, drawn.weights(shapes))
  return module


def error(golden, name, value) -> float:
  """Largest difference of what is stored, over the largest value of all."""
  values = np.asarray(value).ravel()[:: int(golden[f"{name}/step"])]
  difference = np.abs(values - golden[f"{name}/values"]).max()
  return float(difference / golden[f"{name}/largest"])


def run(module, *args):
  return nnx.jit(lambda m, *xs: m(*xs))(module, *map(jnp.asarray, args))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin_t", "swin_s", "resnet50"])
def test_backbones(golden, name):
  convert = pretrained.swin if name in SWIN_SIZES else pretrained.resnet
  module = backbones.build(
    name, drop_path=0.0, dtype=jnp.float32, rngs=nnx.Rngs(0)
  )
  give(golden, name, module, convert)
  image = drawn.normal(name, (1, 3, *golden[f"{name}/size"]))
  outputs = run(module, image.transpose(0, 2, 3, 1))
  assert len(outputs) == 4
  for level, value in outputs.items():
    assert error(golden, f"{name}/{level}", value) <= TOLERANCE, level


@pytest.mark.slow
def test_decoders(golden):
  channels = {"res2": 96, "res3": 192, "res4": 384, "res5": 768}
  fields = "hidden_dim mask_dim num_queries decoder_layers num_heads ffn_dim"
  c = default_config.get_config().model
  module = MaskFormer(
    channels,
    **{name: c[name] for name in fields.split()},
    dropout=0.0,
    memory=c.memory,
    deep_supervision=True,
    dtype=jnp.float32,
    rngs=nnx.Rngs(0),
  )
  give(golden, "maskformer", module, pretrained.maskformer)
  features = {
    level: jnp.asarray(
      drawn.normal(level, (1, d, 24 // 2**i, 32 // 2**i)).transpose(0, 2, 3, 1)
    )
    for i, (level, d) in enumerate(channels.items())
  }
  outputs = nnx.jit(lambda m, x: m(x))(module, features)
  for name in ("query_features", "mask_logits"):
    value = getattr(outputs, name)
    assert error(golden, f"maskformer/{name}", value) <= TOLERANCE, name


@pytest.mark.slow
def test_text_tower(golden):
  t = default_config.get_config().text
  module = TextTower(
    vocab_size=49408,
    context_length=t.context_length,
    width=t.width,
    layers=t.layers,
    num_heads=t.num_heads,
    rngs=nnx.Rngs(0),
  )
  give(golden, "text", module, pretrained.text)
  features = run(module, golden["text/tokens"])
  assert error(golden, "text/features", features) <= TOLERANCE


@pytest.mark.slow
def test_costs_assignment_and_losses(golden):
  logits = jnp.asarray(3 * drawn.normal("logits", (2, 10, 12, 16)))
  labels = jnp.asarray(golden["losses/labels"])
  valid = np.array([[1, 1, 1], [1, 0, 1]], bool)
  small = losses.resize_labels(labels, logits.shape[-2:])
  masks = jax.nn.one_hot(small, 3, axis=1)
  costs = matching.cost_matrix(logits[None], masks, dice=1.0, focal=20.0)[0]
  index = np.asarray(matching.match(costs, jnp.asarray(valid)))
  for i in range(2):
    rows = np.asarray(costs[i])[valid[i]]
    assert relative_error(rows, golden[f"losses/costs_{i}"]) <= TOLERANCE
    np.testing.assert_array_equal(
      index[i][valid[i]], golden[f"losses/index_{i}"]
    )
  of_masks = functools.partial(
    losses.mask_loss, dice_weight=1.0, focal_weight=20.0, k=3
  )
  (_, metrics), gradient = jax.jit(jax.value_and_grad(of_masks, has_aux=True))(
    logits[None], labels, jnp.asarray(valid)
  )
  for name in ("dice", "focal"):
    assert metrics[name] == pytest.approx(float(golden[f"losses/{name}"]), 1e-5)
  assert relative_error(gradient[0], golden["losses/gradient"]) <= TOLERANCE


@pytest.mark.slow
def test_a_wrong_network_is_told(golden):
  """The comparison can fail: without its shifts Swin gives other maps."""
  module = Swin(**SWIN_SIZES["swin_t"], rngs=nnx.Rngs(0))
  give(golden, "swin_t", module, pretrained.swin)
  for block in module.stages[0]:
    block.shift = 0
  image = drawn.normal("swin_t", (1, 3, *golden["swin_t/size"]))
  first = nnx.jit(lambda m, x: m(x)["res2"])  # the rest is not compiled
  found = first(module, jnp.asarray(image.transpose(0, 2, 3, 1)))
  assert error(golden, "swin_t/res2", found) > 10 * TOLERANCE
