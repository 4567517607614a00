"""The two exported functions of networks with a fixed list of classes.

They are called as those of `towers.py` are. What takes the place of a word's
tokens is its place in the list, and what takes the place of its embedding is a
row that is 1 there. So all formats write them with the same code.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sseg_jax import prompts
from sseg_jax.checkpoints import named_arrays
from sseg_jax.exporting.towers import Towers, Weights
from sseg_jax.inference import fixed_classes, scoring
from sseg_jax.models import fixed_classes as networks
from sseg_jax.models.layers import resize_bilinear


class FixedTowers(Towers):
  """A network with a fixed list of classes as two pure functions."""

  outputs: ClassVar[tuple[str, ...]] = ("scores", "labels", "values")

  @property
  def has_background(self) -> bool:
    """Whether the list begins with background."""
    names = tuple(self.config.data.classes)
    return prompts.without_background(names, "data.classes")[1]

  @property
  def width(self) -> int:
    """Classes in the list, without background."""
    return len(self.config.data.classes) - self.has_background

  @property
  def context_length(self) -> int:
    """One number stands for a word: its place in the list."""
    return 1

  def embed_classes(
    self, weights: Weights, tokens: Int[Array, "c t l"]
  ) -> Float[Array, "c e"]:
    """Returns a row for each place in the list, 1 there and 0 elsewhere."""
    del weights
    return jax.nn.one_hot(tokens[:, 0, 0], self.width, dtype=jnp.float32)

  def segment(
    self,
    weights: Weights,
    images: Float[Array, "b h w 3"],
    classes: Float[Array, "c e"],
    threshold: Float[Array, ""],
  ) -> tuple[Array, ...]:
    """Returns scores and labels of each pixel, and what both are made from.

    Args:
      weights: as `self.weights`.
      images: RGB in 0..255, of `image_size`.
      classes: from `embed_classes`.
      threshold: as in `Towers.segment`.

    Returns:
      Scores [b,h,w,c] and labels int32 [b,h,w] of the classes that are asked
      for. Last the values [b,h,w,n] of the whole list, background included. Of
      these the mean over windows is taken, and scores are computed from the
      mean (`inference.fixed_classes`).
    """
    tree = named_arrays.nested(weights, int_keys=True)
    masks, given = networks.apply(
      self.graphdef, tree["params"], tree.get("model_state", {}), images
    )
    masks = resize_bilinear(masks, (images.shape[1], images.shape[2]))
    if self.combiner == "logits":
      values = masks.transpose(0, 2, 3, 1)
    else:
      values = scoring.combine(masks, given, self.combiner)
    asked = jnp.einsum(
      "bhwn,cn->bhwc",
      values[..., int(self.has_background) :],
      classes,
      precision=jax.lax.Precision.HIGHEST,
    )
    scores = fixed_classes.shares(
      values, asked, self.combiner == "logits", self.has_background
    )
    return scores, self.labels(scores, threshold), values
