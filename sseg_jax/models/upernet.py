"""UperNet over a plain ViT (Xiao et al. 2018), as BEiT and MAE are tuned.

Four levels are made from the tokens after four blocks: stride 4 by two
transposed convolutions, 8 by one, 16 by none, 32 by max pooling. Numbers and
order of operations are those of mmsegmentation: models/necks/featurepyramid.py,
models/decode_heads/{uper_head,psp_head,fcn_head}.py and
configs/_base_/models/upernet_mae.py.
"""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from sseg_jax.models.dropout import Dropout, ExampleRngs
from sseg_jax.models.flax_versions import List
from sseg_jax.models.layers import gelu, resize_bilinear
from sseg_jax.models.resnet import ConvNorm
from sseg_jax.models.vit import ViT
from sseg_jax.models.vit_pyramid import Upsample

POOL_SCALES = (1, 2, 3, 6)
AUXILIARY_CHANNELS = 256
_AUXILIARY_LEVEL = 2  # stride 16
_DROPOUT = 0.1


class PixelOutputs(NamedTuple):
  """Logits of each cell's class.

  Attributes:
    logits: float32 [b, y, x, c], at stride 4; of a linear classifier at the
      stride of its tokens.
    auxiliary: float32 [b, y, x, c] at stride 16; None outside training, and
      for a linear classifier.
  """

  logits: Array
  auxiliary: Array | None


