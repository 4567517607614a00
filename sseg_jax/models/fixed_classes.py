"""Networks that know a fixed list of classes and no other words.

`config.model.head` chooses one. They are students of self-training and the
supervised rows of the paper's tables; text embeddings play no part.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Num

from sseg_jax.errors import InputError
from sseg_jax.models import backbones, fields, maskformer, upernet
from sseg_jax.models.dropout import ExampleRngs
from sseg_jax.models.layers import normalize_pixels, torch_uniform
from sseg_jax.models.vit_pyramid import TOKENS


class MaskOutputs(NamedTuple):
  """Masks with the class of each.

  Attributes:
    mask_logits: float32 [layers, b, n, h/4, w/4], the last layer last.
    class_logits: float32 [layers, b, n, c + 1], "no object" last.
  """

  mask_logits: Array
  class_logits: Array


class Named(NamedTuple):
  """Outputs in the form that inference joins windows from.

  Attributes:
    masks: float32 [b, n, h/4, w/4].
    classes: float32 [b, n, c], what each of them gives to each class.
  """

  masks: Array
  classes: Array


class _FixedClasses(nnx.Module):
  """What the networks share: checked fields, and pictures of the right size."""

  def _begin(self, config: Any) -> int:
    """Checks the fields, and returns the number of labels."""
    fields.check(config)
    self.dtype = jnp.dtype(config.dtype)
    count = len(config.data.classes)
    if not count:
      raise InputError(
        f"data.classes is empty: model.head={config.model.head!r} needs the"
        " names of the labels; give them, or train on records that have them"
      )
    return count

  def _pixels(self, image: Array) -> Array:
    stride = backbones.LARGEST_STRIDE
    h, w = image.shape[1:3]
    if h % stride or w % stride:
      raise InputError(f"image size {h}x{w} is not a multiple of {stride}")
    return normalize_pixels(image, self.dtype)


class ClassMaskFormer(_FixedClasses):
  """MaskFormer with its class head: c classes and "no object"."""

  # How inference joins masks and classes: MaskFormer's semantic inference.
  combiner = "sum"

  def __init__(self, config: Any, *, rngs: nnx.Rngs):
    """Builds the network of a config from random weights."""
    count, c = self._begin(config), config.model
    self.backbone = backbones.build(
      c.backbone,
      drop_path=c.drop_path,
      remat=c.remat,
      dtype=self.dtype,
      rngs=rngs,
    )
    self.maskformer = maskformer.build(
      c, self.backbone.channels, dtype=self.dtype, rngs=rngs
    )
    self.class_head = nnx.Linear(
      c.hidden_dim,
      count + 1,
      kernel_init=torch_uniform,
      dtype=self.dtype,
      rngs=rngs,
    )

  def __call__(
    self,
    image: Num[Array, "b h w 3"],
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
    valid: Bool[Array, "b"] | None = None,
  ) -> MaskOutputs:
    """Maps RGB in 0..255 to masks and classes; sides are multiples of 32."""
    levels = self.backbone(
      self._pixels(image), train=train, rngs=rngs, valid=valid
    )
    found = self.maskformer(levels, train=train, rngs=rngs)
    logits = self.class_head(found.layer_features).astype(jnp.float32)
    return MaskOutputs(found.mask_logits, logits)

  def named(self, image: Num[Array, "b h w 3"]) -> Named:
    """Returns what inference needs of pictures."""
    found = self(image)
    probabilities = jax.nn.softmax(found.class_logits[-1], axis=-1)
    return Named(found.mask_logits[-1], probabilities[..., :-1])


class _OfPixels(_FixedClasses):
  """What networks share that give logits to each cell, without masks."""

  # Logits of windows are averaged before the softmax, as in mmsegmentation.
  combiner = "logits"

  def named(self, image: Num[Array, "b h w 3"]) -> Named:
    """Returns what inference needs of pictures: a map of logits a class."""
    logits = self(image).logits.transpose(0, 3, 1, 2)
    b, c = logits.shape[:2]
    return Named(logits, jnp.broadcast_to(jnp.eye(c), (b, c, c)))


class UperNetStudent(_OfPixels):
  """UperNet over a ViT: the class of each pixel."""

  def __init__(self, config: Any, *, rngs: nnx.Rngs):
    """Builds the network of a config from random weights."""
    count, c = self._begin(config), config.model
    sizes = backbones.BACKBONES[c.backbone][1]
    self.backbone = upernet.TokenPyramid(
      **sizes, drop_path=c.drop_path, remat=c.remat, dtype=self.dtype, rngs=rngs
    )
    self.upernet = upernet.UperNet(
      sizes["width"], c.hidden_dim, count, dtype=self.dtype, rngs=rngs
    )

  def __call__(
    self,
    image: Num[Array, "b h w 3"],
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
    valid: Bool[Array, "b"] | None = None,
  ) -> upernet.PixelOutputs:
    """Maps RGB in 0..255 to logits; sides are multiples of 32."""
    how: dict[str, Any] = dict(train=train, rngs=rngs, valid=valid)
    return self.upernet(self.backbone(self._pixels(image), **how), **how)


class LinearProbe(_OfPixels):
  """A linear classifier of a ViT's tokens, which may stay as they started."""

  def __init__(self, config: Any, *, rngs: nnx.Rngs):
    """Builds the network of a config from random weights."""
    count, c = self._begin(config), config.model
    self.frozen = c.frozen
    self.backbone = backbones.tokens(
      c.backbone,
      drop_path=c.drop_path,
      remat=c.remat,
      dtype=self.dtype,
      rngs=rngs,
    )
    self.classify = nnx.Linear(
      self.backbone.width, count, dtype=self.dtype, rngs=rngs
    )

  def __call__(
    self,
    image: Num[Array, "b h w 3"],
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
    valid: Bool[Array, "b"] | None = None,
  ) -> upernet.PixelOutputs:
    """Maps RGB in 0..255 to logits of patches; sides are multiples of 32."""
    del valid  # there is no batch norm
    pixels, learns = self._pixels(image), train and not self.frozen
    tokens = self.backbone(pixels, train=learns, rngs=rngs)[TOKENS]
    if self.frozen:
      tokens = jax.lax.stop_gradient(tokens)
    return upernet.PixelOutputs(self.classify(tokens).astype(jnp.float32), None)


HEADS: dict[str, Callable[..., Any]] = {
  "classes": ClassMaskFormer,
  "upernet": UperNetStudent,
  "linear": LinearProbe,
}


def network(config: Any) -> Callable[..., Any] | None:
  """Returns the class of a config's network; None if it knows any words."""
  return HEADS.get(config.model.head)


def apply(
  graphdef: nnx.GraphDef, params: Any, model_state: Any, image: Array
) -> Named:
  """Returns `named` of a network's pictures, as a pure function."""
  return nnx.merge(graphdef, params, model_state).named(image)
