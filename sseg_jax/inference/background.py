"""Background: the rule, the choice of its threshold, and where it is stored.

A pixel is background if its best class scores below a threshold. The right
threshold depends on the combiner, the network and the vocabulary: a mean over
64 queries of 20 classes may reach 0.1 where a single query reaches 0.9. So no
constant is right. The threshold of a benchmark is chosen by the labels of its
training split (`evaluation.choose_threshold`) and stored with the checkpoint.
For a vocabulary without labels there is `without_labels`.

This module needs only NumPy.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sseg_jax.errors import InputError

# Quantiles of the scores, and middles of their widest gaps, in a grid.
_QUANTILES = 200
_GAPS = 50
_SAMPLE = 2**22  # scores that a grid and a calibration are made from
_BINS = 512
# Combiners whose score is the probability of a single query.
_OF_ONE_QUERY = ("hard", "smallest")
# A word is kept where it is so many times as likely as the mean of the other
# words. Measured on the quickstart, for 2 to 12 words: 40 is within four points
# of mIoU of the best of 10 to 160 and 0.8 to 0.95; 10 loses up to 19, 160 five.
_ODDS = 40.0


@dataclasses.dataclass(frozen=True)
class Threshold:
  """A background threshold and where it comes from.

  Attributes:
    value: a pixel whose best score is below it is background.
    source: in words, for reports.
  """

  value: float
  source: str


def with_background(
  scores: Float[np.ndarray, "h w c"], threshold: float
) -> Int[np.ndarray, "h w"]:
  """Labels of an image: background 0, classes 1..c, by `apply_threshold`."""
  return apply_threshold(scores.max(-1), scores.argmax(-1), threshold)


def apply_threshold(
  best: Float[np.ndarray, "h w"],
  index: Int[np.ndarray, "h w"],
  threshold: float,
) -> Int[np.ndarray, "h w"]:
  """The background rule, on the winning score and class of each pixel.

  A pixel is background if its best score is below t = min(threshold, best score
  in the image). So the surest pixel of an image is never background, and an
  image is never all background: GroupViT's rule
  (segmentation/evaluation/group_vit_seg.py), taken here over the whole image.
  """
  return np.where(
    best >= effective_threshold(best, threshold), index + 1, 0
  ).astype(np.int32)


def effective_threshold(
  best: Float[np.ndarray, "h w"], threshold: float | Float[np.ndarray, "t"]
) -> Float[np.ndarray, "..."]:
  """Caps a threshold (or several) at the best score in the image."""
  capped = np.minimum(np.asarray(threshold, best.dtype), best.max())
  return np.asarray(capped)


def grid(
  best: Float[np.ndarray, "..."] | Sequence[np.ndarray],
) -> Float[np.ndarray, "t"]:
  """Thresholds worth trying: they follow the scores' own distribution.

  Quantiles of the scores, and the middles of the widest gaps between
  neighbours, which separate two kinds of pixels where there are two.

  Args:
    best: the best score of each pixel, whatever its range; one array or
      several. Of more than 4 million scores an even sample is used.

  Returns:
    Ascending float64, 0 included: nothing is background.
  """
  values = np.unique(_sample(best)).astype(np.float64)
  quantiles = np.quantile(values, np.linspace(0, 1, _QUANTILES))
  # Quantiles over pixels, because many pixels may share few values.
  of_pixels = np.quantile(_sample(best), np.linspace(0, 1, _QUANTILES))
  gaps = np.diff(values)
  widest = np.argsort(-gaps, kind="stable")[:_GAPS]
  middles = (values[widest] + values[widest + 1]) / 2
  return np.unique(np.concatenate([[0.0], quantiles, of_pixels, middles]))


def choose(curve: Sequence[tuple[float, float]]) -> tuple[float, float]:
  """Returns the threshold with the highest mIoU, and that mIoU.

  Args:
    curve: (threshold, mIoU), ascending by threshold.

  Returns:
    If neighbouring thresholds are equally good, the one in the middle, which is
    the least likely to be wrong on other pictures.
  """
  scores = np.array([miou for _, miou in curve])
  scores = np.where(np.isfinite(scores), scores, -1)
  top = scores >= scores.max() - 1e-9
  first = int(np.argmax(top))
  last = first
  while last + 1 < len(top) and top[last + 1]:
    last += 1
  middle = (curve[first][0] + curve[last][0]) / 2
  chosen = min(range(first, last + 1), key=lambda i: abs(curve[i][0] - middle))
  return float(curve[chosen][0]), float(scores[chosen])


def without_labels(
  best: Float[np.ndarray, "..."] | Sequence[np.ndarray],
  classes: int,
  combiner: str,
) -> Threshold:
  """Finds a threshold for a vocabulary of which no pixel is labelled.

  Args:
    best: the best score of each pixel, of one picture or of many.
    classes: number of classes in the vocabulary.
    combiner: combiner of the scores. If a score is the probability of one
      query, a word is kept if it is 40 times as likely as the mean of the
      others. Sums and means over queries have no such scale, so their scores
      are separated into two groups (`calibrate`).
  """
  if combiner in _OF_ONE_QUERY:
    return Threshold(_ODDS / (_ODDS + classes - 1), "the number of words")
  return Threshold(calibrate(best), "the scores, without labels")


def calibrate(best: Float[np.ndarray, "..."] | Sequence[np.ndarray]) -> float:
  """Returns the threshold that separates scores into two groups.

  This is Otsu's threshold (1979): it maximises the variance between the two
  groups. It is computed on the logarithm of the scores, so that neither their
  scale nor their upper end matters. Of equally good thresholds the middle one
  is returned. If all scores are equal, the result is 0: nothing is background.

  Args:
    best: the best score of each pixel, of one picture or of many.
  """
  values = np.log(np.maximum(_sample(best).astype(np.float64), 1e-12))
  low, high = values.min(), values.max()
  if high - low < 1e-6:
    return 0.0
  counts, edges = np.histogram(values, _BINS, (low, high))
  centres = (edges[:-1] + edges[1:]) / 2
  weight = np.cumsum(counts)[:-1] / counts.sum()  # below each inner edge
  mean = np.cumsum(counts * centres)[:-1] / counts.sum()
  total = (counts * centres).sum() / counts.sum()
  with np.errstate(divide="ignore", invalid="ignore"):
    between = (total * weight - mean) ** 2 / (weight * (1 - weight))
  between = np.nan_to_num(between)
  ties = np.flatnonzero(between >= between.max() * (1 - 1e-9))
  return float(np.exp((edges[1 + ties[0]] + edges[1 + ties[-1]]) / 2))


def _sample(best: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
  parts = [best] if isinstance(best, np.ndarray) else best
  total = sum(part.size for part in parts)
  step = -(-total // _SAMPLE)
  return np.concatenate([part.reshape(-1)[::step] for part in parts])


def check_flag(value: float | None) -> None:
  """Raises InputError for a threshold that is negative or not a number."""
  if value is None:
    return
  is_number = isinstance(value, int | float | np.number)
  # Above, a whole number may be none that a float holds.
  if (
    not is_number
    or isinstance(value, np.complexfloating)
    or (not 0 <= value < 1e30)
  ):
    raise InputError(
      f"background_threshold={str(value)[:80]}: give a score of 0 or more,"
      " e.g. 0.5"
    )


def check_stored(metadata: Mapping[str, Any]) -> None:
  """Raises InputError unless `stored` can read a checkpoint's thresholds."""
  values = metadata.get("thresholds") or {}
  chosen_with = metadata.get("thresholds_of") or {}
  good = isinstance(values, Mapping) and isinstance(chosen_with, Mapping)
  if good:
    counts = chosen_with.get("classes") or {}
    good = (
      isinstance(counts, Mapping)
      and all(_is_number(value) for value in values.values())
      and all(_is_number(count) for count in counts.values())
      and isinstance(chosen_with.get("combiner", ""), str)
    )
  if not good:
    raise InputError(
      "the stored background thresholds are damaged: they must be numbers of 0"
      " or more; load another copy of the checkpoint"
    )


