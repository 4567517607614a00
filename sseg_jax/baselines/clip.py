"""Dense CLIP: the embedding of each patch is compared with the words.

The patches' tokens of the last block go through the norm and the projection
that CLIP has for its class token. This is the row "CLIP" of Tables 2 and 4.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from sseg_jax.baselines import towers
from sseg_jax.baselines.options import Options
from sseg_jax.models import clip


class DenseClip(towers.Dense):
  """CLIP as a `by_protocol.System`.

  Args:
    model: CLIP.
  """

  def __init__(self, model: clip.Clip):
    super().__init__(model, model.image.vit.patch, unit_first=True)

  @classmethod
  def build(cls, options: Options) -> "DenseClip":
    """Loads the weights that the options name."""
    return cls(clip.load(options.needed_weights("CLIPModel")))

  def _scores(
    self, model: clip.Clip, windows: Array, classes: Float[Array, "c e"]
  ) -> Float[Array, "g h w c"]:
    image = towers.normalized(windows, clip.PIXEL_MEAN, clip.PIXEL_STD)
    patches = model.image(image)[:, 1:]
    chances = towers.probabilities(patches, classes, model.logit_scale[...])
    maps = towers.grid_of(chances, windows.shape, self._patch)
    return jnp.moveaxis(towers.at_size(maps, windows), 1, -1)
