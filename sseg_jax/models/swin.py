"""Swin Transformer in MaskFormer's variant: four maps, any image size.

Source: MaskFormer `mask_former/modeling/backbone/swin.py`. Swin's own code has
a single LayerNorm at the end; here each output has one. Swin's own code also
does not shift if the map is no larger than a window; here it always does.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from sseg_jax.errors import InputError
from sseg_jax.models import remat, windows
from sseg_jax.models.dropout import DropPath, ExampleRngs
from sseg_jax.models.flax_versions import List
from sseg_jax.models.layers import gelu
from sseg_jax.models.swin_attention import WindowAttention, linear

PATCH = 4
EPS = 1e-5  # of every LayerNorm; torch's default, not Flax's

# torch's default for a convolution, which Swin keeps: uniform, ±fan_in**-0.5.
patch_init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

SWIN_SIZES: dict[str, dict[str, Any]] = {
  "swin_t": dict(embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
  "swin_s": dict(embed_dim=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
  "swin_b": dict(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
  "swin_l": dict(
    embed_dim=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48)
  ),
}


def _layer_norm(dim, dtype, rngs):
  return nnx.LayerNorm(dim, epsilon=EPS, dtype=dtype, rngs=rngs)


class SwinBlock(nnx.Module):
  """Pre-norm window attention and MLP.

  With `shift` the map is rolled by so many tokens before it is cut.
  """

  def __init__(
    self,
    dim: int,
    num_heads: int,
    *,
    window: int,
    shift: int,
    mlp_ratio: float,
    drop_path: float,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    self.window = window
    self.shift = shift
    hidden = int(mlp_ratio * dim)
    self.norm1 = _layer_norm(dim, dtype, rngs)
    self.attention = WindowAttention(
      dim, num_heads, window, dtype=dtype, rngs=rngs
    )
    self.norm2 = _layer_norm(dim, dtype, rngs)
    self.mlp_in = linear(dim, hidden, dtype, rngs)
    self.mlp_out = linear(hidden, dim, dtype, rngs)
    self.drop_path = DropPath(drop_path)

  def __call__(
    self,
    x: Float[Array, "b h w d"],
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
  ) -> Float[Array, "b h w d"]:
    """Adds both branches to the map; `train` drops them for whole examples."""

    def drop(y):
      return self.drop_path(y, deterministic=not train, rngs=rngs)

    x = x + drop(self._attend(self.norm1(x)))
    y = self.mlp_in(self.norm2(x))
    return x + drop(self.mlp_out(gelu(y)))

  def _attend(self, x):
    _, h, w, _ = x.shape
    # Padded after the norm, so that the padding is zero. Tokens attend to it as
    # to any other token, as in the published networks.
    x = windows.pad_to_multiple(x, self.window)
    _, padded_h, padded_w, _ = x.shape
    regions = None
    if self.shift:
      x = jnp.roll(x, (-self.shift, -self.shift), axis=(1, 2))
      regions = windows.shift_regions(
        padded_h, padded_w, self.window, self.shift
      )
    x = self.attention(windows.partition(x, self.window), regions)
    x = windows.join(x, self.window, padded_h, padded_w)
    if self.shift:
      x = jnp.roll(x, (self.shift, self.shift), axis=(1, 2))
    return x[:, :h, :w]


class PatchMerging(nnx.Module):
  """Halves the map and doubles its channels; an odd side is padded first."""

  def __init__(self, dim: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
    self.norm = _layer_norm(4 * dim, dtype, rngs)
    self.reduction = linear(4 * dim, 2 * dim, dtype, rngs, use_bias=False)

  def __call__(self, x: Float[Array, "b h w d"]) -> Float[Array, "b h2 w2 e"]:
    """Joins each 2×2 neighbourhood; e = 2d, sides are rounded up."""
    x = windows.pad_to_multiple(x, 2)
    b, h, w, d = x.shape
    x = x.reshape(b, h // 2, 2, w // 2, 2, d)
    # The 2×2 neighbours' channels follow column by column, as published.
    x = x.transpose(0, 1, 3, 4, 2, 5).reshape(b, h // 2, w // 2, 4 * d)
    return self.reduction(self.norm(x))


class Swin(nnx.Module):
  """Hierarchical backbone; see `SWIN_SIZES` for the published sizes.

  Args:
    embed_dim: channels of the first stage; each later stage doubles them.
    depths: blocks of each stage.
    num_heads: attention heads of each stage.
    window: side of the attention windows, in tokens.
    mlp_ratio: width of a block's MLP over the block's own.
    drop_path: rate at the last block; it grows linearly from 0 at the first.
    remat: what is stored of a block (`remat.POLICIES`).
    dtype: of the products; parameters and softmax stay float32.
    rngs: source of the initial values.

  Raises:
    InputError: if a stage's channels cannot be split among its heads.
  """

  def __init__(
    self,
    *,
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    window: int = 7,
    mlp_ratio: float = 4.0,
    drop_path: float = 0.0,
    remat: str = "none",
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
  ):
    dims = [embed_dim * 2**i for i in range(len(depths))]
    for dim, heads in zip(dims, num_heads, strict=True):
      if dim % heads:
        raise InputError(
          f"a Swin stage has {dim} channels, which {heads} heads cannot share;"
          " change embed_dim or num_heads"
        )
    self.dims = tuple(dims)
    self.remat = remat
    self.patch_embedding = nnx.Conv(
      3,
      embed_dim,
      (PATCH, PATCH),
      strides=PATCH,
      padding="VALID",
      kernel_init=patch_init,
      dtype=dtype,
      rngs=rngs,
    )
    self.patch_norm = _layer_norm(embed_dim, dtype, rngs)
    rates = iter(np.linspace(0, drop_path, sum(depths)).tolist())
    self.stages = List(
      List(
        SwinBlock(
          dim,
          heads,
          window=window,
          shift=window // 2 if i % 2 else 0,
          mlp_ratio=mlp_ratio,
          drop_path=next(rates),
          dtype=dtype,
          rngs=rngs,
        )
        for i in range(depth)
      )
      for dim, depth, heads in zip(dims, depths, num_heads, strict=True)
    )
    self.merges = List(
      PatchMerging(dim, dtype=dtype, rngs=rngs) for dim in dims[:-1]
    )
    self.norms = List(_layer_norm(dim, dtype, rngs) for dim in dims)

  @property
  def channels(self) -> dict[str, int]:
    """Channels of each output."""
    return {f"res{i + 2}": dim for i, dim in enumerate(self.dims)}

  @property
  def strides(self) -> dict[str, int]:
    """Image pixels per token along a side, for each output."""
    return {f"res{i + 2}": PATCH * 2**i for i in range(len(self.dims))}

  def __call__(
    self,
    image: Float[Array, "b h w 3"],
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
    valid: Bool[Array, "b"] | None = None,
  ) -> dict[str, Float[Array, "b _ _ _"]]:
    """Maps normalised images of any size to `{"res2": [b,h/4,w/4,d], …}`.

    Sides that a stride does not divide are rounded up. Training with
    `drop_path` draws from `rngs`. `valid` is not used.
    """
    del valid
    x = self.patch_norm(
      self.patch_embedding(windows.pad_to_multiple(image, PATCH))
    )
    outputs = {}
    for i, (blocks, norm) in enumerate(
      zip(self.stages, self.norms, strict=True)
    ):
      if i:
        x = self.merges[i - 1](x)
      for block in blocks:
        x = remat.run(self.remat, block, x, train=train, rngs=rngs)
      outputs[f"res{i + 2}"] = norm(x)
    return outputs
