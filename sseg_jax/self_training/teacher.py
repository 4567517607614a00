"""The model that labels pictures, with its words and its threshold."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from sseg_jax import benchmarks, prompts, synonyms
from sseg_jax.data import label_classes, records, soft_labels
from sseg_jax.errors import InputError
from sseg_jax.images.label_maps import IGNORED
from sseg_jax.inference import (
  background,
  fixed_classes,
  protocols,
  sources,
)
from sseg_jax.inference.by_protocol import ByProtocol
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.inference.segmenter import SSegSegmenter, winners
from sseg_jax.pseudo_masks import region_features

_SCORES = 2**26  # of pixels and classes, at once


class Answer(NamedTuple):
  """The labels of a picture.

  Attributes:
    labels: uint8 [h,w]; 255 is ignored.
    soft: uint8 [p,h,w], what else each pixel may be (`soft_labels.planes`).
      None with hard labels.
  """

  labels: np.ndarray
  soft: np.ndarray | None

  def encoded(self) -> dict[str, Any]:
    """Returns the labels as fields of a record."""
    found: dict[str, Any] = {"labels": records.encode_png(self.labels)}
    if self.soft is not None:
      found["soft_labels"] = soft_labels.encode(self.soft)
    return found


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
    soft: whether labels are soft.
    views: the segmenter under a protocol of several views, whose scores are
      averaged; None if each picture is seen once.
  """

  segmenter: SSegSegmenter
  class_set: ClassSet
  threshold: float | None
  min_score: float
  made_with: dict[str, Any]
  keep_share: float = 1.0
  least: Float[np.ndarray, "n"] | None = None
  soft: bool = False
  views: ByProtocol | None = None

  @property
  def names(self) -> tuple[str, ...]:
    """Names of the labels 0, 1, …."""
    first = () if self.threshold is None else (prompts.BACKGROUND[0],)
    return first + self.class_set.names

  def label(
    self, images: UInt8[np.ndarray, "b h w 3"]
  ) -> UInt8[np.ndarray, "b h w"]:
    """Returns label maps of pictures of one size; 255 is ignored."""
    return np.stack([self._kept(*found) for found in self.found(images)])

  def answer(self, images: UInt8[np.ndarray, "b h w 3"]) -> list[Answer]:
    """Returns the labels of pictures of one size, soft ones if it has these."""
    if not self.soft:
      return [Answer(labels, None) for labels in self.label(images)]
    answers = []
    for scores in self._scores(images):
      labels, sureness = self._named(scores.max(-1), scores.argmax(-1))
      shares = self._shares(scores)
      if self.threshold is not None:
        # Scores of classes do not tell how likely background is, so a pixel of
        # background is that for certain: nothing else is likely.
        shares = np.pad(shares, ((0, 0), (0, 0), (1, 0)))
        shares[labels == 0] = 0
      kept = self._kept(labels, sureness)
      soft = soft_labels.planes(shares, kept.astype(np.int64))
      answers.append(Answer(kept, soft))
    return answers

  def _scores(
    self, images: UInt8[np.ndarray, "b h w 3"]
  ) -> Iterator[Float[np.ndarray, "h w c"]]:
    """Yields the scores of each picture, a few pictures at once."""
    if self.views is not None:
      for image in images:
        yield self.views.scores(image, self.class_set)
      return
    h, w = images.shape[1:3]
    most = max(1, _SCORES // (h * w * len(self.class_set.names)))
    most = 1 << (most.bit_length() - 1)
    for first in range(0, len(images), most):
      some = images[first : first + most]
      found = self.segmenter.scores_many(_filled(some), self.class_set)
      yield from found[: len(some)]

  def _shares(
    self, scores: Float[np.ndarray, "h w c"]
  ) -> Float[np.ndarray, "h w c"]:
    """Returns the probabilities of the classes, which sum to 1."""
    if self.segmenter.known:
      names = tuple(self.segmenter.config.data.classes)
      if prompts.without_background(names, "data.classes")[1]:
        # A score is the share of a class among that class and background.
        scores = scores / np.maximum(1 - scores, 1e-6)
    return scores / np.maximum(scores.sum(-1, keepdims=True), 1e-12)

  def _kept(
    self, labels: Int[np.ndarray, "h w"], sureness: Float[np.ndarray, "h w"]
  ) -> UInt8[np.ndarray, "h w"]:
    """Returns the labels of a picture that are sure enough; 255 is ignored."""
    is_class = labels > 0 if self.threshold is not None else True
    unsure = (sureness < self.min_score) & is_class
    if self.keep_share < 1:
      unsure |= ~surest(labels, sureness, self.keep_share)
    if self.least is not None:
      unsure |= sureness < self.least[labels]
    return np.where(unsure, IGNORED, labels).astype(np.uint8)

  def found(
    self, images: UInt8[np.ndarray, "b h w 3"]
  ) -> Iterator[tuple[Int[np.ndarray, "h w"], Float[np.ndarray, "h w"]]]:
    """Yields all labels of each picture, and how sure they are.

    That is the best score. Background is the surer, the lower that is, so there
    it is the best score times -1.
    """
    # Views are scored one picture at a time, so there is nothing to fill.
    filled = images if self.views else _filled(images)
    segmenter = self.views or self.segmenter
    bests, indices = winners(segmenter, filled, self.class_set)
    for best, index in itertools.islice(
      zip(bests, indices, strict=True), len(images)
    ):
      yield self._named(best, index)

  def _named(
    self, best: Float[np.ndarray, "h w"], index: Int[np.ndarray, "h w"]
  ) -> tuple[Int[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Returns the labels of a picture and how sure they are; see `found`."""
    if self.threshold is None:
      return index, best
    labels = background.apply_threshold(best, index, self.threshold)
    return labels, np.where(labels > 0, best, -best)


def _filled(
  images: UInt8[np.ndarray, "b h w 3"],
) -> UInt8[np.ndarray, "_ h w 3"]:
  """Repeats the last picture up to a power of two: few programs to compile."""
  rows = 1 << (len(images) - 1).bit_length()
  return np.concatenate([images, images[-1:].repeat(rows - len(images), 0)])


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
  made_with: dict[str, Any] = {
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
  soft = fields.labels == "soft"
  if soft:  # what hard labels were made with stays as it was
    made_with |= {"labels": "soft", "soft_classes": soft_labels.KEPT}
  views = _views(fields, segmenter)
  if views is not None:
    shown = views.protocol
    made_with |= {"flip": shown.flip, "scales": list(shown.scales)}
  return Teacher(
    segmenter,
    class_set,
    threshold,
    float(fields.min_score),
    made_with,
    float(fields.keep_share),
    soft=soft,
    views=views,
  )


def _views(fields: Any, segmenter: SSegSegmenter) -> ByProtocol | None:
  """Returns what averages scores as `evaluate --flip --scales` does."""
  protocol = protocols.own(
    segmenter.image_size,
    segmenter.stride,
    segmenter.config.evaluate.templates,
    flip=bool(fields.flip),
    scales=tuple(float(scale) for scale in fields.scales),
  )
  return ByProtocol(segmenter, protocol) if protocol.has_views else None


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
