"""The package from Python: load a model, segment pictures with words."""

import functools
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from sseg_jax import prompts
from sseg_jax.errors import InputError
from sseg_jax.images import given
from sseg_jax.inference import batches, fixed_classes, rarity
from sseg_jax.inference import words as words_
from sseg_jax.inference.background import (
  Threshold,
  apply_threshold,
  check_flag,
  stored,
  without_labels,
)
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.inference.clusters import Clusters
from sseg_jax.inference.result import QueryMask, Segmentation, Source, shares
from sseg_jax.inference.segmenter import SSegSegmenter, winners
from sseg_jax.inference.sources import read
from sseg_jax.inference.words import Words

__all__ = ["Model", "QueryMask", "Segmentation", "load"]

_BATCH = 8  # pictures of one size that are segmented at once
_AHEAD = 32  # pictures among which those of one size are looked for
_CHECKED = 16  # lists of words that need not be checked again


class _Rule(NamedTuple):
  """Whether pixels may be background, and the threshold that a caller gave."""

  background: bool
  threshold: float | None


class Model:
  """A trained model that segments any picture with any words.

  Its methods may be called from several threads at once.

  Attributes:
    segmenter: the network.
    templates: prompt templates.
    threshold: background threshold instead of the checkpoint's, or None.
    step: step of the checkpoint.
    metadata: metadata of the checkpoint.
  """

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
    self._tell_of_rare = rarity.Teller(metadata)

  def segment(
    self,
    image: Any,
    words: Words,
    background_threshold: float | None = None,
    *,
    background: bool = True,
  ) -> Segmentation:
    """Gives each pixel of a picture one of the words, or background.

    Args:
      image: path, address (http:// or https://), bytes, Pillow picture or
        array of a picture; `images.given.pixels` says which arrays. It is
        scaled down if it has more than `images.reader.MAX_PIXELS`.
      words: names of what to look for, as "cat, sky" or ["cat", "sky"]. As
        {"sofa": ["sofa", "couch"]} they have synonyms, the best of which
        counts.
      background_threshold: pixels whose best score is below it are background.
        None takes the checkpoint's; if it has none, the threshold is found
        without labels (`background.without_labels`).
      background: False gives every pixel a word.

    Returns:
      The segmentation. InputError for a bad picture or bad words.
    """
    class_set = self.class_set(words, background=background)
    rule = _Rule(background, background_threshold)
    return self._segment([given.pixels(image)], class_set, rule)[0]

  def segment_many(
    self,
    images: Iterable[Any],
    words: Words,
    background_threshold: float | None = None,
    *,
    background: bool = True,
    batch_size: int = _BATCH,
  ) -> list[Segmentation]:
    """Segments many pictures with the same words, several at once.

    Pictures of one size are put into one batch; they need not be neighbours.

    Args:
      images: each as for `segment`, in any number.
      words: as for `segment`.
      background_threshold: as for `segment`.
      background: as for `segment`.
      batch_size: most pictures in a batch.

    Returns:
      The segmentations in the order of the pictures. InputError for the first
      bad picture.
    """
    class_set = self.class_set(words, background=background)
    rule = _Rule(background, background_threshold)
    batches.check(batch_size)
    results: list[Segmentation] = []
    images = iter(images)
    while some := list(itertools.islice(images, max(_AHEAD, batch_size))):
      pixels = [given.pixels(image) for image in some]
      found: dict[int, Segmentation] = {}
      for part in batches.of_one_shape(pixels, batch_size):
        batch = [pixels[i] for i in part]
        segmented = self._segment(batch, class_set, rule)
        found.update(zip(part, segmented, strict=True))
      results += [found[i] for i in range(len(some))]
    return results

  def segment_frames(
    self,
    frames: Iterable[Any],
    words: Words,
    background_threshold: float | None = None,
    *,
    background: bool = True,
    batch_size: int = _BATCH,
  ) -> Iterator[Segmentation]:
    """Yields the segmentations of frames, as many at once as have one size.

    Only `batch_size` frames are held at a time, so a video may be endless. Give
    `batch_size=1` if each frame must be answered before the next one comes.

    Args:
      frames: each as for `segment`.
      words: as for `segment`.
      background_threshold: as for `segment`.
      background: as for `segment`.
      batch_size: most frames in a batch.
    """
    # Checked now, not when the first result is asked for.
    class_set = self.class_set(words, background=background)
    rule = _Rule(background, background_threshold)
    batches.check(batch_size)

    def results():
      waiting: list[np.ndarray] = []
      for frame in frames:
        pixels = given.pixels(frame)
        full = len(waiting) == batch_size
        if waiting and (full or waiting[0].shape != pixels.shape):
          yield from self._segment(waiting, class_set, rule)
          waiting = []
        waiting.append(pixels)
        if batch_size == 1:
          yield from self._segment(waiting, class_set, rule)
          waiting = []
      if waiting:
        yield from self._segment(waiting, class_set, rule)

    return results()

  def _segment(
    self,
    images: Sequence[UInt8[np.ndarray, "h w 3"]],
    class_set: ClassSet,
    rule: _Rule,
  ) -> list[Segmentation]:
    """Segments pictures of one size."""
    # Filled up to a power of two, so that few programs are compiled.
    rows = 1 << (len(images) - 1).bit_length()
    filled = [*images, *[images[-1]] * (rows - len(images))]
    bests, indices = winners(self.segmenter, np.stack(filled), class_set)
    _check_finite(bests)
    results = []
    for image, best, index in zip(images, bests, indices, strict=False):
      names, labels = class_set.names, index
      threshold, source = None, None
      if rule.background:
        found = self._threshold(len(class_set.names), rule.threshold, best)
        threshold, source = found.value, found.source
        names = ("background", *names)
        labels = apply_threshold(best, index, threshold)
      results.append(
        Segmentation(
          labels,
          names,
          best,
          shares(labels, names),
          threshold,
          source,
          image,
          Source(self.segmenter, class_set),
          index,
        )
      )
    return results

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

  def scores(self, image: Any, words: Words) -> Float[np.ndarray, "h w c"]:
    """Scores of every word at every pixel; the arguments as for `segment`."""
    class_set = self.class_set(words)
    scores = self.segmenter.scores(given.pixels(image), class_set)
    _check_finite(scores)
    return scores

  def pseudo_masks(self, image: Any) -> Int[np.ndarray, "h w"]:
    """Returns the pseudo-masks that training would learn from.

    Their numbers 0..k-1 have no meaning. The image as for `segment`. InputError
    for a bad picture, and for weights that cannot be downloaded.
    """
    return self._clusters(given.pixels(image))

  @functools.cached_property
  def _clusters(self) -> Clusters:
    return Clusters(self.segmenter.config, self.segmenter.model_state)

  def class_set(self, words: Words, *, background: bool = False) -> ClassSet:
    """Returns words as this model takes them.

    InputError for bad words (see `words.parse`), and for two words with equal
    tokens: the tokenizer ignores case and cuts long texts. A line on standard
    error names words that were rare in training, each once.
    """
    named = words_.parse(words, background=background)
    class_set = ClassSet(named.names, self.templates, named.synonyms)
    self._cut(class_set)
    self._tell_of_rare(class_set.words)
    return class_set

  def truncated(self, class_set: ClassSet) -> tuple[str, ...]:
    """Returns the words of which the text tower does not read the end.

    That is where a word is too long in one of the prompt templates.
    """
    return self._cut(class_set)

  @functools.cached_property
  def _cut(self) -> Any:
    """`words.cut` of a class set, with the last results remembered."""
    check = functools.partial(words_.cut, self.segmenter)
    return functools.lru_cache(_CHECKED)(check)


