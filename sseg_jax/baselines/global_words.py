"""A control: assigns the picture's best words to its pseudo-masks by size."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from sseg_jax.errors import InputError
from sseg_jax.images import reader
from sseg_jax.inference import scoring
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.inference.padding import pad_rows
from sseg_jax.inference.segmenter import SSegSegmenter
from sseg_jax.models import sseg
from sseg_jax.pseudo_masks import generator


class GlobalWords:
  """Retrieval without localisation, as a `Segmenter`.

  Each class is ranked by the cosine of its embedding with the embedding of the
  whole picture; the words are assigned to the picture's pseudo-masks in order
  of area, the best word to the largest mask. So it has the weights, the words
  and the masks of the method, but no information about which word belongs to
  which mask. A higher score of the method shows learnt localisation. The score
  of this control comes from naming the picture's contents, from good masks, and
  from the fact that large regions have other classes than small ones.

  The picture is seen whole, as a square of `config.image_size`: the size at
  which its embedding was trained.
  """

  def __init__(
    self, params: Any, model_state: Any, config: Any, *, words: int = 0
  ):
    """Puts the parameters on the default device unless they are on one already.

    Args:
      params: nested dict as `checkpoint.load(...).params`.
      model_state: nested dict of running statistics.
      config: attribute-style configuration of the run.
      words: how many of the best words are assigned; they are repeated if there
        are more masks. 0 means as many as there are masks and classes.

    Raises:
      InputError: if `words` is negative, or a field has no possible value.
    """
    if words < 0:
      raise InputError(f"words={words} is negative; give 0 for all, or more")
    self._params = jax.tree.map(jnp.asarray, params)
    self._model_state = jax.tree.map(jnp.asarray, model_state)
    self._config = config
    self._words = words
    # For the class embeddings: they are the method's own.
    self._segmenter = SSegSegmenter(self._params, self._model_state, config)
    self._pseudo_masks = made = generator.build(config)
    graphdef = sseg.build(config)[0]

    refined = config.evaluate.refine == "pseudo_masks"

    def perceive(params, model_state, frozen, images):
      # One key for all: a segmenter sees a picture and no id, and the masks of
      # a picture must not depend on its batch.
      keys = jnp.broadcast_to(jax.random.key(config.seed), (len(images),))
      labels, valid = made.generate(frozen, images, keys)
      snap = (labels,) if refined else ()
      outputs = sseg.apply_image(graphdef, params, model_state, images, *snap)
      return outputs.image_embedding, labels, valid

    self._perceive = jax.jit(perceive)

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
    seen = pad_rows(seen)
    embedding, segments, valid = self._perceive(
      self._params, self._model_state, self._pseudo_masks.frozen, seen
    )
    probabilities = scoring.class_probabilities(
      embedding[:, None],
      self._segmenter.encode_classes(class_set),
      self._params["logit_scale"],
      class_set.members(),
      max_logit_scale=float(self._config.loss.max_logit_scale),
    )[:, 0]
    probabilities, segments, valid = jax.device_get(
      (probabilities[:b], segments[:b], valid[:b])
    )
    classes = deal(probabilities, segments, valid, self._words)  # [b, k]
    chances = np.take_along_axis(probabilities, classes, 1)
    y = np.arange(h) * segments.shape[1] // h
    x = np.arange(w) * segments.shape[2] // w
    segments = segments[:, y[:, None], x].reshape(b, h * w)
    best = np.take_along_axis(chances, segments, 1).reshape(b, h, w)
    index = np.take_along_axis(classes, segments, 1).reshape(b, h, w)
    return best, index.astype(np.int32)


def deal(
  similarity: Float[np.ndarray, "b c"],
  segments: Int[np.ndarray, "b sh sw"],
  valid: Bool[np.ndarray, "b k"],
  words: int = 0,
) -> Int[np.ndarray, "b k"]:
  """Assigns the best words to the masks: the largest mask gets the best word.

  Args:
    similarity: of each picture to each class; only its order counts.
    segments: which mask each cell belongs to, 0..k-1.
    valid: which masks exist; those that do not come last.
    words: how many of the best words are assigned, repeatedly; 0: all classes.

  Returns:
    The class of each mask. Ties are broken by the lower index.
  """
  b, k = valid.shape
  areas = np.stack([np.bincount(s.ravel(), minlength=k) for s in segments])
  areas = np.where(valid, areas, -1)
  place = np.argsort(np.argsort(-areas, 1, kind="stable"), 1)  # [b, k]
  ranked = np.argsort(-similarity, 1, kind="stable")  # [b, c]
  dealt = min(words or ranked.shape[1], ranked.shape[1])
  return np.take_along_axis(ranked, place % dealt, 1)
