"""The model that labels pictures, with its words and its threshold."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from sseg_jax import benchmarks, prompts, synonyms
from sseg_jax.data import label_classes
from sseg_jax.errors import InputError
from sseg_jax.images.label_maps import IGNORED
from sseg_jax.inference import background, fixed_classes, sources
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.inference.segmenter import SSegSegmenter, winners
from sseg_jax.pseudo_masks import region_features


@dataclasses.dataclass(frozen=True)
class Teacher:
  """Labels pictures as the config says.

  Attributes:
    segmenter: the network.
    class_set: the target's classes.
    threshold: background threshold; None if every pixel has a class.
    min_score: pixels whose best score is below it are ignored.
    made_with: all that the labels depend on besides the pictures.
    keep_share: of the pixels of each label in a picture, the surest so many
      keep it, and the others are ignored.
    least: how sure a pixel must be of each label to keep it, [n]; None
      keeps all. See `class_share`.
  """

  segmenter: SSegSegmenter
  class_set: ClassSet
  threshold: float | None
  min_score: float
  made_with: dict[str, Any]
  keep_share: float = 1.0
  least: Float[np.ndarray, "n"] | None = None

  @property
  def names(self) -> tuple[str, ...]:
    """Names of the labels 0, 1, …."""
    first = () if self.threshold is None else (prompts.BACKGROUND[0],)
    return first + self.class_set.names

  def label(
    self, images: UInt8[np.ndarray, "b h w 3"]
  ) -> UInt8[np.ndarray, "b h w"]:
    """Returns label maps of pictures of one size; 255 is ignored."""
    maps = []
    for labels, sureness in self.found(images):
      is_class = labels > 0 if self.threshold is not None else True
      unsure = (sureness < self.min_score) & is_class
      if self.keep_share < 1:
        unsure |= ~surest(labels, sureness, self.keep_share)
      if self.least is not None:
        unsure |= sureness < self.least[labels]
      maps.append(np.where(unsure, IGNORED, labels).astype(np.uint8))
    return np.stack(maps)

  def found(
    self, images: UInt8[np.ndarray, "b h w 3"]
  ) -> Iterator[tuple[Int[np.ndarray, "h w"], Float[np.ndarray, "h w"]]]:
    """Yields all labels of each picture, and how sure they are.

    That is the best score. Background is the surer, the lower that is, so there
    it is the best score times -1.
    """
    # Filled up to a power of two, so that few programs are compiled.
    rows = 1 << (len(images) - 1).bit_length()
    filled = np.concatenate([images, images[-1:].repeat(rows - len(images), 0)])
    bests, indices = winners(self.segmenter, filled, self.class_set)
    for best, index in itertools.islice(
      zip(bests, indices, strict=True), len(images)
    ):
      if self.threshold is None:
        yield index, best
        continue
      labels = background.apply_threshold(best, index, self.threshold)
      yield labels, np.where(labels > 0, best, -best)


def surest(
  labels: Int[np.ndarray, "h w"],
  sureness: Float[np.ndarray, "h w"],
  share: float,
) -> Bool[np.ndarray, "h w"]:
  """Returns the surest pixels of each label, `share` of them or more.

  Class-balanced self-training (Zou et al. 2018, "Unsupervised Domain Adaptation
  for Semantic Segmentation via Class-Balanced Self-Training") keeps a share of
  each class, because one threshold for all would leave out hard classes; here
  it is a share of each picture's classes. Pixels that are equally sure stay or
  go together, and stay in doubt.
  """
  kept = np.zeros(labels.shape, bool)
  for label in np.unique(labels):
    mine = labels == label
    count = max(1, round(share * int(mine.sum())))
    least = np.partition(sureness[mine], -count)[-count]
    kept |= mine & (sureness >= least)
  return kept


def load(fields: Any) -> Teacher:
  """Loads the teacher that `config.self_training` describes.

  Args:
    fields: that group of the config.

  Raises:
    InputError: if there is no such model, if the class list is missing or too
      long, or if no background threshold is known.
  """
  if not fields.classes:
    raise InputError(
      "self_training.classes is empty; give the target's class list, a file"
      f" with one name a line or one of {', '.join(prompts.CLASS_NAMES)}"
    )
  try:
    names = benchmarks.class_list(fields.classes)
  except InputError as error:
    raise InputError(f"self_training.classes: {error}") from error
  if len(names) + fields.background > label_classes.MOST:
    raise InputError(
      f"self_training.classes={fields.classes}: has {len(names)} classes; label"
      f" maps of records hold {label_classes.MOST} with background"
    )
  loaded = sources.read(fields.teacher)
  segmenter = fixed_classes.build(
    loaded.params, loaded.model_state, loaded.config
  )
  templates = prompts.templates(loaded.config.evaluate.templates)
  words = synonyms.of_classes(segmenter.synonyms, names)
  class_set = ClassSet(names, tuple(templates), words)
  segmenter.encode_classes(class_set)  # refuses names with equal tokens
  threshold = None
  if fields.background:
    threshold = _threshold(fields, loaded, names, segmenter.combiner)
  made_with = {
    "teacher_sha256": region_features.digest(
      (loaded.params, loaded.model_state)
    ),
    "classes": list(names),
    "threshold": threshold,
    "min_score": float(fields.min_score),
    "keep_share": float(fields.keep_share),
    "evaluate": {
      name: loaded.config.evaluate[name]
      for name in (
        *("image_size", "stride", "combiner", "regions", "refine"),
        *("templates", "synonyms"),
      )
    },
  }
  return Teacher(
    segmenter,
    class_set,
    threshold,
    float(fields.min_score),
    made_with,
    float(fields.keep_share),
  )


def _threshold(
  fields: Any, loaded: Any, names: tuple[str, ...], combiner: str
) -> float:
  own = loaded.config.evaluate.background_threshold
  if loaded.config.model.head != "text" and own is not None:
    return float(own)  # it compares classes with its own background
  if fields.threshold is not None:
    background.check_flag(fields.threshold)
    return float(fields.threshold)
  if (fixed := loaded.config.evaluate.background_threshold) is not None:
    return float(fixed)
  known = background.stored(
    loaded.metadata, fields.classes, len(names), combiner
  )
  if known is None:
    raise InputError(
      f"self_training.teacher={fields.teacher}: has no background threshold;"
      " choose one with `python -m sseg_jax.evaluate"
      f" --checkpoint={fields.teacher} --benchmarks=…"
      " --choose_threshold_split=train`, or give self_training.threshold"
    )
  return known.value
