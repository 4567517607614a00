"""Any system, evaluated as a protocol says.

A system scores windows; how a picture becomes windows and the scores of the
windows become labels is done here, in NumPy but for PAMR, the same for all
systems.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, runtime_checkable
from typing import Protocol as Interface

import numpy as np
from jaxtyping import Float, Int, UInt8

from sseg_jax.images.resizing import interpolation_table, resize
from sseg_jax.inference import background, pamr
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.inference.protocols import Protocol
from sseg_jax.inference.sliding_window import evaluation_size, window_starts

_SCORES = 2**25  # scores of windows that are held at once


@runtime_checkable
class System(Interface):
  """What scores windows for a class set."""

  def score_windows(
    self, windows: Float[np.ndarray, "g h w 3"], class_set: ClassSet
  ) -> Float[np.ndarray, "g h w c"]:
    """Returns scores in [0, 1], for windows of one size and values 0..255."""
    ...


@runtime_checkable
class MapSystem(System, Interface):
  """A system with maps that are averaged and resized before they are scores.

  Where the background is decided for the whole picture
  (`Protocol.rule` "picture"), `chances` is called once for each picture.
  """

  def score_maps(
    self, windows: Float[np.ndarray, "g h w 3"], class_set: ClassSet
  ) -> Float[np.ndarray, "g h w c"]:
    """Returns maps of any values; the highest of a pixel wins."""
    ...

  def chances(
    self, maps: Float[np.ndarray, "*b c"]
  ) -> Float[np.ndarray, "*b c"]:
    """Returns scores in [0, 1] with the same winners."""
    ...


@dataclasses.dataclass(frozen=True)
class Windows:
  """Where the windows of a picture lie; all sizes are (h, w).

  Attributes:
    resized: size to which the picture is resized.
    size: of each window, at most `resized`.
    starts: row and column of the first pixel of each window.
  """

  resized: tuple[int, int]
  size: tuple[int, int]
  starts: tuple[tuple[int, int], ...]

  @classmethod
  def of(cls, h: int, w: int, protocol: Protocol) -> "Windows":
    """Lays out the windows of a picture of h x w pixels."""
    side = protocol.short_side
    if not protocol.keeps_ratio:
      return cls((side, side), (side, side), ((0, 0),))
    resized = evaluation_size(h, w, side, protocol.long_side)
    size = min(protocol.window, resized[0]), min(protocol.window, resized[1])
    rows, columns = (
      window_starts(length, crop, protocol.stride)
      for length, crop in zip(resized, size, strict=True)
    )
    return cls(resized, size, tuple((y, x) for y in rows for x in columns))


class ByProtocol:
  """A system under a protocol, as a `Segmenter`.

  Attributes:
    protocol: see `Protocol`.
    combiner: the system's, "" if it has none.
    synonyms: of the class sets that it is evaluated with.
  """

  def __init__(
    self, system: System, protocol: Protocol, synonyms: str = "none"
  ):
    """Loads nothing.

    Args:
      system: what scores windows.
      protocol: how pictures are evaluated.
      synonyms: a key of `synonyms.SYNONYMS`; named protocols have none.

    Raises:
      ValueError: if background is decided in windows, and there are views.
    """
    if protocol.has_views and protocol.rule != "picture":
      raise ValueError(f"the rule {protocol.rule} has one view of a picture")
    self._system = system
    self.protocol = protocol
    by_maps = protocol.rule == "picture" and not protocol.pamr
    self._maps = system if by_maps and isinstance(system, MapSystem) else None
    self.combiner = getattr(system, "combiner", "")
    self.image_size = protocol.short_side
    self.synonyms = synonyms

  def scores(
    self, image: UInt8[np.ndarray, "h w 3"], class_set: ClassSet
  ) -> Float[np.ndarray, "h w c"]:
    """Scores of the classes, averaged over windows, at the picture's size.

    They are averaged over the views of the protocol, if it has several.
    """
    views = self.protocol.views()
    total: Any = 0
    for protocol, mirrored in views:
      view = image[:, ::-1] if mirrored else image
      found = self._seen(view, class_set, protocol)[0]
      total = total + (found[:, ::-1] if mirrored else found)
    return total / len(views)

  def winners_many(
    self, images: UInt8[np.ndarray, "b h w 3"], class_set: ClassSet
  ) -> tuple[Float[np.ndarray, "b h w"], Int[np.ndarray, "b h w"]]:
    """Best score of each pixel and its class."""
    bests, indices = [], []
    for image in images:
      scores = self.scores(image, class_set)
      bests.append(scores.max(-1))
      indices.append(scores.argmax(-1))
    return np.stack(bests), np.stack(indices)

  def labels_many(
    self,
    images: UInt8[np.ndarray, "b h w 3"],
    class_set: ClassSet,
    thresholds: Sequence[float],
  ) -> Int[np.ndarray, "t b h w"]:
    """Labels for each threshold: 0 is background, classes are 1..c."""
    found = [self._labels(image, class_set, thresholds) for image in images]
    return np.stack(found, axis=1)

  def _labels(self, image, class_set, thresholds) -> np.ndarray:
    scores, windows, bests = self._seen(image, class_set, self.protocol)
    best, index = scores.max(-1), scores.argmax(-1)
    labels = []
    for threshold in thresholds:
      if self.protocol.rule == "picture":
        labels.append(background.apply_threshold(best, index, threshold))
        continue
      if self.protocol.rule == "constant":
        rival: Any = np.float32(threshold)
      else:
        masks = [
          (part < background.effective_threshold(part, threshold))[..., None]
          for part in bests
        ]
        rival = _joined(masks, windows, image.shape[:2])[..., 0]
      # The background is the first class, so it wins where two are equal.
      labels.append(np.where(rival >= best, 0, index + 1).astype(np.int32))
    return np.stack(labels)

  def _seen(
    self,
    image: UInt8[np.ndarray, "h w 3"],
    class_set: ClassSet,
    protocol: Protocol,
  ) -> tuple[np.ndarray, Windows, list[np.ndarray]]:
    """Returns scores, windows and the best score in each window's pixels."""
    h, w, _ = image.shape
    windows = Windows.of(h, w, protocol)
    bests: list[np.ndarray] = []

    def parts() -> Iterator[np.ndarray]:
      for scores in self._windows(image, windows, class_set):
        bests.append(scores.max(-1))
        yield scores

    joined = _joined(parts(), windows, (h, w))
    if self._maps:
      joined = self._maps.chances(joined)
    return joined, windows, bests

  def _windows(self, image, windows, class_set) -> Iterator[np.ndarray]:
    """Yields the scores of one window after the other."""
    seen = resize(image, *windows.resized)
    h, w = windows.size
    many = max(1, _SCORES // (h * w * len(class_set.names)))
    score = self._maps.score_maps if self._maps else self._system.score_windows
    for first in range(0, len(windows.starts), many):
      cut = [
        seen[y : y + h, x : x + w]
        for y, x in windows.starts[first : first + many]
      ]
      scored = score(np.stack(cut), class_set)
      if self.protocol.pamr:
        yield from map(pamr.refined, cut, scored)
      else:
        yield from scored


def _joined(
  parts, windows: Windows, size: tuple[int, int]
) -> Float[np.ndarray, "h w c"]:
  """Averages windows where they overlap, and resizes to the picture."""
  total: np.ndarray | None = None
  visits = np.zeros((*windows.resized, 1), np.float32)
  h, w = windows.size
  for (y, x), part in zip(windows.starts, parts, strict=True):
    if total is None:
      total = np.zeros((*windows.resized, part.shape[-1]), np.float32)
    total[y : y + h, x : x + w] += part
    visits[y : y + h, x : x + w] += 1
  assert total is not None  # there is at least one window
  return _resized(total / visits, size)


def _resized(
  values: Float[np.ndarray, "h w c"], size: tuple[int, int]
) -> Float[np.ndarray, "H W c"]:
  """Resizes by torch's "bilinear", without align_corners or antialias."""
  for axis, target in enumerate(size):
    if values.shape[axis] == target:
      continue
    low, high, weight = interpolation_table(values.shape[axis], target)
    weight = np.expand_dims(weight, (1 - axis, 2))
    below = values.take(low, axis)
    values = below + (values.take(high, axis) - below) * weight
  return values
