"""What is exported: a checkpoint, and how it is used."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from sseg_jax import prompts, stored_config
from sseg_jax.checkpoints import checkpoint
from sseg_jax.data import drawing
from sseg_jax.exporting import fixed_lists, towers
from sseg_jax.inference import api, background, fixed_classes
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.inference.segmenter import SSegSegmenter


@dataclasses.dataclass(frozen=True)
class Source:
  """A checkpoint with its words, and the settings of inference.

  Attributes:
    loaded: the checkpoint.
    config: of its run, completed; computed in float32.
    words: that the files take if a user gives none.
    templates: prompt templates.
    segmenter: the network in this package, which the files are compared with.
  """

  loaded: checkpoint.Loaded
  config: Any
  words: tuple[str, ...]
  templates: tuple[str, ...]
  segmenter: SSegSegmenter
  # What was computed for one format is there for the next.
  _kept: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False)

  @functools.cached_property
  def rule(self) -> dict[str, Any]:
    """The background rule; see `background.portable`."""
    return background.portable(
      self.loaded.metadata,
      self.segmenter.combiner,
      self.config.evaluate.background_threshold,
    )

  def towers(self, refine: str) -> towers.Towers:
    """Returns the network as pure functions."""
    key = "towers", refine
    if key not in self._kept:
      fixed = self.segmenter.known
      self._kept[key] = towers.build(
        self.loaded.params,
        self.loaded.model_state,
        self.config,
        combiner=self.segmenter.combiner,
        image_size=self.segmenter.image_size,
        refine=refine,
        made=fixed_lists.FixedTowers if fixed else towers.Towers,
      )
    return self._kept[key]

  def wanted(
    self, refine: str, image: UInt8[np.ndarray, "h w 3"]
  ) -> tuple[Float[np.ndarray, "h w c"], Int[np.ndarray, "h w"]]:
    """Returns scores and labels that this package gives for the words."""
    key = refine, image.shape, image.tobytes()
    if key not in self._kept:
      model, words = self.model(refine), list(self.words)
      labels = model.segment(image, words).labels
      self._kept[key] = model.scores(image, words), labels
    return self._kept[key]

  def model(self, refine: str) -> api.Model:
    """Returns the network as this package uses it."""
    segmenter = self.segmenter
    if refine != self.config.evaluate.refine:
      segmenter = self._kept.get("unrefined") or SSegSegmenter(
        self.loaded.params,
        self.loaded.model_state,
        self.config,
        combiner=self.segmenter.combiner,
        image_size=self.segmenter.image_size,
        refine=refine,
      )
      self._kept["unrefined"] = segmenter
    return api.Model(
      segmenter,
      templates=self.templates,
      threshold=self.config.evaluate.background_threshold,
      step=int(self.loaded.step),
      metadata=self.loaded.metadata,
    )


def make(
  loaded: checkpoint.Loaded,
  *,
  words: str | Sequence[str] | None = None,
  templates: str | None = None,
  combiner: str | None = None,
  image_size: int | None = None,
) -> Source:
  """Returns a checkpoint with the settings of its export.

  Args:
    loaded: the checkpoint.
    words: None for those of the run's data, if they are known, else VOC's.
    templates: a key of `prompts.TEMPLATES`, instead of the run's.
    combiner: instead of the run's.
    image_size: side of the windows, instead of the run's.

  Raises:
    InputError: for bad words, and settings that do not exist.
  """
  config = towers.as_float32(stored_config.completed(loaded.config))
  segmenter = fixed_classes.build(
    loaded.params,
    loaded.model_state,
    config,
    combiner=combiner,
    image_size=image_size,
  )
  if words is None:
    words = segmenter.known or prompts.CLASS_NAMES["voc"]
    if config.data.source == "shapes" and not segmenter.known:
      words = (*drawing.THINGS, *drawing.GROUNDS)
  chosen = prompts.templates(templates or config.evaluate.templates)
  names = prompts.parse_words(words, background=True)
  if segmenter.known:
    segmenter.encode_classes(ClassSet(names, chosen))  # refuses others
  return Source(loaded, config, names, chosen, segmenter)
