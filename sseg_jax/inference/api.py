"""The package from Python: load a checkpoint, segment pictures with words."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sseg_jax import default_config, prompts
from sseg_jax.checkpoints import exported
from sseg_jax.errors import InputError
from sseg_jax.images import reader
from sseg_jax.inference.background import (
  Threshold,
  apply_threshold,
  check_flag,
  stored,
  without_labels,
)
from sseg_jax.inference.segmenter import ClassSet, SSegSegmenter, winners


@dataclasses.dataclass(frozen=True)
class Segmentation:
  """What was found in one picture.

  Attributes:
    labels: an index into `names` for each pixel.
    names: "background" first if a threshold was used, then the words.
    scores: score of the winning word at each pixel, whether or not it passed
      the threshold.
    areas: share of the picture for each name.
    threshold: background threshold, or None.
    threshold_source: where it comes from, in words; None without one.
  """

  labels: Int[np.ndarray, "h w"]
  names: tuple[str, ...]
  scores: Float[np.ndarray, "h w"]
  areas: dict[str, float]
  threshold: float | None
  threshold_source: str | None = None


class Model:
  """A trained model that segments any picture with any words."""

  def __init__(
    self,
    segmenter: SSegSegmenter,
    *,
    templates: tuple[str, ...],
    threshold: float | None,
    step: int,
    metadata: dict[str, Any],
  ):
    """Holds a segmenter with its defaults; use `load` to make one.

    Args:
      segmenter: the network.
      templates: prompt templates.
      threshold: background threshold, instead of the checkpoint's. None takes
        the one stored in `metadata`; if none is stored, it is found without
        labels.
      step: step of the checkpoint.
      metadata: metadata of the checkpoint.
    """
    self.segmenter = segmenter
    self.templates = templates
    self.threshold = threshold
    self.step = step
    self.metadata = metadata

  def segment(
    self,
    image: np.ndarray | str | os.PathLike,
    words: str | Sequence[str],
    background_threshold: float | None = None,
    *,
    background: bool = True,
  ) -> Segmentation:
    """Gives each pixel of a picture one of the words, or background.

    Args:
      image: RGB pixels, uint8 [h, w, 3], or the path of a picture, which is
        scaled down if it has more than `images.reader.MAX_PIXELS`.
      words: names of what to look for; a string is split at its commas.
      background_threshold: pixels whose best score is below it are background.
        None takes the checkpoint's; if it has none, the threshold is found
        without labels (`background.without_labels`).
      background: False gives every pixel a word.

    Returns:
      The segmentation. InputError for a bad picture or bad words.
    """
    pixels = self._pixels(image)
    class_set = self.class_set(words, background=background)
    best, index = winners(self.segmenter, pixels[None], class_set)
    names, threshold, source = class_set.names, None, None
    labels = index[0]
    if background:
      rule = self._threshold(len(names), background_threshold, best[0])
      threshold, source = rule.value, rule.source
      names = ("background", *names)
      labels = apply_threshold(best[0], index[0], threshold)
    counts = np.bincount(labels.ravel(), minlength=len(names))
    areas = {
      n: float(k) / labels.size for n, k in zip(names, counts, strict=True)
    }
    return Segmentation(labels, names, best[0], areas, threshold, source)

  def _threshold(
    self, words: int, given: float | None, best: Float[np.ndarray, "h w"]
  ) -> Threshold:
    if given is None:
      given = self.threshold
    if given is not None:
      check_flag(given)
      return Threshold(float(given), "given")
    known = stored(self.metadata, "default", words, self.segmenter.combiner)
    return known or without_labels(best, words, self.segmenter.combiner)

  def scores(
    self,
    image: np.ndarray | str | os.PathLike,
    words: str | Sequence[str],
  ) -> Float[np.ndarray, "h w c"]:
    """Scores of every word at every pixel."""
    return self.segmenter.scores(self._pixels(image), self.class_set(words))

  def _pixels(self, image) -> np.ndarray:
    if isinstance(image, str | os.PathLike):
      return reader.read_image(image)
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] != 3:
      raise InputError(
        f"image has type {pixels.dtype} and shape {pixels.shape}; give uint8"
        " [h, w, 3] or a path"
      )
    if not pixels.size:
      raise InputError(f"image has shape {pixels.shape}; it has no pixels")
    return pixels

  def class_set(
    self, words: str | Sequence[str], *, background: bool = False
  ) -> ClassSet:
    """Returns words as this model takes them.

    InputError for bad words (see `prompts.parse_words`), and for two words with
    equal tokens: the tokenizer ignores case and cuts long texts.
    """
    names = prompts.parse_words(words, background=background)
    class_set = ClassSet(names, self.templates)
    rows = self.segmenter.tokens(class_set)  # [c, t, l]
    seen: dict[bytes, str] = {}
    for name, row in zip(names, rows, strict=True):
      other = seen.setdefault(row.tobytes(), name)
      if other != name:
        raise InputError(
          f"words: {other!r} and {name!r} are the same to this model, which"
          f" reads {rows.shape[-1] - 2} tokens of a prompt; change or shorten"
          " one"
        )
    return class_set


def load(
  path: str | os.PathLike,
  *,
  step: int | None = None,
  templates: str | None = None,
  combiner: str | None = None,
  image_size: int | None = None,
) -> Model:
  """Loads a checkpoint for use on this machine.

  Args:
    path: work directory, its `checkpoints/`, one step's folder, or a folder
      `safetensors/` that `export` wrote.
    step: None for the latest.
    templates: a key of `prompts.TEMPLATES`, instead of the checkpoint's.
    combiner: one of `default_config.COMBINERS`, instead of the checkpoint's.
    image_size: short side at which pictures are seen, instead of the
      checkpoint's.
  """
  loaded = exported.load_either(path, step=step)
  config = default_config.completed(loaded.config)
  segmenter = SSegSegmenter(
    loaded.params,
    loaded.model_state,
    config,
    combiner=combiner,
    image_size=image_size,
  )
  return Model(
    segmenter,
    templates=prompts.templates(templates or config.evaluate.templates),
    threshold=config.evaluate.background_threshold,
    step=int(loaded.step),
    metadata=loaded.metadata,
  )
