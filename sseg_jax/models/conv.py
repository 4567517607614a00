"""A small convolutional backbone for CPUs and for tests.

It is not the paper's. It cuts the picture into patches, as Swin does, and each
block has a single 3x3 convolution, because convolutions cost most on a CPU. It
has no attention, so a feature depends on a part of the picture only
(`receptive_field`).
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sseg_jax.models import remat
from sseg_jax.models.flax_versions import List
from sseg_jax.models.kernels.convolution import conv_general_dilated

CONV_SIZES: dict[str, dict[str, Any]] = {
  "conv_tiny": {"widths": (16, 16, 32, 32), "depths": (1, 1, 1, 1)},
  "conv_small": {"widths": (48, 64, 96, 96), "depths": (1, 2, 1, 1)},
  "conv_base": {"widths": (64, 128, 256, 256), "depths": (2, 3, 3, 1)},
}
LEVELS = ("res2", "res3", "res4", "res5")


def space_to_depth(x: Array, size: int) -> Array:
  """[b,h,w,c] -> [b,h/size,w/size,size*size*c]."""
  b, h, w, c = x.shape
  x = x.reshape(b, h // size, size, w // size, size, c)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, h // size, w // size, size * size * c)


class ConvBlock(nnx.Module):
  """x + linear(relu(conv3x3(norm(x))))."""

  def __init__(self, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
    self.norm = nnx.LayerNorm(width, epsilon=1e-5, dtype=dtype, rngs=rngs)
    self.conv = nnx.Conv(
      width,
      width,
      (3, 3),
      conv_general_dilated=conv_general_dilated,
      dtype=dtype,
      rngs=rngs,
    )
    self.out = nnx.Linear(width, width, dtype=dtype, rngs=rngs)

  def __call__(self, x: Array) -> Array:
    """Maps [b,h,w,c] to the same shape."""
    return x + self.out(nnx.relu(self.conv(self.norm(x))))


class ConvNet(nnx.Module):
  """Up to four stages, at strides 4, 8, 16 and 32; `widths` tells how many."""

  def __init__(
    self,
    *,
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    drop_path: float = 0.0,
    remat: str = "none",
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
  ):
    del drop_path  # so few layers need none
    self.remat = remat
    # Tuples, not dictionaries: static fields of a module are hashed.
    self.widths, self.depths = tuple(widths), tuple(depths)
    patches = (4, 2, 2, 2)[: len(widths)]
    inputs = (3, *widths[:-1])
    self.embeds = List(
      [
        nnx.Linear(p * p * d, width, dtype=dtype, rngs=rngs)
        for p, d, width in zip(patches, inputs, widths, strict=True)
      ]
    )
    self.stages = List(
      [
        List([ConvBlock(width, dtype=dtype, rngs=rngs) for _ in range(depth)])
        for width, depth in zip(widths, depths, strict=True)
      ]
    )
    self.norms = List(
      [
        nnx.LayerNorm(width, epsilon=1e-5, dtype=dtype, rngs=rngs)
        for width in widths
      ]
    )

  @property
  def levels(self) -> tuple[str, ...]:
    """Names of the outputs."""
    return LEVELS[: len(self.widths)]

  @property
  def channels(self) -> dict[str, int]:
    """Features of each output, by name."""
    return dict(zip(self.levels, self.widths, strict=True))

  @property
  def strides(self) -> dict[str, int]:
    """Pixels of each output's cell, by name."""
    return {name: 4 * 2**i for i, name in enumerate(self.levels)}

  def __call__(
    self, image: Float[Array, "b h w 3"], **unused: Any
  ) -> dict[str, Array]:
    """Maps a normalised picture to its feature maps, [b,h/s,w/s,c] each.

    The picture's sides are multiples of the last stride. Other arguments of
    backbones, `train`, `rngs` and `valid`, change nothing here.
    """
    del unused
    outputs = {}
    x = image
    for i, name in enumerate(self.levels):
      x = self.embeds[i](space_to_depth(x, 4 if i == 0 else 2))
      for block in self.stages[i]:
        x = remat.run(self.remat, block, x)
      outputs[name] = self.norms[i](x)
    return outputs

  def receptive_field(self, name: str) -> int:
    """Returns the side, in pixels, of the square a feature of `name` sees."""
    side, stride = 1, 1
    for i, stage in enumerate(self.levels):
      patch = 4 if i == 0 else 2
      side += (patch - 1) * stride
      stride *= patch
      side += 2 * stride * self.depths[i]
      if stage == name:
        return side
    raise KeyError(name)
