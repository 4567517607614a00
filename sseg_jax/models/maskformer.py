"""MaskFormer without its class head (Cheng et al. 2021; S-Seg §3.2).

Numbers and order of operations are those of facebookresearch/MaskFormer,
mask_former/modeling/transformer/transformer_predictor.py.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array

from sseg_jax.models import remat
from sseg_jax.models.dropout import ExampleRngs
from sseg_jax.models.flax_versions import List
from sseg_jax.models.layers import MLP, fan_in_uniform
from sseg_jax.models.pixel_decoder import FPN, Encoder
from sseg_jax.models.transformer import DecoderLayer, sine_positions


class MaskFormerOutputs(NamedTuple):
  """What the network gives for a picture.

  Attributes:
    mask_logits: float32 [layers, b, n, h/4, w/4], the last layer last.
    query_features: [b, n, d] after the last decoder layer and its norm.
    pixel_features: [b, h/4, w/4, d], the pixel decoder's before the mask head.
    layer_features: [layers, b, n, d], queries of the layers of `mask_logits`.
  """

  mask_logits: Array
  query_features: Array
  pixel_features: Array
  layer_features: Array


@dataclasses.dataclass(frozen=True)
class Sizes:
  """What distinguishes one MaskFormer from another.

  Attributes:
    hidden_dim: features of a query and of the pixel decoder.
    mask_dim: features of a mask embedding.
    num_queries: number of queries.
    decoder_layers: of the transformer decoder.
    num_heads: of every attention.
    ffn_dim: hidden features of a layer's feed-forward part.
    dropout: rate in both transformers.
    memory: level that the queries attend to, as "res5".
    deep_supervision: whether every decoder layer predicts masks in training.
    encoder_layers: of the pixel decoder's transformer encoder; 0 for none.
  """

  hidden_dim: int
  mask_dim: int
  num_queries: int
  decoder_layers: int
  num_heads: int
  ffn_dim: int
  dropout: float
  memory: str
  deep_supervision: bool
  encoder_layers: int = 0


class MaskFormer(nnx.Module):
  """Pixel decoder and transformer decoder over a backbone's features.

  With `encoder_layers` the deepest level first passes a transformer encoder,
  and the FPN starts from the encoder's output. If `memory` is that level, the
  queries attend to this output without a further projection.

  Args:
    channels: of the backbone's levels, the deepest level last.
    remat: what is stored of a layer (`remat.POLICIES`).
    dtype: of the products.
    rngs: source of the initial values.
    **sizes: the fields of `Sizes`.
  """

  def __init__(
    self,
    channels: dict[str, int],
    *,
    remat: str = "none",
    dtype: DTypeLike,
    rngs: nnx.Rngs,
    **sizes: Any,
  ):
    s = Sizes(**sizes)
    self.deepest = list(channels)[-1]
    self.memory = s.memory
    self.remat = remat
    encoder = None
    if s.encoder_layers:
      encoder = Encoder(
        channels[self.deepest],
        s.hidden_dim,
        layers=s.encoder_layers,
        num_heads=s.num_heads,
        ffn_dim=s.ffn_dim,
        dropout=s.dropout,
        remat=remat,
        dtype=dtype,
        rngs=rngs,
      )
      channels = {**channels, self.deepest: s.hidden_dim}
    self.encoder = encoder
    self.fpn = FPN(
      channels, s.hidden_dim, s.mask_dim, remat=remat, dtype=dtype, rngs=rngs
    )
    input_proj = None
    if encoder is None or s.memory != self.deepest:
      input_proj = nnx.Linear(
        channels[s.memory],
        s.hidden_dim,
        kernel_init=fan_in_uniform,
        dtype=dtype,
        rngs=rngs,
      )
    self.input_proj = input_proj
    # Learned positions. The queries themselves start as zeros.
    self.query_positions = nnx.Param(
      jax.random.normal(rngs.params(), (s.num_queries, s.hidden_dim))
    )
    self.layers = List(
      [
        DecoderLayer(
          s.hidden_dim,
          s.num_heads,
          s.ffn_dim,
          s.dropout,
          dtype=dtype,
          rngs=rngs,
        )
        for _ in range(s.decoder_layers)
      ]
    )
    self.norm = nnx.LayerNorm(
      s.hidden_dim, epsilon=1e-5, dtype=dtype, rngs=rngs
    )
    self.mask_embed = MLP(
      (s.hidden_dim, s.hidden_dim, s.hidden_dim, s.mask_dim),
      dtype=dtype,
      rngs=rngs,
    )
    self.deep_supervision = s.deep_supervision

  def __call__(
    self,
    features: dict[str, Array],
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
  ) -> MaskFormerOutputs:
    """Maps the backbone's levels, [b,h/s,w/s,c] each, to masks and queries."""
    if self.encoder is not None:
      encoded = self.encoder(features[self.deepest], train=train, rngs=rngs)
      features = {**features, self.deepest: encoded}
    pixel_features, mask_features = self.fpn(features)

    memory = features[self.memory]
    if self.input_proj is not None:
      memory = self.input_proj(memory)
    b, h, w, d = memory.shape
    memory_positions = jnp.asarray(sine_positions(h, w, d), memory.dtype)
    memory_positions = memory_positions.reshape(1, h * w, d)
    memory = memory.reshape(b, h * w, d)
    positions = self.query_positions[...].astype(memory.dtype)[None]

    x = jnp.zeros((b, *positions.shape[1:]), memory.dtype)
    outputs = []
    for layer in self.layers:
      inputs = (x, memory, positions, memory_positions)
      x = remat.run(self.remat, layer, *inputs, train=train, rngs=rngs)
      outputs.append(self.norm(x))
    # Only deep supervision, in training, needs the masks of earlier layers.
    supervised = outputs if train and self.deep_supervision else outputs[-1:]
    queries = jnp.stack(supervised)
    embeddings = self.mask_embed(queries)  # [layers, b, n, d]
    # Pixels are one axis here, because TPUs pad the last axis to 128.
    b, h, w, d = mask_features.shape
    mask_logits = jnp.einsum(
      "lbnd,bpd->lbnp",
      embeddings,
      mask_features.reshape(b, h * w, d),
      preferred_element_type=jnp.float32,
    )
    mask_logits = mask_logits.reshape(*mask_logits.shape[:-1], h, w)
    return MaskFormerOutputs(mask_logits, outputs[-1], pixel_features, queries)


def build(
  c: Any, channels: dict[str, int], *, dtype: DTypeLike, rngs: nnx.Rngs
) -> MaskFormer:
  """Builds the network of `config.model`.

  Args:
    c: `config.model`.
    channels: of the backbone's levels.
    dtype: of the products.
    rngs: source of the initial values.
  """
  encoded = c.pixel_decoder == "transformer_encoder"
  return MaskFormer(
    channels,
    hidden_dim=c.hidden_dim,
    mask_dim=c.mask_dim,
    num_queries=c.num_queries,
    decoder_layers=c.decoder_layers,
    num_heads=c.num_heads,
    ffn_dim=c.ffn_dim,
    dropout=c.dropout,
    memory=c.memory,
    deep_supervision=c.deep_supervision,
    encoder_layers=c.encoder_layers if encoded else 0,
    remat=c.remat,
    dtype=dtype,
    rngs=rngs,
  )