def _check_finite(scores: np.ndarray) -> None:
  if not np.isfinite(scores).all():
    raise InputError(
      "the network gives scores that are no numbers: its weights are damaged;"
      " load another copy"
    )


def load(
  source: str | os.PathLike,
  *,
  step: int | None = None,
  templates: str | None = None,
  combiner: str | None = None,
  image_size: int | None = None,
  revision: str | None = None,
  sha256: str | None = None,
) -> Model:
  """Loads a model for use on this machine.

  Args:
    source: one of
      *   a run's work directory, its `checkpoints/`, or one step's folder;
      *   a folder that `python -m sseg_jax.export` wrote;
      *   a repository `org/name` of the Hugging Face hub to which such a folder
          was uploaded. Needs `pip install 'sseg-jax[hub]'`. It is downloaded
          once; a download that was interrupted goes on. `hf://org/name` says
          the same, even if there is a folder of this name.
    step: of a work directory; None for the latest.
    templates: a key of `prompts.TEMPLATES`, instead of the checkpoint's.
    combiner: one of `default_config.COMBINERS`, instead of the checkpoint's.
    image_size: short side at which pictures are seen, instead of the
      checkpoint's.
    revision: of a repository: a commit, which can never change, or a branch or
      tag; None for the newest. `model.metadata["source"]` names the commit that
      was loaded.
    sha256: the SHA-256 that the weights of a repository or an exported folder
      must have.

  Raises:
    InputError: there is no model, or it is damaged. One line.
  """
  loaded = read(source, step=step, revision=revision, sha256=sha256)
  segmenter = fixed_classes.build(
    loaded.params,
    loaded.model_state,
    loaded.config,
    combiner=combiner,
    image_size=image_size,
  )
  if templates is None and "templates" in loaded.metadata:
    prompt_templates = tuple(loaded.metadata["templates"])
  else:
    name = templates or loaded.config.evaluate.templates
    prompt_templates = prompts.templates(name)
  return Model(
    segmenter,
    templates=prompt_templates,
    threshold=loaded.config.evaluate.background_threshold,
    step=int(loaded.step),
    metadata=loaded.metadata,
  )