def _is_number(value: Any) -> bool:
  is_one = isinstance(value, int | float) and not isinstance(value, bool)
  return is_one and 0 <= value < 1e9


def stored(
  metadata: Mapping[str, Any], name: str, classes: int, combiner: str
) -> Threshold | None:
  """Returns the threshold that a checkpoint's metadata has for a vocabulary.

  `metadata["thresholds"]` maps the names of benchmarks, and `default`, to
  thresholds. `metadata["thresholds_of"]`, where present, says what they were
  chosen with: `combiner`, and the number of `classes` behind each.

  Args:
    metadata: of the checkpoint.
    name: name of a benchmark; "default" for words of no benchmark.
    classes: number of classes in the vocabulary. If the default threshold was
      chosen with another number, it is converted (`same_odds`).
    combiner: combiner in use; thresholds of another combiner are ignored.

  Returns:
    The threshold; None if no threshold that fits is stored.
  """
  check_stored(metadata)
  values = metadata.get("thresholds") or {}
  chosen_with = metadata.get("thresholds_of") or {}
  if chosen_with.get("combiner", combiner) != combiner:
    return None
  if name in values:
    value, key = float(values[name]), name
  elif "default" in values:
    value, key = float(values["default"]), "default"
  else:
    return None
  behind = (chosen_with.get("classes") or {}).get(key)
  if key == "default" and behind and behind != classes:
    if combiner == "sum":  # scores are not probabilities and have no odds
      return None
    value = same_odds(value, int(behind), classes)
  return Threshold(value, f"checkpoint ({key})")


