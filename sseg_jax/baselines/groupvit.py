"""GroupViT: a picture's groups are named, and pixels take their group's scores.

Source: NVlabs/GroupViT `segmentation/evaluation/group_vit_seg.py`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sseg_jax.baselines import towers
from sseg_jax.baselines.options import Options
from sseg_jax.models import groupvit, groupvit_weights
from sseg_jax.models.layers import PIXEL_MEAN, PIXEL_STD

_TOP = 5  # classes that the whole window may have


class GroupVit(towers.Dense):
  """GroupViT as a `by_protocol.System`.

  Args:
    model: GroupViT.
  """

  def __init__(self, model: groupvit.GroupViT):
    super().__init__(model, model.image.patch, unit_first=False)

  @classmethod
  def build(cls, options: Options) -> "GroupVit":
    """Loads the weights that the options name."""
    return cls(groupvit_weights.load(options.needed_weights("GroupViTModel")))

  def _scores(
    self, model: groupvit.GroupViT, windows: Array, classes: Array
  ) -> Float[Array, "g h w c"]:
    image = towers.normalized(windows, PIXEL_MEAN, PIXEL_STD)
    whole, groups, share = model.encode_image(image)
    scores = named(whole, groups, classes, model.logit_scale[...])
    share = towers.at_size(share, windows)
    return jax.vmap(lambda s, g: s[g])(scores, share.argmax(1))


def named(
  whole: Float[Array, "b e"],
  groups: Float[Array, "b g e"],
  classes: Float[Array, "c e"],
  logit_scale: Float[Array, ""],
) -> Float[Array, "b g c"]:
  """Returns scores of the classes for each group.

  Of each group, the probability among all classes, times that among the five
  classes which the whole picture is most alike to; the others have 0.
  """
  first = towers.probabilities(groups, classes, logit_scale)
  whole = towers.probabilities(whole, classes, logit_scale)
  top = jax.lax.top_k(whole, min(_TOP, len(classes)))[1]
  kept = jax.nn.one_hot(top, len(classes)).sum(1)[:, None]  # [b, 1, c]
  second = first * kept
  total = second.sum(-1, keepdims=True)
  return first * second / jnp.where(total > 0, total, 1)
