"""What queries are described from, and what comes out, before the projection.

`query_embedding.py` has the forms that make one of the other.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from sseg_jax.models.maskformer import MaskFormerOutputs

# Mask logit of a mask that has no pixel: below what any network gives.
HIDDEN = -1e4


class Seen(NamedTuple):
  """What both forms may read: pictures, and what the networks computed of them.

  `pixels` and `labels` are of all pictures. All other fields are of the
  pictures that get masks: every `masks_every`-th one.

  Attributes:
    pixels: normalised images, [b, H, W, 3].
    labels: regions of these, -1 or less for none, [b, y, x]; or None.
    levels: the backbone's maps by name, [b, h, w, c] each.
    masks: what MaskFormer gives.
    logits: mask logits of its last layer, without gradient, [b, n, h, w].
    snapped: the same after `pooling.snap`, if there are `labels`.
    masks_every: see `SSeg.image_features`.
  """

  pixels: Array
  labels: Array | None
  levels: dict[str, Array]
  masks: MaskFormerOutputs
  logits: Array
  snapped: Array
  masks_every: int


class Described(NamedTuple):
  """What is embedded, before the projection.

  Attributes:
    query_features: [b, n, d], of each query.
    part_features: [b, k, d], of the parts whose mean embeds the picture. The
      parts are the queries (then it is the same array), or given regions.
    counts: float32 [b, k], 1 for parts that the mean counts, else 0.
    shown: bool [b, n], the queries that have something to be described from;
      None for all.
  """

  query_features: Array
  part_features: Array
  counts: Array
  shown: Array | None = None

  def masks(self, logits: Float[Array, "l b n h w"]) -> Array:
    """Returns mask logits at test, without the masks that are not shown.

    Their features are zeros, so that any word may fit: they get no pixel.
    """
    if self.shown is None:
      return logits
    return jnp.where(self.shown[None, :, :, None, None], logits, HIDDEN)
