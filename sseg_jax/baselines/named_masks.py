"""What controls share that give each pseudo-mask of a picture one word."""

import abc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from sseg_jax.checkpoints import named_arrays
from sseg_jax.images import reader
from sseg_jax.inference import scoring
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.inference.padding import pad_rows
from sseg_jax.inference.segmenter import SSegSegmenter
from sseg_jax.pseudo_masks import generator


class NamedMasks(abc.ABC):
  """A `Segmenter` with the weights, the words and the masks of a trained run.

  The picture is seen whole, as a square of `config.image_size`: the size at
  which the run was trained.
  """

  def __init__(self, params: Any, model_state: Any, config: Any):
    """Puts the parameters on the default device unless they are on one already.

    Args:
      params: nested dict as `checkpoint.load(...).params`.
      model_state: nested dict of running statistics.
      config: attribute-style configuration of the run.

    Raises:
      InputError: if a field has no possible value.
    """
    self._params = named_arrays.on_device(params)
    self._model_state = named_arrays.on_device(model_state)
    self._config = config
    # For the class embeddings: they are the method's own.
    self._segmenter = SSegSegmenter(self._params, self._model_state, config)
    self._pseudo_masks = generator.build(config)

  @abc.abstractmethod
  def _name(
    self, seen: UInt8[np.ndarray, "b h w 3"], rows: int, class_set: ClassSet
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns how probable each mask's class is, the class, and the masks.

    Args:
      seen: square pictures, filled up to a number that compiles few programs.
      rows: how many of them count.
      class_set: the words.

    Returns:
      Float [rows,k], int [rows,k], and the number of each cell's mask, int
      [rows,y,x].
    """

  def scores(
    self, image: UInt8[np.ndarray, "h w 3"], class_set: ClassSet
  ) -> Float[np.ndarray, "h w c"]:
    """The probability of each pixel's assigned word; 0 for other words."""
    best, index = self.winners_many(image[None], class_set)
    words = np.arange(len(class_set.names))
    return np.where(index[0, ..., None] == words, best[0, ..., None], 0.0)

  def winners_many(
    self, images: UInt8[np.ndarray, "b h w 3"], class_set: ClassSet
  ) -> tuple[Float[np.ndarray, "b h w"], Int[np.ndarray, "b h w"]]:
    """The probability and the class of the word assigned to each pixel."""
    b, h, w, _ = images.shape
    side = self._config.image_size
    seen = np.stack([reader.resize(image, side, side) for image in images])
    chances, classes, segments = self._name(pad_rows(seen), b, class_set)
    y = np.arange(h) * segments.shape[1] // h
    x = np.arange(w) * segments.shape[2] // w
    segments = segments[:, y[:, None], x].reshape(b, h * w)
    best = np.take_along_axis(chances, segments, 1).reshape(b, h, w)
    index = np.take_along_axis(classes, segments, 1).reshape(b, h, w)
    return best, index.astype(np.int32)

  def _keys(self, images: Array) -> Array:
    # One key for all: a segmenter sees a picture and no id, and the masks of
    # a picture must not depend on its batch.
    key = jax.random.key(self._config.seed)
    return jnp.broadcast_to(key, (len(images),))

  def _probabilities(
    self, embeddings: Float[Array, "b n e"], class_set: ClassSet
  ) -> Float[Array, "b n c"]:
    return scoring.class_probabilities(
      embeddings,
      self._segmenter.encode_classes(class_set),
      self._params["logit_scale"],
      class_set.members(),
      max_logit_scale=float(self._config.loss.max_logit_scale),
    )
