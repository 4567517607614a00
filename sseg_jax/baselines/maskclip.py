"""MaskCLIP: dense CLIP whose last block mixes no tokens.

Each token takes its own value in place of the attention's average. Two options
refine the scores: key smoothing and prompt denoising.

Source: chongzhou96/MaskCLIP `mmseg/models/decode_heads/maskclip_head.py`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from sseg_jax.baselines import towers
from sseg_jax.baselines.clip import DenseClip
from sseg_jax.baselines.options import Options
from sseg_jax.errors import InputError
from sseg_jax.models import clip
from sseg_jax.models.layers import PIXEL_MEAN, PIXEL_STD, unit


class MaskClip(DenseClip):
  """MaskCLIP as a `by_protocol.System`.

  Args:
    model: CLIP.
    key_smoothing: patches whose best probability is below it take the scores of
      the patches with alike keys; 0 for none (MaskCLIP's own: 1).
    prompt_denoising: classes whose best probability in a window is below it are
      left out there; 0 for none (MaskCLIP's own: 0.5).
  """

  def __init__(
    self,
    model: clip.Clip,
    key_smoothing: float = 0.0,
    prompt_denoising: float = 0.0,
  ):
    for name, value in (
      ("key_smoothing", key_smoothing),
      ("prompt_denoising", prompt_denoising),
    ):
      if not 0 <= value <= 1:
        raise InputError(f"{name}={value}: give a probability, from 0 to 1")
    self._key_smoothing = key_smoothing
    self._prompt_denoising = prompt_denoising
    super().__init__(model)

  @classmethod
  def build(cls, options: Options) -> "MaskClip":
    """Loads the weights that the options name."""
    return cls(
      clip.load(options.needed_weights("CLIPModel")),
      options.key_smoothing,
      options.prompt_denoising,
    )

  def _scores(
    self, model: clip.Clip, windows: Array, classes: Float[Array, "c e"]
  ) -> Float[Array, "g h w c"]:
    # ImageNet's mean and deviation, not CLIP's: its configs have them so.
    image = towers.normalized(windows, PIXEL_MEAN, PIXEL_STD)
    patches, keys = model.image.value_path(image)
    chances = towers.probabilities(
      patches[:, 1:], classes, model.logit_scale[...]
    )
    chances = denoised(chances, self._prompt_denoising)
    chances = smoothed(chances, keys[:, 1:], self._key_smoothing)
    maps = towers.grid_of(chances, windows.shape, self._patch)
    return jnp.moveaxis(towers.at_size(maps, windows), 1, -1)


def denoised(
  chances: Float[Array, "g t c"], threshold: float
) -> Float[Array, "g t c"]:
  """Leaves out classes that are likely in no patch; the others sum to one.

  If that would leave no class, all stay.
  """
  if not threshold:
    return chances
  kept = chances.max(1, keepdims=True) >= threshold  # [g, 1, c]
  kept = kept | ~kept.any(-1, keepdims=True)
  chances = jnp.where(kept, chances, 0)
  total = chances.sum(-1, keepdims=True)
  return chances / jnp.where(total > 0, total, 1)


def smoothed(
  chances: Float[Array, "g t c"], keys: Float[Array, "g t d"], threshold: float
) -> Float[Array, "g t c"]:
  """Averages the scores of unsure patches over patches by their keys' cosines.

  MaskCLIP takes the weighted sum. It is divided here by the sum of the weights,
  which changes no winner and keeps scores in 0..1; negative cosines count as
  they are.
  """
  if not threshold:
    return chances
  keys = unit(keys)
  weights = jnp.einsum("gtd,gud->gtu", keys, keys)
  total = weights.sum(-1, keepdims=True)
  mixed = weights @ chances / jnp.where(total > 0, total, 1)
  unsure = chances.max(-1, keepdims=True) < threshold
  return jnp.where(unsure, jnp.clip(mixed, 0, 1), chances)
