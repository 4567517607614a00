"""B1 of Table 3 with a network that was trained here in CLIP's place."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sseg_jax.baselines.named_masks import NamedMasks
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.models import sseg
from sseg_jax.models.layers import PIXEL_MEAN, resize_labels


class MasksThenRun(NamedMasks):
  """A run that embeds whole pictures names one pseudo-mask after the other.

  The network, `model.query_embedding="segments"`, was trained with
  `pseudo_masks.k` 1, so that a picture is one region. Here `pseudo_masks` are
  those of the other rows. Of a masked picture the rest is the mean pixel, as in
  `b1.MasksThenClip`.
  """

  def __init__(self, params: Any, model_state: Any, config: Any):
    """The arguments are those of `NamedMasks`."""
    super().__init__(params, model_state, config)
    graphdef = sseg.build(config)[0]
    k = self._pseudo_masks.k

    def perceive(params, model_state, frozen, images):
      labels, _ = self._pseudo_masks.generate(
        frozen, images, self._keys(images)
      )
      b, h, w, _ = images.shape
      full = resize_labels(labels, (h, w))
      masks = full[:, None] == jnp.arange(k)[None, :, None, None]
      rest = jnp.asarray(PIXEL_MEAN)[None, None, None, None]
      cut = jnp.where(masks[..., None], images[:, None], rest)
      whole = jnp.zeros((b * k, 1, 1), jnp.int32)
      outputs = sseg.apply_image(
        graphdef, params, model_state, cut.reshape(b * k, h, w, 3), whole
      )
      return outputs.image_embedding.reshape(b, k, -1), labels

    self._perceive = jax.jit(perceive)

  def _name(
    self, seen: np.ndarray, rows: int, class_set: ClassSet
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns what `NamedMasks` asks for: of each mask the best word."""
    embeddings, segments = self._perceive(
      self._params, self._model_state, self._pseudo_masks.frozen, seen
    )
    found = self._probabilities(embeddings, class_set)
    found, segments = jax.device_get((found[:rows], segments[:rows]))
    return found.max(-1), found.argmax(-1), segments
