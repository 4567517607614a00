"""A plain ViT as a backbone: its last tokens, or four levels made from them.

The levels are those of ViTDet's simple feature pyramid (Li et al. 2022,
detectron2 projects/ViTDet, modeling/backbone/vit.py): stride 4 by two
transposed convolutions of the tokens at stride 16, stride 8 by one, 16 by none,
and 32 by max pooling. ViTDet's output convolutions are left out, since the
pixel decoder has its own.
"""

import functools
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sseg_jax.models.dropout import ExampleRngs
from sseg_jax.models.layers import gelu
from sseg_jax.models.vit import ViT
from sseg_jax.models.vit_sizes import VIT_SIZES

TOKENS = "tokens"  # the level of `TokenMap`
# Trained from random weights at 224 pixels: 14x14 positions.
_SIZES: dict[str, Any] = dict(patch=16, depth=12, grid=14, position_rule="size")
PYRAMID_SIZES: dict[str, dict[str, Any]] = {
  "vit_s16": dict(**_SIZES, width=384, num_heads=6),
  "vit_b16": dict(**_SIZES, width=768, num_heads=12),
  # MoCo v3's: the heads are half as wide as DINO's. facebookresearch/moco-v3
  # vits.py.
  "vit_s16_h12": dict(**_SIZES, width=384, num_heads=12),
}
# Those that give tokens alone, because their patch is no stride of a pyramid.
TOKEN_SIZES: dict[str, dict[str, Any]] = {
  "vit_s8": VIT_SIZES["dino_vits8"],
  "vit_s14": VIT_SIZES["dinov2_vits14"],
  # For drawn pictures of 96 pixels.
  "vit_tiny8": dict(
    patch=8, width=96, depth=4, num_heads=4, grid=12, position_rule="size"
  ),
}


class Upsample(nnx.Module):
  """Transposed convolution, 2x2 with stride 2: cells do not overlap."""

  def __init__(
    self, d_in: int, d_out: int, *, dtype: DTypeLike, rngs: nnx.Rngs
  ):
    self.linear = nnx.Linear(d_in, 4 * d_out, dtype=dtype, rngs=rngs)

  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b y x d"]:
    """Doubles both sides."""
    b, h, w, _ = x.shape
    x = self.linear(x).reshape(b, h, w, 2, 2, -1)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, -1)


class TokenMap(nnx.Module):
  """The last tokens of a ViT as a map, and nothing else.

  Args:
    width: features of a token.
    rngs: source of the initial values.
    **sizes: the rest of `ViT`'s arguments.
  """

  def __init__(self, *, width: int, rngs: nnx.Rngs, **sizes: Any):
    self.width = width
    self.vit = ViT(width=width, rngs=rngs, **sizes)

  @property
  def channels(self) -> dict[str, int]:
    """Features of the output, by name."""
    return {TOKENS: self.width}

  @property
  def strides(self) -> dict[str, int]:
    """Pixels of the output's cell, by name."""
    return {TOKENS: self.vit.patch}

  def __call__(
    self,
    image: Float[Array, "b h w 3"],
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
    **unused: Any,
  ) -> dict[str, Array]:
    """Maps a normalised picture to its tokens, [b,h/s,w/s,width].

    The picture's sides are multiples of the patch. `valid`, an argument of
    backbones, changes nothing here.
    """
    del unused
    return {TOKENS: _token_map(self.vit, image, train, rngs)}


class Pyramid(nnx.Module):
  """Four levels made from a map of tokens: 4, 2, 1 and 1/2 cells a token.

  Args:
    width: features of a token, and of the two coarser levels; the finer ones
      have a half and a quarter.
    dtype: of the products.
    rngs: source of the initial values.
  """

  def __init__(self, *, width: int, dtype: DTypeLike, rngs: nnx.Rngs):
    self.width = width
    up = functools.partial(Upsample, dtype=dtype, rngs=rngs)
    self.twice = up(width, width // 2)
    self.norm = nnx.LayerNorm(width // 2, epsilon=1e-6, dtype=dtype, rngs=rngs)
    self.twice_more = up(width // 2, width // 4)
    self.once = up(width, width // 2)

  @property
  def channels(self) -> dict[str, int]:
    """Features of each level, by name, the finest first."""
    d = self.width
    return {"res2": d // 4, "res3": d // 2, "res4": d, "res5": d}

  def levels(self, x: Float[Array, "b y x d"]) -> dict[str, Array]:
    """Returns the levels; the coarsest rounds odd sides up."""
    fine = gelu(self.norm(self.twice(x)))
    pooled = nnx.max_pool(
      x, window_shape=(2, 2), strides=(2, 2), padding="SAME"
    )
    return {
      "res2": self.twice_more(fine),
      "res3": self.once(x),
      "res4": x,
      "res5": pooled,
    }


class ViTPyramid(Pyramid):
  """Levels at strides 4, 8, 16 and 32 over a ViT of patch 16.

  Args:
    width: see `Pyramid`.
    drop_path: rate at the last block; it grows linearly from 0 at the first.
    dtype: of the products.
    rngs: source of the initial values.
    **sizes: the rest of `ViT`'s arguments.
  """

  def __init__(
    self,
    *,
    width: int,
    drop_path: float = 0.0,
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
    **sizes: Any,
  ):
    self.vit = ViT(
      width=width, drop_path=drop_path, dtype=dtype, rngs=rngs, **sizes
    )
    super().__init__(width=width, dtype=dtype, rngs=rngs)

  @property
  def strides(self) -> dict[str, int]:
    """Pixels of each output's cell, by name."""
    return {"res2": 4, "res3": 8, "res4": 16, "res5": 32}

  def __call__(
    self,
    image: Float[Array, "b h w 3"],
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
    **unused: Any,
  ) -> dict[str, Array]:
    """Maps a normalised picture to its levels, [b,h/s,w/s,c] each.

    The picture's sides are multiples of 32. `valid`, an argument of
    backbones, changes nothing here.
    """
    del unused
    return self.levels(_token_map(self.vit, image, train, rngs))


def _token_map(
  vit: ViT, image: Array, train: bool, rngs: ExampleRngs | None
) -> Float[Array, "b y x d"]:
  b, h, w, _ = image.shape
  tokens = vit(image, train=train, rngs=rngs)[:, vit.prefix :]
  return tokens.reshape(b, h // vit.patch, w // vit.patch, -1)
