"""The text tower against CLIP's in transformers, on random weights."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from torch_weights import load, randomize, relative_error

from sseg_jax.models import pretrained
from sseg_jax.models.text import TextTower

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.mark.slow
def test_features_equal_clip():
  config = transformers.CLIPTextConfig(
    vocab_size=60,
    hidden_size=32,
    intermediate_size=128,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=10,
    hidden_act="quick_gelu",
    bos_token_id=58,
    eos_token_id=59,
    pad_token_id=0,
  )
  reference = transformers.CLIPTextModel(config).eval()
  randomize(reference)
  tower = TextTower(
    vocab_size=60,
    context_length=10,
    width=32,
    layers=3,
    num_heads=4,
    rngs=nnx.Rngs(0),
  )
  load(tower, pretrained.text, reference)

  tokens = np.zeros((4, 10), np.int64)
  rng = np.random.default_rng(0)
  for row, length in zip(tokens, (2, 4, 7, 10), strict=True):
    row[:length] = [58, *rng.integers(1, 58, length - 2), 59]
  with torch.no_grad():
    expected = reference(torch.from_numpy(tokens)).pooler_output
  run = nnx.jit(lambda tower, tokens: tower(tokens))
  error = relative_error(run(tower, jnp.asarray(tokens, jnp.int32)), expected)
  print(f"relative error {error:.1e}")
  assert error <= 1e-4
