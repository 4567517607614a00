"""ResNet-50 and ResNet-101 (He et al., 2016), with strides in 3x3 convolutions.

This is "v1.5", as in torchvision (models/resnet.py). Batch norm takes its
statistics over the global batch while training.
"""

import functools
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from sseg_jax.models import remat
from sseg_jax.models.flax_versions import List
from sseg_jax.models.kernels.convolution import conv_general_dilated

RESNET_SIZES: dict[str, dict[str, Any]] = {
  "resnet50": {"depths": (3, 4, 6, 3)},
  "resnet101": {"depths": (3, 4, 23, 3)},
}
LEVELS = ("res2", "res3", "res4", "res5")
_EXPANSION = 4

_he_normal = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


class ConvNorm(nnx.Module):
  """Convolution without bias, padded as in torch, and batch norm."""

  def __init__(
    self,
    d_in: int,
    d_out: int,
    size: int,
    *,
    stride: int = 1,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    self.conv = nnx.Conv(
      d_in,
      d_out,
      (size, size),
      strides=(stride, stride),
      padding=size // 2,
      use_bias=False,
      kernel_init=_he_normal,
      conv_general_dilated=conv_general_dilated,
      dtype=dtype,
      rngs=rngs,
    )
    # In float32, whatever the products' type. The momentum is 0.1 in torch's
    # sense.
    self.norm = nnx.BatchNorm(
      d_out, momentum=0.9, epsilon=1e-5, dtype=jnp.float32, rngs=rngs
    )
    self.dtype = dtype

  def __call__(
    self,
    x: Float[Array, "b h w c"],
    *,
    train: bool,
    valid: Bool[Array, "b"] | None,
  ) -> Float[Array, "b y x d"]:
    """See `ResNet.__call__`."""
    mask = None
    if valid is not None:
      # If no example is valid all count, since a mean needs at least one.
      mask = (valid | ~valid.any()).reshape(-1, 1, 1, 1)
    x = self.norm(self.conv(x), use_running_average=not train, mask=mask)
    return x.astype(self.dtype)


class Bottleneck(nnx.Module):
  """relu(shortcut(x) + three convolutions), the middle one 3x3."""

  def __init__(
    self,
    d_in: int,
    width: int,
    *,
    stride: int,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    layer = functools.partial(ConvNorm, dtype=dtype, rngs=rngs)
    d_out = _EXPANSION * width
    self.conv1 = layer(d_in, width, 1)
    self.conv2 = layer(width, width, 3, stride=stride)
    self.conv3 = layer(width, d_out, 1)
    self.shortcut: nnx.Module | None
    if stride != 1 or d_in != d_out:
      self.shortcut = layer(d_in, d_out, 1, stride=stride)
    else:
      self.shortcut = None

  def __call__(self, x: Array, **how: Any) -> Array:
    """Maps [b,h,w,c] to [b,h/stride,w/stride,4*width]."""
    y = nnx.relu(self.conv1(x, **how))
    y = nnx.relu(self.conv2(y, **how))
    y = self.conv3(y, **how)
    if isinstance(self.shortcut, ConvNorm):
      x = self.shortcut(x, **how)
    return nnx.relu(x + y)


class ResNet(nnx.Module):
  """Four stages of bottlenecks at strides 4, 8, 16 and 32."""

  def __init__(
    self,
    *,
    depths: tuple[int, ...],
    width: int = 64,
    drop_path: float = 0.0,
    remat: str = "none",
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
  ):
    """Builds the network from random weights.

    Args:
      depths: blocks of each stage.
      width: features of the first convolution, and of the 3x3 convolutions of
        the first stage; each later stage doubles them.
      drop_path: not used; no published ResNet has it.
      remat: what is stored of a block (`remat.POLICIES`).
      dtype: of the products.
      rngs: the stream `params`.
    """
    del drop_path
    self.remat = remat
    self.depths, self.width = tuple(depths), width
    self.stem = ConvNorm(3, width, 7, stride=2, dtype=dtype, rngs=rngs)
    stages, d_in = [], width
    for i, depth in enumerate(depths):
      blocks = []
      for j in range(depth):
        stride = 2 if i and not j else 1
        blocks.append(
          Bottleneck(d_in, width * 2**i, stride=stride, dtype=dtype, rngs=rngs)
        )
        d_in = _EXPANSION * width * 2**i
      stages.append(List(blocks))
    self.stages = List(stages)

  @property
  def channels(self) -> dict[str, int]:
    """Features of each output, by name."""
    return {
      name: _EXPANSION * self.width * 2**i for i, name in enumerate(LEVELS)
    }

  @property
  def strides(self) -> dict[str, int]:
    """Pixels of each output's cell, by name."""
    return {name: 4 * 2**i for i, name in enumerate(LEVELS)}

  def __call__(
    self,
    image: Float[Array, "b h w 3"],
    *,
    train: bool = False,
    valid: Bool[Array, "b"] | None = None,
    **unused: Any,
  ) -> dict[str, Array]:
    """Maps a normalised picture to its feature maps, [b,h/s,w/s,c] each.

    Args:
      image: sides are multiples of 32.
      train: the norms take the batch's statistics and update their own.
      valid: the pictures that count for these statistics; None for all.
      **unused: other arguments of backbones.
    """
    del unused
    how: dict[str, Any] = {"train": train, "valid": valid}
    x = nnx.relu(self.stem(image, **how))
    # Zeros are as good as torch's minus infinity here, since no value is below.
    # The ONNX converter takes names of arguments, and no padding in numbers.
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = nnx.max_pool(x, window_shape=(3, 3), strides=(2, 2))
    outputs = {}
    for name, blocks in zip(LEVELS, self.stages, strict=True):
      for block in blocks:
        x = remat.run(self.remat, block, x, **how)
      outputs[name] = x
    return outputs
