"""MaskFormer's pixel decoders: from a backbone's levels to stride 4.

Numbers and order of operations are those of facebookresearch/MaskFormer,
mask_former/modeling/heads/pixel_decoder.py (BasePixelDecoder and
TransformerEncoderPixelDecoder).
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sseg_jax.models import remat
from sseg_jax.models.dropout import ExampleRngs
from sseg_jax.models.flax_versions import List
from sseg_jax.models.kernels.convolution import conv_general_dilated
from sseg_jax.models.layers import fan_in_uniform
from sseg_jax.models.transformer import EncoderLayer, sine_positions


def upsample_nearest(x: Array, height: int, width: int) -> Array:
  """Resizes [b,h,w,c] to [b,height,width,c] by torch's "nearest".

  The source index is floor(target * in / out). If the new size is a multiple of
  the old one, each cell is repeated.
  """
  for axis, out in ((1, height), (2, width)):
    size = x.shape[axis]
    if out % size:
      x = jnp.take(x, np.arange(out) * size // out, axis=axis)
    else:
      x = jnp.repeat(x, out // size, axis)
  return x


class ConvNorm(nnx.Module):
  """Convolution without bias, group norm, and ReLU if `activate`."""

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
      conv_general_dilated=conv_general_dilated,
      dtype=dtype,
      rngs=rngs,
    )
    # detectron2's "GN" has 32 groups, of 8 features here. Narrow networks have
    # fewer groups, of 8 features too.
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
  """Feature pyramid: adds the backbone's levels up, from deep to stride 4."""

  def __init__(
    self,
    channels: dict[str, int],
    dim: int,
    mask_dim: int,
    *,
    remat: str = "none",
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    names = list(channels)[::-1]  # deepest first
    self.names = tuple(names)
    self.remat = remat
    self.laterals = List(
      [
        ConvNorm(channels[n], dim, 1, activate=False, dtype=dtype, rngs=rngs)
        for n in names[1:]
      ]
    )
    self.outputs = List(
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
      dim,
      mask_dim,
      (3, 3),
      kernel_init=fan_in_uniform,
      conv_general_dilated=conv_general_dilated,
      dtype=dtype,
      rngs=rngs,
    )

  def __call__(self, features: dict[str, Array]) -> tuple[Array, Array]:
    """Returns pixel features [b,h/4,w/4,dim], and mask features (mask_dim)."""
    x = remat.run(self.remat, self.outputs[0], features[self.names[0]])
    for i, name in enumerate(self.names[1:]):
      lateral = remat.run(self.remat, self.laterals[i], features[name])
      x = lateral + upsample_nearest(x, *lateral.shape[1:3])
      x = remat.run(self.remat, self.outputs[i + 1], x)
    return x, self.mask_features(x)


class Encoder(nnx.Module):
  """Transformer encoder over the cells of the deepest level."""

  def __init__(
    self,
    d_in: int,
    dim: int,
    *,
    layers: int,
    num_heads: int,
    ffn_dim: int,
    dropout: float,
    remat: str = "none",
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    self.remat = remat
    self.input_proj = nnx.Linear(
      d_in, dim, kernel_init=fan_in_uniform, dtype=dtype, rngs=rngs
    )
    self.layers = List(
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
    rngs: ExampleRngs | None = None,
  ) -> Float[Array, "b h w d"]:
    """Maps a level's cells to features of width d."""
    x = self.input_proj(feature)
    b, h, w, d = x.shape
    positions = jnp.asarray(sine_positions(h, w, d), x.dtype)
    positions = positions.reshape(1, h * w, d)
    x = x.reshape(b, h * w, d)
    for layer in self.layers:
      x = remat.run(self.remat, layer, x, positions, train=train, rngs=rngs)
    return x.reshape(b, h, w, d)