def taps(depth: int) -> tuple[int, ...]:
  """Returns after how many blocks tokens are read: 4, 6, 8 and 12 of 12."""
  return tuple(max(1, part * depth // 12) for part in (4, 6, 8, 12))


class TokenPyramid(nnx.Module):
  """Four levels of equal width from the tokens of four blocks of a ViT.

  Args:
    width: features of a token and of every level.
    dtype: of the products.
    rngs: source of the initial values.
    **sizes: the rest of `ViT`'s arguments.
  """

  def __init__(
    self, *, width: int, dtype: DTypeLike, rngs: nnx.Rngs, **sizes: Any
  ):
    self.vit = ViT(width=width, dtype=dtype, rngs=rngs, **sizes)
    up = functools.partial(Upsample, width, width, dtype=dtype, rngs=rngs)
    self.four = up()
    # In float32, whatever the products' type.
    self.norm = nnx.BatchNorm(
      width, momentum=0.9, epsilon=1e-5, dtype=jnp.float32, rngs=rngs
    )
    self.four_more = up()
    self.twice = up()

  def __call__(
    self,
    image: Float[Array, "b h w 3"],
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
    valid: Bool[Array, "b"] | None = None,
  ) -> list[Array]:
    """Returns levels at strides 4, 8, 16 and 32, [b,h/s,w/s,width] each.

    Sides are multiples of 32. `valid` says which pictures count for batch
    statistics; None for all.
    """
    b, h, w, _ = image.shape
    patch = self.vit.patch
    found = self.vit.after(image, taps(self.vit.depth), train=train, rngs=rngs)
    a, c, d, e = (
      x[:, self.vit.prefix :].reshape(b, h // patch, w // patch, -1)
      for x in found
    )
    a = self.four(a)
    mask = None
    if valid is not None:
      mask = (valid | ~valid.any()).reshape(-1, 1, 1, 1)
    a = self.norm(a, use_running_average=not train, mask=mask)
    a = self.four_more(gelu(a.astype(d.dtype)))
    return [
      a,
      self.twice(c),
      d,
      nnx.max_pool(e, window_shape=(2, 2), strides=(2, 2)),
    ]


class ChannelDropout(Dropout):
  """Drops whole channels of a map, as torch's Dropout2d."""

  def _draw(self, x: Array, keep: float, rngs: ExampleRngs) -> Array:
    kept = super()._draw(x[:, :1, :1], keep, rngs)
    return jnp.broadcast_to(kept, x.shape)


class UperHead(nnx.Module):
  """Pyramid pooling of the deepest level, then a feature pyramid network.

  Args:
    d_in: features of every level.
    width: features inside the head.
    classes: number of outputs.
    dtype: of the products.
    rngs: source of the initial values.
  """

  def __init__(
    self,
    d_in: int,
    width: int,
    classes: int,
    *,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    conv = functools.partial(ConvNorm, dtype=dtype, rngs=rngs)
    pools = len(POOL_SCALES)
    self.pools = List([conv(d_in, width, 1) for _ in range(pools)])
    self.bottleneck = conv(d_in + pools * width, width, 3)
    self.laterals = List([conv(d_in, width, 1) for _ in range(3)])
    self.outputs = List([conv(width, width, 3) for _ in range(3)])
    self.join = conv(4 * width, width, 3)
    self.dropout = ChannelDropout(_DROPOUT)
    self.classify = _classifier(width, classes, dtype, rngs)

  def __call__(
    self,
    levels: list[Array],
    *,
    rngs: ExampleRngs | None,
    **how: Any,
  ) -> Float[Array, "b y x c"]:
    """Maps the levels, finest first, to logits at the finest; float32."""
    deepest = levels[-1]
    pooled = [deepest]
    for scale, layer in zip(POOL_SCALES, self.pools, strict=True):
      part = nnx.relu(layer(adaptive_mean(deepest, scale), **how))
      pooled.append(_resize(part, deepest.shape))
    x = nnx.relu(self.bottleneck(jnp.concatenate(pooled, -1), **how))
    rows = [
      nnx.relu(layer(level, **how))
      for layer, level in zip(self.laterals, levels[:-1], strict=True)
    ]
    rows.append(x)
    for i in (2, 1, 0):
      rows[i] += _resize(rows[i + 1], rows[i].shape)
    rows[:3] = [
      nnx.relu(layer(row, **how))
      for layer, row in zip(self.outputs, rows[:3], strict=True)
    ]
    joined = [_resize(row, rows[0].shape) for row in rows]
    x = nnx.relu(self.join(jnp.concatenate(joined, -1), **how))
    x = self.dropout(x, deterministic=not how["train"], rngs=rngs)
    return self.classify(x).astype(jnp.float32)


class FCNHead(nnx.Module):
  """One convolution and a classifier: the auxiliary head, for training."""

  def __init__(
    self, d_in: int, classes: int, *, dtype: DTypeLike, rngs: nnx.Rngs
  ):
    width = AUXILIARY_CHANNELS
    self.conv = ConvNorm(d_in, width, 3, dtype=dtype, rngs=rngs)
    self.dropout = ChannelDropout(_DROPOUT)
    self.classify = _classifier(width, classes, dtype, rngs)

  def __call__(
    self, x: Array, *, rngs: ExampleRngs | None, **how: Any
  ) -> Float[Array, "b y x c"]:
    """Maps a level to logits of its cells; float32."""
    x = nnx.relu(self.conv(x, **how))
    x = self.dropout(x, deterministic=not how["train"], rngs=rngs)
    return self.classify(x).astype(jnp.float32)


class UperNet(nnx.Module):
  """Both heads over the levels of a `TokenPyramid`.

  Args:
    d_in: features of every level.
    width: features inside the main head.
    classes: number of outputs.
    dtype: of the products.
    rngs: source of the initial values.
  """

  def __init__(
    self,
    d_in: int,
    width: int,
    classes: int,
    *,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    self.head = UperHead(d_in, width, classes, dtype=dtype, rngs=rngs)
    self.auxiliary = FCNHead(d_in, classes, dtype=dtype, rngs=rngs)

  def __call__(
    self,
    levels: list[Array],
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
    valid: Bool[Array, "b"] | None = None,
  ) -> PixelOutputs:
    """Maps levels at strides 4, 8, 16 and 32 to logits."""
    how: dict[str, Any] = dict(train=train, rngs=rngs, valid=valid)
    auxiliary = None
    if train:
      auxiliary = self.auxiliary(levels[_AUXILIARY_LEVEL], **how)
    return PixelOutputs(self.head(levels, **how), auxiliary)


def adaptive_mean(
  x: Float[Array, "b h w c"], bins: int
) -> Float[Array, "b n n c"]:
  """Averages into `bins` x `bins` cells, which may overlap.

  torch's AdaptiveAvgPool2d: bin i has the rows from floor(i·h/n) to before
  ceil((i+1)·h/n).
  """
  rows, columns = (_bins(side, bins) for side in x.shape[1:3])
  found = jnp.einsum("yh,bhwc,xw->byxc", rows, x.astype(jnp.float32), columns)
  return found.astype(x.dtype)


def _bins(side: int, bins: int) -> np.ndarray:
  table = np.zeros((bins, side), np.float32)
  for i in range(bins):
    start, end = i * side // bins, -(-(i + 1) * side // bins)
    table[i, start:end] = 1 / (end - start)
  return table


def _resize(x: Array, like: tuple[int, ...]) -> Array:
  size = like[1], like[2]
  if x.shape[1:3] == size:
    return x
  moved = resize_bilinear(x.transpose(0, 3, 1, 2), size)
  return moved.transpose(0, 2, 3, 1).astype(x.dtype)


def _classifier(
  width: int, classes: int, dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.Linear:
  init = nnx.initializers.normal(0.01)
  return nnx.Linear(width, classes, kernel_init=init, dtype=dtype, rngs=rngs)
