"""What was found in one picture, and how it is looked at."""

import dataclasses
import functools
import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from sseg_jax.errors import InputError
from sseg_jax.images import drawing, heat, writer
from sseg_jax.images.palette import palette
from sseg_jax.inference import background
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.inference.encoded import Encoded
from sseg_jax.inference.sliding_window import Layout


@dataclasses.dataclass(frozen=True, eq=False)
class QueryMask:
  """The mask of one of the network's queries.

  A picture that is larger than the network's window is seen in several windows.
  Each of them has queries of its own.

  Attributes:
    name: the word that the query is closest to.
    probability: of that word, among all words.
    area: share of the picture that the mask covers.
  """

  name: str
  probability: float
  area: float
  _logits: Float[np.ndarray, "mh mw"] = dataclasses.field(repr=False)
  _layout: Layout = dataclasses.field(repr=False)
  _start: tuple[int, int] = dataclasses.field(repr=False)

  @property
  def mask(self) -> Bool[np.ndarray, "h w"]:
    """Where the query's mask is above one half, at the picture's size."""
    (wh, ww), (y, x) = self._layout.window, self._start
    (h, w), (ph, pw) = self._layout.resized, self._layout.picture
    probability = 1 / (1 + np.exp(-self._logits))
    inside = _resized(probability, wh, ww)[: h - y, : w - x]
    whole = np.zeros((h, w), np.float32)
    whole[y : y + wh, x : x + ww] = inside
    return _resized(whole, ph, pw) > 0.5


def _resized(values: np.ndarray, h: int, w: int) -> np.ndarray:
  picture = Image.fromarray(np.ascontiguousarray(values, np.float32))
  return np.asarray(picture.resize((w, h), Image.Resampling.BILINEAR))


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
  """With what a picture was segmented: enough to look at it more closely.

  Attributes:
    segmenter: an `SSegSegmenter`.
    class_set: the words.
  """

  segmenter: Any
  class_set: ClassSet


def shares(
  labels: Int[np.ndarray, "h w"], names: Sequence[str]
) -> dict[str, float]:
  """Returns the share of the picture that each name has."""
  counts = np.bincount(labels.ravel(), minlength=len(names))
  return {n: float(k) / labels.size for n, k in zip(names, counts, strict=True)}


