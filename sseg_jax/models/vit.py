"""Vision transformers of the DINO family, whose patch tokens others use.

DINO, DINOv2 (LayerScale, optionally registers), supervised ViTs and MAE's
encoder are the same network with a few switches. On a first read, go straight
to `ViT.features`.

Source: facebookresearch/dino `vision_transformer.py`, facebookresearch/dinov2
`dinov2/models/vision_transformer.py`.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sseg_jax.errors import InputError
from sseg_jax.models import positions, remat
from sseg_jax.models.attention import attend
from sseg_jax.models.dropout import DropPath, ExampleRngs
from sseg_jax.models.flax_versions import List
from sseg_jax.models.kernels import flash
from sseg_jax.models.layers import ACTIVATIONS
from sseg_jax.models.vit_sizes import VIT_SIZES, Sizes

__all__ = ["FEATURES", "VIT_SIZES", "Block", "Sizes", "ViT"]

# What can be read from a block: its output after the final norm, or a part of
# its attention's input, with the heads side by side.
FEATURES = ("tokens", "queries", "keys", "values")

_normal = nnx.initializers.truncated_normal(0.02)


def _linear(d_in, d_out, dtype, rngs):
  return nnx.Linear(d_in, d_out, kernel_init=_normal, dtype=dtype, rngs=rngs)


class Block(nnx.Module):
  """Pre-norm attention and MLP, each branch optionally scaled by channel."""

  def __init__(
    self,
    width: int,
    num_heads: int,
    *,
    mlp_ratio: float,
    layer_scale: bool,
    epsilon: float,
    drop_path: float = 0.0,
    activation: str = "gelu",
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    def norm():
      return nnx.LayerNorm(
        width,
        epsilon=epsilon,
        # Residuals reach tens; E[x²] - E[x]² would lose digits.
        use_fast_variance=False,
        dtype=dtype,
        rngs=rngs,
      )

    def scale():
      return nnx.Param(jnp.full((width,), 1e-5)) if layer_scale else None

    self.num_heads = num_heads
    self.flash = False  # see `ViT.use_flash_attention`
    hidden = int(mlp_ratio * width)
    self.norm1 = norm()
    self.qkv = _linear(width, 3 * width, dtype, rngs)
    self.out = _linear(width, width, dtype, rngs)
    self.scale1 = scale()
    self.norm2 = norm()
    self.mlp_in = _linear(width, hidden, dtype, rngs)
    self.mlp_out = _linear(hidden, width, dtype, rngs)
    self.scale2 = scale()
    self.drop_path = DropPath(drop_path)
    self.activation = activation

  def __call__(
    self,
    x: Float[Array, "b t d"],
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
  ) -> Float[Array, "b t d"]:
    """Adds both branches; `train` drops them for some whole pictures."""

    def drop(y):
      return self.drop_path(y, deterministic=not train, rngs=rngs)

    b, t, d = x.shape
    y = self.norm1(x)
    if self.flash:
      y = flash.pad(y)
    # Queries, keys and values are split before heads are: a TPU pads an array
    # of heads to whole tiles.
    q, k, v = (
      part.reshape(*part.shape[:2], self.num_heads, -1)
      for part in self._queries_keys_values(y)
    )
    y = flash.attend(q, k, v, t) if self.flash else attend(q, k, v)
    y = self.out(y.reshape(b, t, d))
    x = x + drop(_scaled(y, self.scale1))
    return x + drop(_scaled(self.mlp(x), self.scale2))

  def mlp(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
    """Returns the second branch, before it is scaled and added."""
    return self.mlp_out(
      ACTIVATIONS[self.activation](self.mlp_in(self.norm2(x)))
    )

  def _queries_keys_values(self, y: Float[Array, "b t d"]) -> list[Array]:
    d = y.shape[-1]
    if not flash.has_cudnn(y.dtype, d // self.num_heads):
      return jnp.split(self.qkv(y), 3, axis=-1)
    # cuDNN's kernel takes three arrays; three products make them, uncopied.
    kernel, bias = self.qkv.kernel[...], self.qkv.bias[...]
    return [
      jnp.dot(y, kernel[:, i : i + d].astype(y.dtype))
      + bias[None, None, i : i + d].astype(y.dtype)
      for i in range(0, 3 * d, d)
    ]

  def attention_input(
    self, x: Float[Array, "b t d"], part: str
  ) -> Float[Array, "b t d"]:
    """Returns "queries", "keys" or "values" of all heads, side by side."""
    i = FEATURES.index(part) - 1
    return jnp.split(self.qkv(self.norm1(x)), 3, axis=-1)[i]


def _scaled(x: Array, scale: nnx.Param | None) -> Array:
  if scale is None:
    return x
  return x * scale[...].astype(x.dtype)[None, None]


def read_blocks(
  x: Float[Array, "b t d"],
  blocks: Sequence[Block],
  norm: nnx.LayerNorm,
  wanted: Sequence[tuple[str, int]],
  first: int = 0,
  *,
  to_end: bool = False,
) -> tuple[Float[Array, "b t d"], dict[tuple[str, int], Array]]:
  """Passes tokens through blocks, and reads features on the way.

  Of the last block that is needed, only what is asked for is computed.

  Args:
    x: tokens that enter the first block.
    blocks: some that follow each other.
    norm: of the features "tokens".
    wanted: kind and layer of features, as `ViT.features` has them; those of
      other layers are left out.
    first: number of the first block.
    to_end: whether all blocks are needed, for the tokens after the last.

  Returns:
    The tokens after the last block that was computed, and what is wanted.
  """
  found = {}
  needed = [layer + (kind == "tokens") for kind, layer in wanted]
  last = first + len(blocks) if to_end else max(needed)
  for i, block in enumerate(blocks, first):
    for kind in FEATURES[1:]:
      if (kind, i) in wanted:
        found[kind, i] = block.attention_input(x, kind)
    if i == last:
      break
    x = block(x)
    if ("tokens", i) in wanted:
      found["tokens", i] = norm(x)
  return x, found


class ViT(nnx.Module):
  """A plain vision transformer; see `VIT_SIZES` for the published ones.

  Args:
    remat: what `__call__` stores of a block (`remat.POLICIES`).
    dtype: of the products; parameters and softmax stay float32.
    rngs: source of the initial values.
    **sizes: the fields of `Sizes`.
  """

  def __init__(
    self,
    *,
    remat: str = "none",
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
    **sizes: Any,
  ):
    s = Sizes(**sizes)
    self.patch, self.width, self.depth = s.patch, s.width, s.depth
    self.grid, self.registers = s.grid, s.registers
    self.position_rule = s.position_rule
    self.remat = remat
    self.dtype = jnp.dtype(dtype)
    self.patch_embedding = nnx.Conv(
      3,
      s.width,
      (s.patch, s.patch),
      strides=s.patch,
      padding="VALID",
      kernel_init=_normal,
      dtype=dtype,
      rngs=rngs,
    )
    # Class and register tokens [1 + registers, d]; positions of the class token
    # and of the grid, row by row.
    self.tokens = nnx.Param(_normal(rngs.params(), (1 + s.registers, s.width)))
    self.positions = nnx.Param(_normal(rngs.params(), (1 + s.grid**2, s.width)))
    self.blocks = List(
      Block(
        s.width,
        s.num_heads,
        mlp_ratio=s.mlp_ratio,
        layer_scale=s.layer_scale,
        epsilon=s.epsilon,
        drop_path=rate,
        activation=s.activation,
        dtype=dtype,
        rngs=rngs,
      )
      for rate in np.linspace(0, s.drop_path, s.depth).tolist()
    )
    self.norm = nnx.LayerNorm(
      s.width,
      epsilon=s.epsilon,
      use_fast_variance=False,
      dtype=dtype,
      rngs=rngs,
    )

  @property
  def prefix(self) -> int:
    """Tokens before the first patch: the class token and the registers."""
    return 1 + self.registers

  def __call__(
    self,
    image: Float[Array, "b h w 3"],
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
  ) -> Float[Array, "b t d"]:
    """Returns the last block's tokens after the final norm; see `features`.

    `train` drops branches, and draws from `rngs`.
    """
    (x,) = self.after(image, (self.depth,), train=train, rngs=rngs)
    return self.norm(x)

  def after(
    self,
    image: Float[Array, "b h w 3"],
    counts: Sequence[int],
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
  ) -> list[Float[Array, "b t d"]]:
    """Returns the tokens after so many blocks, without the final norm."""
    x, found = self.embed(image), {}
    for i, block in enumerate(self.blocks):
      x = remat.run(self.remat, block, x, train=train, rngs=rngs)
      found[i + 1] = x
    return [found[count] for count in counts]

  def features(
    self,
    image: Float[Array, "b h w 3"],
    parts: Sequence[tuple[str, int]] = (("tokens", -1),),
  ) -> list[Float[Array, "b t d"]]:
    """Returns features of some blocks; the blocks after them are not computed.

    Args:
      image: normalised pictures; sides are multiples of the patch.
      parts: kind and layer of each result. A kind is "tokens", a block's
        output after the final norm (what DINO's `get_intermediate_layers`
        gives), or "queries", "keys" or "values" of its attention; layer -1 is
        the last.

    Returns:
      One array a part: class token, registers, then patches row by row.

    Raises:
      InputError: if the patch does not divide a side, or a layer or a kind
        does not exist.
    """
    for kind, layer in parts:
      if kind not in FEATURES:
        raise InputError(
          f"feature={kind!r} does not exist; use one of {', '.join(FEATURES)}"
        )
      if not -self.depth <= layer < self.depth:
        raise InputError(
          f"layer={layer}: the network has layers 0 to {self.depth - 1};"
          " negative ones count from the end"
        )
    wanted = [(kind, layer % self.depth) for kind, layer in parts]
    _, found = read_blocks(self.embed(image), self.blocks, self.norm, wanted)
    return [found[part] for part in wanted]

  def use_flash_attention(self) -> None:
    """Attends in one kernel from now on; on TPUs only, without gradients."""
    for block in self.blocks:
      block.flash = True

  def embed(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b t d"]:
    """Returns the tokens that enter the first block."""
    b, height, width, _ = image.shape
    if height % self.patch or width % self.patch:
      raise InputError(
        f"image of {height}x{width} pixels: the network's patch of"
        f" {self.patch} must divide both sides; resize the image, or set"
        " pseudo_masks.scale to other than 1, which rounds"
      )
    x = self.patch_embedding(image.astype(self.dtype))
    h, w = x.shape[1:3]
    table = jnp.asarray(self.positions[...])
    grid = table[1:].reshape(self.grid, self.grid, -1)
    place = positions.resize_positions(grid, (h, w), self.position_rule)
    x = x + place[None].astype(self.dtype)
    # Registers have no position.
    places = jnp.pad(table[:1], ((0, self.registers), (0, 0)))
    first = self.tokens[...] + places
    first = jnp.broadcast_to(first[None], (b, *first.shape))
    x = x.reshape(b, h * w, self.width)
    return jnp.concatenate([first.astype(self.dtype), x], 1)
