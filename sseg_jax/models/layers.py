"""Layers that several networks share."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Integer

from sseg_jax.models.flax_versions import List

PIXEL_MEAN = (123.675, 116.28, 103.53)  # RGB, ImageNet's, as MaskFormer
PIXEL_STD = (58.395, 57.12, 57.375)

xavier_uniform = nnx.initializers.xavier_uniform()
# detectron2's c2_xavier_fill: Kaiming-uniform with a = 1, over the fan-in.
fan_in_uniform = nnx.initializers.variance_scaling(1.0, "fan_in", "uniform")
# torch's default for linear and convolution layers.
torch_uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
_torch_uniform_heads = nnx.initializers.variance_scaling(
  1 / 3, "fan_in", "uniform", batch_axis=0
)


def normalize_pixels(
  image: Array, dtype: DTypeLike = jnp.float32
) -> Float[Array, "b h w 3"]:
  """Maps RGB in 0..255 to about zero mean and unit variance."""
  mean = jnp.asarray(PIXEL_MEAN, jnp.float32)[None, None, None]
  std = jnp.asarray(PIXEL_STD, jnp.float32)[None, None, None]
  return ((image.astype(jnp.float32) - mean) / std).astype(dtype)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
  """GELU by the error function, in float32 whatever the type of `x`.

  `jax.nn.gelu` uses the complementary error function, a long polynomial for
  which XLA on a GPU needs several passes over memory.
  """
  y = x.astype(jnp.float32)
  return (0.5 * y * (1 + lax.erf(y * math.sqrt(0.5)))).astype(x.dtype)


def quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
  """CLIP's cheap approximation of GELU: `x * sigmoid(1.702 x)`."""
  return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {"gelu": gelu, "quick_gelu": quick_gelu}


