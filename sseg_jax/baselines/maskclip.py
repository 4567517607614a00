"""MaskCLIP: dense CLIP whose last block mixes no tokens.

Each token takes its own value in place of the attention's average. Two options
refine the scores: key smoothing and prompt denoising.

Source: chongzhou96/MaskCLIP `mmseg/models/decode_heads/maskclip_head.py` and
`mmseg/models/backbones/vit.py`. That code runs CLIP with GELU and layer norms
of epsilon 1e-6. Here CLIP's own are kept: QuickGELU and 1e-5.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float

from sseg_jax.baselines import towers
from sseg_jax.baselines.clip import DenseClip
from sseg_jax.baselines.options import Options
from sseg_jax.errors import InputError
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.models import clip
from sseg_jax.models.layers import PIXEL_MEAN, PIXEL_STD

_LEFT_OUT = -100.0  # in place of a cosine


class MaskClip(DenseClip):
  """MaskCLIP as a `by_protocol.MapSystem`.

  Args:
    model: CLIP.
    key_smoothing: patches whose best probability is below it take the weighted
      sum of all patches' probabilities; 0 for none (MaskCLIP's own: 1).
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
    self._scale = float(towers.scale_of(model.logit_scale[...]))
    super().__init__(model)

  @classmethod
  def build(cls, options: Options) -> "MaskClip":
    """Loads the weights that the options name."""
    return cls(
      clip.load(options.needed_weights("CLIPModel")),
      options.key_smoothing,
      options.prompt_denoising,
    )

  def score_windows(
    self, windows: Float[np.ndarray, "g h w 3"], class_set: ClassSet
  ) -> Float[np.ndarray, "g h w c"]:
    """Scores of the classes, at the windows' size."""
    return self.chances(self.score_maps(windows, class_set))

  def score_maps(
    self, windows: Float[np.ndarray, "g h w 3"], class_set: ClassSet
  ) -> Float[np.ndarray, "g h w c"]:
    """Cosines, or what key smoothing makes of probabilities."""
    classes = self._words.of(class_set)
    return np.asarray(self._see(self._state, windows, classes))

  def chances(
    self, maps: Float[np.ndarray, "*b c"]
  ) -> Float[np.ndarray, "*b c"]:
    """Turns maps into scores in [0, 1] with the same winners.

    MaskCLIP needs none: it has no background, so the highest value wins. Here
    cosines become a softmax, and sums of probabilities a share of their total.
    """
    if not self._key_smoothing:
      return scipy.special.softmax(self._scale * maps, -1)
    positive = np.maximum(maps, 0)
    total = positive.sum(-1, keepdims=True)
    shares = positive / np.where(total > 0, total, 1)
    none = total[..., 0] <= 0
    shares[none] = scipy.special.softmax(maps[none], -1)
    return shares

  def _scores(
    self, model: clip.Clip, windows: Array, classes: Float[Array, "c e"]
  ) -> Float[Array, "g h w c"]:
    _, h, w, _ = windows.shape
    # ImageNet's mean and deviation, not CLIP's: its configs have them so. Zeros
    # fill the last patches, whose scores are spread over what is there.
    image = towers.normalized(windows, PIXEL_MEAN, PIXEL_STD)
    pad = (0, -h % self._patch), (0, -w % self._patch)
    image = jnp.pad(image, ((0, 0), *pad, (0, 0)))
    patches, keys = model.image.value_path(image)
    values = towers.cosines(patches[:, 1:], classes)
    values = denoised(values, self._scale, self._prompt_denoising)
    if self._key_smoothing:
      values = smoothed(
        jax.nn.softmax(self._scale * values, -1),
        keys[:, 1:],
        self._key_smoothing,
      )
    maps = towers.grid_of(values, image.shape, self._patch)
    return jnp.moveaxis(towers.at_size(maps, windows), 1, -1)


def denoised(
  cosines: Float[Array, "g t c"], scale: float, threshold: float
) -> Float[Array, "g t c"]:
  """Lowers the cosines of classes that are likely in no patch to -100.

  If that would leave no class, all stay.
  """
  if not threshold:
    return cosines
  chances = jax.nn.softmax(scale * cosines, -1)
  kept = chances.max(1, keepdims=True) >= threshold  # [g, 1, c]
  kept = kept | ~kept.any(-1, keepdims=True)
  return jnp.where(kept, cosines, _LEFT_OUT)


def smoothed(
  chances: Float[Array, "g t c"], keys: Float[Array, "g t d"], threshold: float
) -> Float[Array, "g t c"]:
  """Gives unsure patches the weighted sum of all patches' probabilities.

  Weights are products of keys. Each channel of the keys is scaled so that its
  values over all patches have length one, as `F.normalize` in MaskCLIP's code
  does with keys of shape [g, t, d]. The sums are no probabilities: their total
  differs from patch to patch, and may be negative.
  """
  length = jnp.linalg.norm(keys, axis=1, keepdims=True)
  keys = keys / jnp.maximum(length, 1e-12)
  highest = jax.lax.Precision.HIGHEST
  weights = jnp.einsum("gtd,gud->gtu", keys, keys, precision=highest)
  mixed = jnp.einsum("gtu,guc->gtc", weights, chances, precision=highest)
  unsure = chances.max(-1, keepdims=True) < threshold
  return jnp.where(unsure, mixed, chances)