def same_odds(threshold: float, classes: int, other: int) -> float:
  """Converts a threshold to a vocabulary of another size.

  A probability p among c classes is kept as the odds against the mean of the
  other classes, r = p (c - 1) / (1 - p): "so many times as likely as another
  word". Among two words a pixel at chance has 0.5, among eighty 0.0125; both
  have r = 1.
  """
  if classes < 2 or other < 2 or not 0 < threshold < 1:
    return threshold
  odds = threshold * (classes - 1) / (1 - threshold)
  return odds / (odds + other - 1)


def portable(
  metadata: Mapping[str, Any], combiner: str, given: float | None
) -> dict[str, float | int | None]:
  """Returns as numbers what `stored` and `without_labels` do for any words.

  For a reader without this module. `value` is the threshold if `words` is None
  or the number of words. Otherwise it is r / (r + number of words - 1), where r
  is `odds`. Where that is None too, or there is a single word, it is found as
  `calibrate` does.

  Args:
    metadata: of the checkpoint.
    combiner: combiner in use.
    given: a threshold that is used for all words, or None.
  """
  rule: dict[str, float | int | None]
  rule = {"value": given, "words": None, "odds": None}
  if given is not None:
    return rule
  check_stored(metadata)
  chosen_with = metadata.get("thresholds_of") or {}
  words = (chosen_with.get("classes") or {}).get("default")
  known = stored(metadata, "default", words or 2, combiner)
  if known is None:
    return rule | {"odds": _ODDS if combiner in _OF_ONE_QUERY else None}
  value = known.value
  if not words or (combiner != "sum" and (words < 2 or not 0 < value < 1)):
    return rule | {"value": value}
  rule |= {"value": value, "words": int(words)}
  if combiner != "sum":
    rule["odds"] = value * (words - 1) / (1 - value)
  return rule


def to_store(
  chosen: Mapping[str, float], classes: Mapping[str, int], combiner: str
) -> dict[str, Any]:
  """Returns the metadata that `stored` reads, {} without any threshold.

  Args:
    chosen: threshold of each benchmark.
    classes: number of classes of each benchmark.
    combiner: combiner with which the thresholds were chosen.
  """
  if not chosen:
    return {}
  # The default is the threshold of the smallest vocabulary, because users type
  # few words.
  nearest = min(chosen, key=lambda name: (classes[name], name))
  thresholds = {name: float(value) for name, value in chosen.items()}
  counts = {name: int(classes[name]) for name in chosen}
  return {
    "thresholds": thresholds | {"default": thresholds[nearest]},
    "thresholds_of": {
      "combiner": combiner,
      "classes": counts | {"default": counts[nearest]},
    },
  }