class MLP(nnx.Module):
  """Linear layers with ReLU between them, none after the last."""

  def __init__(
    self,
    sizes: Sequence[int],
    *,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    """Builds len(sizes) - 1 layers, from sizes[0] features to sizes[-1]."""
    self.layers = List(
      [
        nnx.Linear(
          d_in, d_out, kernel_init=torch_uniform, dtype=dtype, rngs=rngs
        )
        for d_in, d_out in zip(sizes[:-1], sizes[1:], strict=True)
      ]
    )

  def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b e"]:
    """Maps the last axis."""
    for layer in self.layers[:-1]:
      x = nnx.relu(layer(x))
    return self.layers[-1](x)


class Projection(nnx.Module):
  """The 2-layer head into the joint embedding space (§3.5).

  Linear, norm, ReLU, linear, as GroupViT's ProjectMLP
  (models/multi_label_contrastive.py). Under a sharded batch the batch norm's
  statistics are those of the global batch. As in GroupViT, the mean of the
  queries and each single query use the same statistics.

  With several heads, the neurons and the outputs are divided among them: each
  head is such a network of its own. Its output has the length 1/√heads, so that
  the cosine of two results is the mean of the heads' cosines.
  """

  def __init__(
    self,
    d_in: int,
    hidden: int,
    d_out: int,
    *,
    norm: str,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
    heads: int = 1,
  ):
    self.heads = heads
    self.fc2: nnx.Module
    self.fc1 = nnx.Linear(
      d_in, hidden, kernel_init=torch_uniform, dtype=dtype, rngs=rngs
    )
    self.norm: nnx.Module | None
    if norm == "bn":
      # The momentum is 0.1 in torch's sense. With new weights queries hardly
      # differ, and E[x²] - E[x]² would lose most digits.
      self.norm = nnx.BatchNorm(
        hidden,
        momentum=0.9,
        epsilon=1e-5,
        use_fast_variance=False,
        dtype=jnp.float32,
        rngs=rngs,
      )
    elif norm == "ln":
      self.norm = nnx.LayerNorm(
        hidden, epsilon=1e-5, dtype=jnp.float32, rngs=rngs
      )
    elif norm == "none":
      self.norm = None
    else:
      raise ValueError(f"model.proj_norm={norm!r} is not one of bn, ln, none")
    if heads == 1:
      self.fc2 = nnx.Linear(
        hidden, d_out, kernel_init=torch_uniform, dtype=dtype, rngs=rngs
      )
    else:
      self.fc2 = nnx.Einsum(
        "...hd,hde->...he",
        (heads, hidden // heads, d_out // heads),
        (heads, d_out // heads),
        kernel_init=_torch_uniform_heads,
        dtype=dtype,
        rngs=rngs,
      )

  def __call__(
    self,
    x: Float[Array, "b *n d"],
    *,
    train: bool = False,
    valid: Bool[Array, "b"] | None = None,
  ) -> Float[Array, "b *n e"]:
    """Maps the last axis.

    Args:
      x: features, one or several of each example.
      train: a batch norm takes the batch's statistics and updates its own.
      valid: the examples that count for these statistics; None for all. The
        others are replaced by zeros.
    """
    mask = None
    if valid is not None:
      valid = valid.reshape(-1, *(1,) * (x.ndim - 1))
      # NaN in an invalid example would pass into every gradient.
      x = jnp.where(valid, x, 0)
      # If no example is valid all count, since a mean needs at least one.
      mask = valid | ~valid.any()
    x = self.fc1(x)
    if isinstance(self.norm, nnx.BatchNorm):
      x = self.norm(x, use_running_average=not train, mask=mask)
    elif self.norm is not None:
      x = self.norm(x)
    x = nnx.relu(x)
    if self.heads == 1:
      return self.fc2(x)
    x = self.fc2(x.reshape(*x.shape[:-1], self.heads, -1))
    x = unit(x.astype(jnp.float32)) / math.sqrt(self.heads)
    return x.reshape(*x.shape[:-2], -1)


class RegionLayer(nnx.Module):
  """relu(norm(linear(x))), over all the features of a region."""

  def __init__(
    self, d_in: int, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs
  ):
    self.linear = nnx.Linear(d_in, width, dtype=dtype, rngs=rngs)
    self.norm = nnx.LayerNorm(width, epsilon=1e-5, dtype=dtype, rngs=rngs)

  def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b e"]:
    """Maps the last axis."""
    return nnx.relu(self.norm(self.linear(x)))


def unit(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
  """Scales vectors to length one, in float32.

  A vector shorter than 1e-6 is divided by 1e-6 instead: a zero vector, such as
  that of an empty mask, stays zero and has a finite gradient.
  """
  x = x.astype(jnp.float32)
  square = jnp.maximum((x * x).sum(-1, keepdims=True), 1e-12)
  return x * lax.rsqrt(square)


def resize_bilinear(
  values: Float[Array, "*batch h w"],
  size: tuple[int, int],
  precision: jax.lax.Precision = jax.lax.Precision.HIGHEST,
) -> Float[Array, "*batch H W"]:
  """Resizes by torch's "bilinear", without align_corners or antialias; float32.

  Computed as two products with small constant matrices, whose gradients are
  products too; the gradient of a gather would be a scatter. `precision` is that
  of the products.
  """
  values = values.astype(jnp.float32)
  if values.shape[-2:] == size:
    return values
  rows = _bilinear_matrix(values.shape[-2], size[0])
  columns = _bilinear_matrix(values.shape[-1], size[1])
  # Letters and no "...", of which onnxruntime guesses wrong sizes.
  batch = "abcdefg"[: values.ndim - 2]
  return jnp.einsum(
    f"Hh,{batch}hw,Ww->{batch}HW",
    rows,
    values,
    columns,
    precision=precision,
  )


def resize_labels(
  labels: Integer[Array, "*batch H W"], size: tuple[int, int]
) -> Integer[Array, "*batch h w"]:
  """Resizes by torch's "nearest": source index = floor(target * in / out)."""
  for axis, out in zip((-2, -1), size, strict=True):
    if labels.shape[axis] != out:
      source = np.arange(out) * labels.shape[axis] // out
      labels = jnp.take(labels, source, axis=axis)
  return labels


def _bilinear_matrix(size_in: int, size_out: int) -> np.ndarray:
  """Returns the [size_out, size_in] weights of linear interpolation."""
  centers = (np.arange(size_out) + 0.5) * size_in / size_out - 0.5
  centers = np.clip(centers, 0, size_in - 1)
  distance = np.abs(centers[:, None] - np.arange(size_in))
  return np.maximum(0, 1 - distance).astype(np.float32)


def clamped_scale(
  logit_scale: Float[Array, ""], max_logit_scale: float
) -> Float[Array, ""]:
  """Returns the factor exp(logit_scale), at most `max_logit_scale`; float32.

  The logarithm is clamped, not the factor, since exp overflows float32 above
  88.7 and its gradient is then NaN. Below the clamp the gradient is that of
  exp. Above it is zero, as with `torch.clamp(logit_scale.exp(), max=100)` in
  GroupViT (models/multi_label_contrastive.py).
  """
  largest = np.log(np.float32(max_logit_scale))
  return jnp.exp(jnp.minimum(logit_scale.astype(jnp.float32), largest))
