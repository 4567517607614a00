"""The pseudo-masks of a picture, as a model's training makes them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8

from sseg_jax.checkpoints import named_arrays
from sseg_jax.inference.sliding_window import evaluation_size
from sseg_jax.models import teacher
from sseg_jax.pseudo_masks import generator, sizes


class Clusters:
  """Makes pseudo-masks of pictures of any size."""

  def __init__(self, config: Any, model_state: Any):
    """Builds the generator of pseudo-masks.

    Args:
      config: of a run. Its generator may need published weights, which are
        downloaded once; InputError if they cannot be had.
      model_state: of the run, which holds the weights of a frozen eye.
    """
    is_eye = teacher.is_eye(config)
    self._made = generator.build(config, load=not is_eye)
    self._image_size = int(config.image_size)
    self._generate = jax.jit(self._made.generate)
    frozen = model_state[teacher.NAME] if is_eye else self._made.frozen
    self._frozen = named_arrays.on_device(frozen)

  def __call__(
    self, image: UInt8[np.ndarray, "h w 3"]
  ) -> Int[np.ndarray, "h w"]:
    """Returns the number of each pixel's pseudo-mask, 0..k-1.

    The picture is clustered with the short side that training has.
    """
    h, w = image.shape[:2]
    short = min(evaluation_size(h, w, self._image_size))
    stride = self._made.stride
    size = sizes.segment_size(h, w, image_size=short, stride=stride)
    small = sizes.resized(image, *size)
    # The key of `segmenter`, so that refinement and this have equal masks.
    keys = jnp.broadcast_to(jax.random.key(0), (1,))
    labels, _ = self._generate(self._frozen, small[None], keys)
    rows = np.arange(h) * labels.shape[1] // h
    columns = np.arange(w) * labels.shape[2] // w
    return np.asarray(labels)[0][rows[:, None], columns]
