"""MaskFormer without its class head (Cheng et al. 2021; S-Seg §3.2).

Numbers and order of operations are those of facebookresearch/MaskFormer,
mask_former/modeling/: heads/pixel_decoder.py (BasePixelDecoder and
TransformerEncoderPixelDecoder), transformer/transformer_predictor.py and
transformer/transformer.py (post-norm).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sseg_jax.models.layers import MLP, fan_in_uniform, xavier_uniform

# torch's xavier_uniform_ sees the three input projections as one [3d, d]
# matrix.
_xavier_of_three = nnx.initializers.variance_scaling(0.5, "fan_avg", "uniform")


class MaskFormerOutputs(NamedTuple):
  """What the network gives for a picture.

  Attributes:
    mask_logits: float32 [layers, b, n, h/4, w/4], the last layer last.
    query_features: [b, n, d] after the last decoder layer and its norm.
    pixel_features: [b, h/4, w/4, d], the pixel decoder's before the mask head.
  """

  mask_logits: Array
  query_features: Array
  pixel_features: Array


def sine_positions(height: int, width: int, dim: int) -> np.ndarray:
  """Fixed positions of a grid, float32 [height, width, dim].

  Half the features are the row's, half the column's; sines and cosines
  alternate. Coordinates run from 1 to the side, scaled to 2 pi; temperature
  10,000 (transformer/position_encoding.py).
  """
  half = dim // 2
  period = 10_000.0 ** (2 * (np.arange(half) // 2) / half)

  def one_axis(length: int) -> np.ndarray:
    place = np.arange(1, length + 1) / (length + 1e-6) * 2 * math.pi
    angle = place[:, None] / period  # [length, half]
    return np.where(np.arange(half) % 2 == 0, np.sin(angle), np.cos(angle))

  y = np.broadcast_to(one_axis(height)[:, None], (height, width, half))
  x = np.broadcast_to(one_axis(width)[None, :], (height, width, half))
  return np.concatenate([y, x], -1).astype(np.float32)


def upsample_nearest(x: Array, height: int, width: int) -> Array:
  """Repeats cells of [b,h,w,c] until it is [b,height,width,c]."""
  factor_y, factor_x = height // x.shape[1], width // x.shape[2]
  if (x.shape[1] * factor_y, x.shape[2] * factor_x) != (height, width):
    raise ValueError(f"{x.shape[1:3]} does not divide {(height, width)}")
  return jnp.repeat(jnp.repeat(x, factor_y, 1), factor_x, 2)


class ConvNorm(nnx.Module):
  """Convolution without bias, group norm, and ReLU where asked."""

  def __init__(
    self,
    d_in: int,
    d_out: int,
    size: int,
    *,
    activate: bool,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    self.conv = nnx.Conv(
      d_in,
      d_out,
      (size, size),
      use_bias=False,
      kernel_init=fan_in_uniform,
      dtype=dtype,
      rngs=rngs,
    )
    # detectron2's "GN" has 32 groups; narrow networks keep its 8 features each.
    self.norm = nnx.GroupNorm(
      d_out,
      num_groups=max(1, min(32, d_out // 8)),
      epsilon=1e-5,
      dtype=dtype,
      rngs=rngs,
    )
    self.activate = activate

  def __call__(self, x: Array) -> Array:
    """Maps [b,h,w,c] to [b,h,w,d_out]."""
    x = self.norm(self.conv(x))
    return nnx.relu(x) if self.activate else x


class FPN(nnx.Module):
  """Brings the backbone's levels together at stride 4."""

  def __init__(
    self,
    channels: dict[str, int],
    dim: int,
    mask_dim: int,
    *,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    names = list(channels)[::-1]  # deepest first
    self.names = tuple(names)
    self.laterals = nnx.List(
      [
        ConvNorm(channels[n], dim, 1, activate=False, dtype=dtype, rngs=rngs)
        for n in names[1:]
      ]
    )
    self.outputs = nnx.List(
      [
        ConvNorm(
          dim if i else channels[n],
          dim,
          3,
          activate=True,
          dtype=dtype,
          rngs=rngs,
        )
        for i, n in enumerate(names)
      ]
    )
    self.mask_features = nnx.Conv(
      dim, mask_dim, (3, 3), kernel_init=fan_in_uniform, dtype=dtype, rngs=rngs
    )

  def __call__(self, features: dict[str, Array]) -> tuple[Array, Array]:
    """Returns pixel features [b,h/4,w/4,d] and mask features, likewise."""
    x = self.outputs[0](features[self.names[0]])
    for i, name in enumerate(self.names[1:]):
      lateral = self.laterals[i](features[name])
      x = lateral + upsample_nearest(x, *lateral.shape[1:3])
      x = self.outputs[i + 1](x)
    return x, self.mask_features(x)


class Attention(nnx.Module):
  """Multi-head attention with its own inputs for query, key and value."""

  def __init__(
    self,
    dim: int,
    num_heads: int,
    dropout: float,
    *,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    def linear(init):
      return nnx.Linear(dim, dim, kernel_init=init, dtype=dtype, rngs=rngs)

    self.query = linear(_xavier_of_three)
    self.key = linear(_xavier_of_three)
    self.value = linear(_xavier_of_three)
    self.out = linear(xavier_uniform)
    self.dropout = nnx.Dropout(dropout)
    self.num_heads = num_heads

  def __call__(
    self,
    query: Float[Array, "b n d"],
    key: Float[Array, "b m d"],
    value: Float[Array, "b m d"],
    *,
    train: bool = False,
    rngs: nnx.Rngs | None = None,
  ) -> Float[Array, "b n d"]:
    """Mixes the values for each query; `train` drops weights."""

    def heads(x):
      return x.reshape(*x.shape[:2], self.num_heads, -1)

    q, k, v = heads(self.query(query)), heads(self.key(key)), self.value(value)
    scores = jnp.einsum(
      "bnhd,bmhd->bhnm", q, k, preferred_element_type=jnp.float32
    )
    weights = jax.nn.softmax(scores / math.sqrt(q.shape[-1]), -1)
    weights = self.dropout(weights, deterministic=not train, rngs=rngs)
    mixed = jnp.einsum("bhnm,bmhd->bnhd", weights.astype(v.dtype), heads(v))
    return self.out(mixed.reshape(query.shape))


class DecoderLayer(nnx.Module):
  """Self-attention, cross-attention, feed-forward; each added, then normed."""

  def __init__(
    self,
    dim: int,
    num_heads: int,
    ffn_dim: int,
    dropout: float,
    *,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    def attention():
      return Attention(dim, num_heads, dropout, dtype=dtype, rngs=rngs)

    def norm():
      return nnx.LayerNorm(dim, epsilon=1e-5, dtype=dtype, rngs=rngs)

    def linear(d_in, d_out):
      return nnx.Linear(
        d_in, d_out, kernel_init=xavier_uniform, dtype=dtype, rngs=rngs
      )

    self.self_attention, self.cross_attention = attention(), attention()
    self.fc1, self.fc2 = linear(dim, ffn_dim), linear(ffn_dim, dim)
    self.norms = nnx.List([norm(), norm(), norm()])
    self.dropout = nnx.Dropout(dropout)

  def __call__(
    self,
    x: Float[Array, "b n d"],
    memory: Float[Array, "b m d"],
    query_positions: Float[Array, "1 n d"],
    memory_positions: Float[Array, "1 m d"],
    *,
    train: bool = False,
    rngs: nnx.Rngs | None = None,
  ) -> Float[Array, "b n d"]:
    """Updates the queries `x` from each other and from the memory."""

    def drop(y):
      return self.dropout(y, deterministic=not train, rngs=rngs)

    # Positions go to queries and keys, never to values.
    q = x + query_positions
    y = self.self_attention(q, q, x, train=train, rngs=rngs)
    x = self.norms[0](x + drop(y))
    y = self.cross_attention(
      x + query_positions,
      memory + memory_positions,
      memory,
      train=train,
      rngs=rngs,
    )
    x = self.norms[1](x + drop(y))
    y = self.fc2(drop(nnx.relu(self.fc1(x))))
    return self.norms[2](x + drop(y))


class EncoderLayer(nnx.Module):
  """Self-attention and feed-forward; each added, then normed."""

  def __init__(
    self,
    dim: int,
    num_heads: int,
    ffn_dim: int,
    dropout: float,
    *,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    def norm():
      return nnx.LayerNorm(dim, epsilon=1e-5, dtype=dtype, rngs=rngs)

    def linear(d_in, d_out):
      return nnx.Linear(
        d_in, d_out, kernel_init=xavier_uniform, dtype=dtype, rngs=rngs
      )

    self.attention = Attention(dim, num_heads, dropout, dtype=dtype, rngs=rngs)
    self.fc1, self.fc2 = linear(dim, ffn_dim), linear(ffn_dim, dim)
    self.norms = nnx.List([norm(), norm()])
    self.dropout = nnx.Dropout(dropout)

  def __call__(
    self,
    x: Float[Array, "b m d"],
    positions: Float[Array, "1 m d"],
    *,
    train: bool = False,
    rngs: nnx.Rngs | None = None,
  ) -> Float[Array, "b m d"]:
    """Updates the cells `x` from each other."""

    def drop(y):
      return self.dropout(y, deterministic=not train, rngs=rngs)

    q = x + positions
    y = self.attention(q, q, x, train=train, rngs=rngs)
    x = self.norms[0](x + drop(y))
    y = self.fc2(drop(nnx.relu(self.fc1(x))))
    return self.norms[1](x + drop(y))


class Encoder(nnx.Module):
  """Lets the cells of the deepest level see each other, before the FPN."""

  def __init__(
    self,
    d_in: int,
    dim: int,
    *,
    layers: int,
    num_heads: int,
    ffn_dim: int,
    dropout: float,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    self.input_proj = nnx.Linear(
      d_in, dim, kernel_init=fan_in_uniform, dtype=dtype, rngs=rngs
    )
    self.layers = nnx.List(
      [
        EncoderLayer(dim, num_heads, ffn_dim, dropout, dtype=dtype, rngs=rngs)
        for _ in range(layers)
      ]
    )

  def __call__(
    self,
    feature: Float[Array, "b h w c"],
    *,
    train: bool = False,
    rngs: nnx.Rngs | None = None,
  ) -> Float[Array, "b h w d"]:
    """Maps a level to as many features of width d."""
    x = self.input_proj(feature)
    b, h, w, d = x.shape
    positions = jnp.asarray(sine_positions(h, w, d), x.dtype)
    x = x.reshape(b, h * w, d)
    for layer in self.layers:
      x = layer(x, positions.reshape(1, h * w, d), train=train, rngs=rngs)
    return x.reshape(b, h, w, d)


class MaskFormer(nnx.Module):
  """Pixel decoder and transformer decoder over a backbone's features.

  With `encoder_layers` the deepest level passes a transformer encoder first;
  the FPN starts from its output, and where `memory` is that level the queries
  attend to it as it is.
  """

  def __init__(
    self,
    channels: dict[str, int],
    *,
    hidden_dim: int,
    mask_dim: int,
    num_queries: int,
    decoder_layers: int,
    num_heads: int,
    ffn_dim: int,
    dropout: float,
    memory: str,
    deep_supervision: bool,
    encoder_layers: int = 0,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    self.deepest = list(channels)[-1]
    self.memory = memory
    encoder = None
    if encoder_layers:
      encoder = Encoder(
        channels[self.deepest],
        hidden_dim,
        layers=encoder_layers,
        num_heads=num_heads,
        ffn_dim=ffn_dim,
        dropout=dropout,
        dtype=dtype,
        rngs=rngs,
      )
      channels = {**channels, self.deepest: hidden_dim}
    self.encoder = encoder
    self.fpn = FPN(channels, hidden_dim, mask_dim, dtype=dtype, rngs=rngs)
    input_proj = None
    if encoder is None or memory != self.deepest:
      input_proj = nnx.Linear(
        channels[memory],
        hidden_dim,
        kernel_init=fan_in_uniform,
        dtype=dtype,
        rngs=rngs,
      )
    self.input_proj = input_proj
    # Learned positions; what the decoder starts from is zero.
    self.query_positions = nnx.Param(
      jax.random.normal(rngs.params(), (num_queries, hidden_dim))
    )
    self.layers = nnx.List(
      [
        DecoderLayer(
          hidden_dim, num_heads, ffn_dim, dropout, dtype=dtype, rngs=rngs
        )
        for _ in range(decoder_layers)
      ]
    )
    self.norm = nnx.LayerNorm(hidden_dim, epsilon=1e-5, dtype=dtype, rngs=rngs)
    self.mask_embed = MLP(
      (hidden_dim, hidden_dim, hidden_dim, mask_dim), dtype=dtype, rngs=rngs
    )
    self.deep_supervision = deep_supervision

  def __call__(
    self,
    features: dict[str, Array],
    *,
    train: bool = False,
    rngs: nnx.Rngs | None = None,
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
      x = layer(x, memory, positions, memory_positions, train=train, rngs=rngs)
      outputs.append(self.norm(x))
    # Earlier layers' masks serve deep supervision, so only training needs them.
    supervised = outputs if train and self.deep_supervision else outputs[-1:]
    embeddings = self.mask_embed(jnp.stack(supervised))  # [layers, b, n, d]
    mask_logits = jnp.einsum(
      "lbnd,bhwd->lbnhw",
      embeddings,
      mask_features,
      preferred_element_type=jnp.float32,
    )
    return MaskFormerOutputs(mask_logits, outputs[-1], pixel_features)
