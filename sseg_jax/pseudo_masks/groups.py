"""Masks from the groups that GroupViT makes of a picture (a row of Table 1).

Nothing is clustered here: the network itself assigns its patches to groups.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Int, Key, Num

from sseg_jax.errors import InputError
from sseg_jax.models import groupvit_weights, hf_files
from sseg_jax.models.layers import normalize_pixels, resize_bilinear


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
  """GroupViT's groups; has the interface of `generator.PseudoMasks`.

  Attributes:
    k: groups a picture.
    stride: side of a patch in pixels, which divides a picture's sides. The
      label maps are finer: they have the picture's size.
    graphdef: structure of the `groupvit.GroupViT`.
    frozen: its parameters, an argument of `generate`.
  """

  k: int
  stride: int
  graphdef: nnx.GraphDef
  frozen: Any

  @classmethod
  def build(cls, config: Any) -> "Groups":
    """Loads `config.pseudo_masks.weights`, which transformers saved.

    The network computes in float32, whatever `config.dtype` is.

    Raises:
      InputError: if no weights are given, if they are not GroupViT's, or if it
        makes another number of groups than `config.pseudo_masks.k`.
    """
    fields = config.pseudo_masks
    if not fields.weights:
      raise InputError(
        "pseudo_masks.weights is empty: the generator groupvit needs"
        f" GroupViTModel's weights; give {hf_files.HOW} (for Table 1"
        " --weights=groupvit=FOLDER)"
      )
    model = groupvit_weights.load(fields.weights)
    count = model.image.groups
    if count != fields.k:
      raise InputError(
        f"pseudo_masks.k={fields.k}: the GroupViT of {fields.weights} makes"
        f" {count} groups; give k={count}"
      )
    graphdef, frozen = nnx.split(model)
    return cls(count, model.image.patch, graphdef, frozen)

  def generate(
    self, frozen: Any, image: Num[Array, "b h w 3"], keys: Key[Array, "b"]
  ) -> tuple[Int[Array, "b h w"], Bool[Array, "b k"]]:
    """Returns the likeliest group of each pixel, and which groups occur.

    A pixel's shares are those of the patches around it, interpolated, as
    GroupViT's own evaluation has them (segmentation/evaluation/
    group_vit_seg.py).
    """
    del keys
    model = nnx.merge(self.graphdef, frozen)
    _, share = model.image(normalize_pixels(image, jnp.float32))
    _, h, w, _ = image.shape
    labels = resize_bilinear(share, (h, w)).argmax(1)
    present = jax.nn.one_hot(labels, self.k, dtype=bool).any((1, 2))
    return labels.astype(jnp.int32), present