@dataclasses.dataclass(frozen=True, eq=False)
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
    image: the pixels that were segmented, upright. A picture of more than
      `images.reader.MAX_PIXELS` is segmented, and returned, scaled down.
    source: where `heatmap` and `masks` come from.
    winners: the best word at each pixel, whether or not it passed the
      threshold: an index into `words`.
  """

  labels: Int[np.ndarray, "h w"]
  names: tuple[str, ...]
  scores: Float[np.ndarray, "h w"]
  areas: dict[str, float]
  threshold: float | None
  threshold_source: str | None = None
  image: UInt8[np.ndarray, "h w 3"] | None = dataclasses.field(
    default=None, repr=False
  )
  source: Source | None = dataclasses.field(default=None, repr=False)
  winners: Int[np.ndarray, "h w"] | None = dataclasses.field(
    default=None, repr=False
  )

  @property
  def has_background(self) -> bool:
    """Whether label 0 is background."""
    return self.threshold is not None

  @property
  def words(self) -> tuple[str, ...]:
    """The names without background."""
    return self.names[1:] if self.has_background else self.names

  @property
  def colours(self) -> UInt8[np.ndarray, "c 3"]:
    """The colour of each name in `overlay`."""
    return palette(len(self.names), has_background=self.has_background)

  @property
  def nbytes(self) -> int:
    """Bytes of memory that the pixels, labels and scores take."""
    arrays: list[Any] = [self.labels, self.scores, self.image, self.winners]
    # What `heatmap` and `masks` keep, once either was asked for.
    if encoded := vars(self).get("_encoded"):
      arrays += [encoded.masks, encoded.probabilities]
    return sum(array.nbytes for array in arrays if array is not None)

  def with_threshold(self, threshold: float) -> "Segmentation":
    """Returns this result with another background threshold.

    The network does not run again.

    Args:
      threshold: pixels whose best score is below it are background; 0 for none.
        InputError if it is negative or not a number.
    """
    background.check_flag(threshold)
    if self.winners is None:
      raise InputError("this result keeps no scores; use Model.segment")
    labels = background.apply_threshold(self.scores, self.winners, threshold)
    names = ("background", *self.words)
    return dataclasses.replace(
      self,
      labels=labels,
      names=names,
      areas=shares(labels, names),
      threshold=float(threshold),
      threshold_source="given",
    )

  def overlay(self, *, legend: bool = True) -> Image.Image:
    """Returns the picture with its regions in colours.

    Args:
      legend: whether names and shares stand beside it. Small pictures are then
        enlarged, so that the letters fit.
    """
    image = self._image()
    if legend:
      painted = drawing.annotated(
        image,
        self.labels,
        self.names,
        self.colours,
        has_background=self.has_background,
      )
    else:
      painted = drawing.overlay(
        image, self.labels, self.colours, has_background=self.has_background
      )
    return Image.fromarray(painted)

  def show(self) -> Image.Image:
    """Returns `overlay()`, which a notebook shows as a cell's last value.

    A result that is a cell's last value itself is shown the same way. In a
    program, `result.overlay().show()` opens a window.
    """
    return self.overlay()

  def _repr_png_(self) -> bytes | None:
    """Is asked for by notebooks."""
    if self.image is None:
      return None
    file = io.BytesIO()
    self.overlay().save(file, "png")
    return file.getvalue()

  def save(self, path: str | os.PathLike) -> None:
    """Writes `overlay()` in the format that the name ends in.

    An existing file is replaced. InputError if it cannot be written.
    """
    writer.save(os.path.expanduser(path), np.asarray(self.overlay()))

  def save_labels(self, path: str | os.PathLike) -> None:
    """Writes the labels as a PNG whose values are the indices into `names`.

    See `writer.save_labels`. An existing file is replaced.
    """
    writer.save_labels(os.path.expanduser(path), self.labels, self.colours)

  def heatmap(self, word: str) -> Image.Image:
    """Returns the picture in grey under the colours of one word's scores.

    The brightest colour is the best score of any word in this picture, so the
    heat maps of its words can be compared.

    Args:
      word: one of `words`.
    """
    return Image.fromarray(
      heat.heat(
        self._image(),
        self.word_scores(word),
        highest=float(self.scores.max()),
      )
    )

  def word_scores(self, word: str) -> Float[np.ndarray, "h w"]:
    """Returns the scores of one word at every pixel.

    The first call for a picture runs the network once more.

    Args:
      word: one of `words`.
    """
    if word not in self.words:
      raise InputError(
        f"{word!r} is none of the words: {', '.join(self.words[:20])}"
      )
    index, encoded = self.words.index(word), self._encoded
    assert self.source is not None
    found = encoded.only(index)
    return next(found.scores(self.source.segmenter.combiner))[0, ..., 0]

  @functools.cached_property
  def masks(self) -> tuple[QueryMask, ...]:
    """The masks of the network's queries, the largest first.

    Queries whose mask is nowhere above one half are left out. The first call
    for a picture runs the network once more.
    """
    encoded, layout = self._encoded, self._encoded.layout
    logits = np.asarray(encoded.masks, np.float32)
    probabilities = np.asarray(encoded.chances)
    found = []
    window = layout.window[0] * layout.window[1]
    picture = layout.resized[0] * layout.resized[1]
    for start, masks, chances in zip(
      layout.starts, logits, probabilities, strict=False
    ):
      for mask, chance in zip(masks, chances, strict=True):
        area = min(1.0, float((mask > 0).mean()) * window / picture)
        if area:
          best = int(chance.argmax())
          found.append(
            QueryMask(
              self.words[best], float(chance[best]), area, mask, layout, start
            )
          )
    return tuple(sorted(found, key=lambda query: -query.area))

  @functools.cached_property
  def _encoded(self) -> Encoded:
    if self.source is None:
      raise InputError("this result keeps no network; use Model.segment")
    return self.source.segmenter.encode(self._image(), self.source.class_set)

  def _image(self) -> np.ndarray:
    if self.image is None:
      raise InputError("this result keeps no picture; use Model.segment")
    return self.image
