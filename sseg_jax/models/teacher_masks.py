"""A MaskFormer over the tokens of a frozen vision transformer.

It learns masks from the clusters of these tokens, as the paper's MaskFormer
does from pictures (§3.4), and needs no other backbone. It is not of the paper.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sseg_jax.models import described, maskformer, pooling, teacher
from sseg_jax.models.dropout import ExampleRngs
from sseg_jax.models.vit_pyramid import Pyramid


class TeacherMasks(nnx.Module):
  """A light pyramid, a pixel decoder and a transformer decoder.

  Args:
    config: a whole config whose `model.backbone` is "teacher".
    rngs: source of the initial values.
  """

  def __init__(self, config: Any, *, rngs: nnx.Rngs):
    dtype = jnp.dtype(config.dtype)
    # Only the last layer's tokens are clustered and decoded.
    width = teacher.sizes(config)["width"]
    self.pyramid = Pyramid(width=width, dtype=dtype, rngs=rngs)
    self.maskformer = maskformer.build(
      config.model, self.pyramid.channels, dtype=dtype, rngs=rngs
    )
    self.regions = config.pseudo_masks.k
    self.dtype = dtype

  def __call__(
    self,
    tokens: Float[Array, "b y x d"],
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
  ) -> Float[Array, "layers b n h w"]:
    """Returns mask logits, four cells a token, the last decoder layer last.

    Args:
      tokens: `teacher.Regions.tokens`.
      train: dropout, and the masks of every decoder layer.
      rngs: of the pictures; needed if `train`.
    """
    levels = self.pyramid.levels(tokens.astype(self.dtype))
    return self.maskformer(levels, train=train, rngs=rngs).mask_logits

  def regions_of(self, seen: teacher.Regions) -> teacher.Regions:
    """Returns the queries' masks as regions, with the features under them.

    With `seen.labels`, masks are first snapped to these clusters. A mask that
    shows nowhere, because others lie in front of it, has no features that could
    name it: it does not exist, and has no pixel.
    """
    assert seen.tokens is not None and seen.cells is not None
    logits = self(seen.tokens)[-1]
    if seen.labels is not None:
      logits = pooling.snap(logits, seen.labels, self.regions)
    height, width = seen.cells.shape[1:3]
    shares = pooling.visible(logits, (height, width))
    features = pooling.pool_under_masks(
      seen.cells.astype(jnp.float32), jax.lax.stop_gradient(shares)
    )
    exist = shares.any((2, 3))
    logits = jnp.where(exist[..., None, None], logits, described.HIDDEN)
    return teacher.Regions(logits, features, exist)
