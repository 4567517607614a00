"""A control: assigns the picture's best words to its pseudo-masks by size."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from sseg_jax.baselines.named_masks import NamedMasks
from sseg_jax.errors import InputError
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.models import sseg


class GlobalWords(NamedMasks):
  """Retrieval without localisation, as a `Segmenter`.

  Each class is ranked by the cosine of its embedding with the embedding of the
  whole picture; the words are assigned to the picture's pseudo-masks in order
  of area, the best word to the largest mask. So it has the weights, the words
  and the masks of the method, but no information about which word belongs to
  which mask. A higher score of the method shows learnt localisation. The score
  of this control comes from naming the picture's contents, from good masks, and
  from the fact that large regions have other classes than small ones.
  """

  def __init__(
    self, params: Any, model_state: Any, config: Any, *, words: int = 0
  ):
    """Does what `NamedMasks` does.

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
    super().__init__(params, model_state, config)
    self._words = words
    graphdef = sseg.build(config)[0]
    refined = config.evaluate.refine == "pseudo_masks"

    def perceive(params, model_state, frozen, images):
      labels, valid = self._pseudo_masks.generate(
        frozen, images, self._keys(images)
      )
      snap = (labels,) if refined else ()
      outputs = sseg.apply_image(graphdef, params, model_state, images, *snap)
      return outputs.image_embedding, labels, valid

    self._perceive = jax.jit(perceive)

  def _name(
    self, seen: np.ndarray, rows: int, class_set: ClassSet
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns what `NamedMasks` asks for: words by rank."""
    embedding, segments, valid = self._perceive(
      self._params, self._model_state, self._pseudo_masks.frozen, seen
    )
    probabilities = self._probabilities(embedding[:, None], class_set)[:, 0]
    probabilities, segments, valid = jax.device_get(
      (probabilities[:rows], segments[:rows], valid[:rows])
    )
    classes = deal(probabilities, segments, valid, self._words)  # [rows, k]
    chances = np.take_along_axis(probabilities, classes, 1)
    return chances, classes, segments


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
