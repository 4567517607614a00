"""COCO's segmentations, polygons and run lengths, painted at any size."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from sseg_jax.benchmarks.alignment import nearest

# Larger numbers cannot be coordinates, because no picture has a longer side.
MAX_SIDE = 1_000_000


@dataclasses.dataclass(frozen=True)
class Polygons:
  """Outlines of one instance, whose insides are joined.

  Attributes:
    outlines: x and y of the corners, in pixels of the annotated picture.
    flat: number of further outlines, without area; they contain no pixel.
  """

  outlines: tuple[Float[np.ndarray, "_ 2"], ...]
  flat: int = 0

  def area(self) -> float:
    """Sum of the areas inside, in annotated pixels."""
    return sum(_area(outline) for outline in self.outlines)

  def paint(
    self, size: tuple[int, int], canvas: tuple[int, int]
  ) -> Bool[np.ndarray, "h w"]:
    """The pixels whose centre is inside, by the even-odd rule.

    COCO's own rasteriser can differ from this by a pixel at edges.

    Args:
      size: height and width of the annotated picture.
      canvas: height and width to paint at; the outlines are scaled to it.
    """
    mask = np.zeros(canvas, bool)
    scale = np.array([canvas[1] / size[1], canvas[0] / size[0]])
    for outline in self.outlines:
      mask |= _inside(outline * scale, canvas)
    return mask


@dataclasses.dataclass(frozen=True)
class Runs:
  """Run lengths of one instance.

  Attributes:
    size: height and width of the annotated picture.
    ends: where runs end, in pixels counted down the columns; the first run is
      outside.
  """

  size: tuple[int, int]
  ends: Int64[np.ndarray, "_"]

  def area(self) -> float:
    """Number of annotated pixels inside."""
    return float(np.diff(self.ends, prepend=0)[1::2].sum())

  def paint(
    self, size: tuple[int, int], canvas: tuple[int, int]
  ) -> Bool[np.ndarray, "h w"]:
    """The mask at the size of `canvas`, each pixel by the nearest of its own.

    ValueError if `size` is not the one that the runs are for.
    """
    h, w = self.size
    if (h, w) != tuple(size):
      raise ValueError(f"run lengths are not for {size[1]}x{size[0]} pixels")
    # The whole mask is never decoded: the annotated picture may be far larger.
    pixels = nearest(w, canvas[1]) * h + nearest(h, canvas[0])[:, None]
    return np.searchsorted(self.ends, pixels, side="right") % 2 == 1


def parse(segmentation: Any) -> Polygons | Runs:
  """Checks one segmentation of a JSON file.

  Polygons are lists of x, y, x, y, …, or of [x, y] pairs; one alone need not be
  in a list of its own. Run lengths are {"size": [h, w], "counts": …} with
  numbers or COCO's text. ValueError says what is wrong with anything else.
  """
  if isinstance(segmentation, dict):
    return _parse_runs(segmentation)
  if not isinstance(segmentation, list):
    raise ValueError("segmentation is neither polygons nor run lengths")
  # One polygon that is in no list of its own: of numbers, or of pairs.
  if segmentation and (
    _are_numbers(segmentation)
    or (len(segmentation) > 2 and all(map(_is_pair, segmentation)))
  ):
    segmentation = [segmentation]
  outlines = [_parse_outline(polygon) for polygon in segmentation]
  kept = tuple(outline for outline in outlines if not _is_flat(outline))
  return Polygons(kept, flat=len(outlines) - len(kept))


# Data sets have a million polygons: no loop in Python over their numbers.
def _are_numbers(values: list) -> bool:
  return {*map(type, values)} <= {int, float}


def _is_pair(x: Any) -> bool:
  return isinstance(x, list) and len(x) == 2 and _are_numbers(x)


def _parse_outline(polygon: Any) -> Float[np.ndarray, "_ 2"]:
  if not isinstance(polygon, list):
    raise ValueError("a polygon is not a list of numbers")
  pairs = bool(polygon) and all(map(_is_pair, polygon))
  numbers = [x for pair in polygon for x in pair] if pairs else polygon
  if not _are_numbers(numbers):
    raise ValueError("a polygon is not a list of numbers")
  if len(numbers) % 2:
    raise ValueError(
      f"a polygon has {len(numbers)} numbers, which are not pairs of x and y"
    )
  try:
    outline = np.array(numbers, np.float64).reshape(-1, 2)
  except OverflowError:
    outline = np.array([[np.inf, 0.0]])
  # Written so that NaN is refused as well.
  if not np.abs(outline).max(initial=0) <= MAX_SIDE:
    raise ValueError("a polygon has a coordinate that no picture has")
  return outline


def _parse_runs(segmentation: dict) -> Runs:
  size = segmentation.get("size")
  if not (
    isinstance(size, list)
    and len(size) == 2
    and all(type(side) is int and 0 < side <= MAX_SIDE for side in size)
  ):
    raise ValueError(f"run lengths have size={size!r}, not height and width")
  counts = segmentation.get("counts")
  if isinstance(counts, str):
    counts = decompress_counts(counts)
  if not isinstance(counts, list) or not all(type(c) is int for c in counts):
    raise ValueError("run lengths have counts that are no whole numbers")
  h, w = size
  if sum(counts) != h * w or min(counts) < 0:
    raise ValueError(f"run lengths are not for {w}x{h} pixels")
  return Runs((h, w), np.cumsum(np.array(counts, np.int64)))


def segmentation_mask(
  segmentation: list | dict,
  size: tuple[int, int],
  canvas: tuple[int, int] | None = None,
) -> Bool[np.ndarray, "h w"]:
  """Mask of one COCO segmentation: polygons, or run lengths in either form.

  Args:
    segmentation: see `parse`.
    size: height and width of the annotated picture.
    canvas: height and width of the mask, if it is to be scaled.

  Returns:
    The pixels inside. ValueError if run lengths do not fill the picture, or the
    segmentation is none.
  """
  return parse(segmentation).paint(size, canvas or size)


def _is_flat(outline: Float[np.ndarray, "v 2"]) -> bool:
  """Whether all corners are on one line, or there are none."""
  if len(outline) < 3:
    return True
  if _area(outline):
    return False  # else it may cross itself
  x, y = (outline - outline[:1]).T
  far = np.argmax(x * x + y * y)
  return not (x * y[far] != y * x[far]).any()


def _area(outline: Float[np.ndarray, "v 2"]) -> float:
  # Relative to the first corner: far from the origin, products lose precision.
  x, y = (outline - outline[0]).T
  return abs(float(x[:-1] @ y[1:] - y[:-1] @ x[1:])) / 2


def _inside(
  polygon: Float[np.ndarray, "v 2"], size: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
  h, w = size
  x, y = polygon.T
  x2, y2 = np.roll(x, -1), np.roll(y, -1)
  centres = np.arange(h) + 0.5
  crosses = (y[:, None] <= centres) != (y2[:, None] <= centres)
  edge, row = np.nonzero(crosses)
  share = (centres[row] - y[edge]) / (y2[edge] - y[edge])
  at = x[edge] + share * (x2[edge] - x[edge])
  # The first pixel whose centre is right of the crossing.
  column = np.clip(np.ceil(at - 0.5), 0, w).astype(int)
  toggles = np.zeros((h, w + 1), int)
  np.add.at(toggles, (row, column), 1)
  return np.cumsum(toggles, axis=1)[:, :w] % 2 == 1


def decompress_counts(text: str) -> list[int]:
  """Decodes COCO's compressed run lengths; ValueError for other text.

  Each number is a run of characters that carry five bits each, lowest first,
  with 0x20 for "more follow"; bit 0x10 of the last is the sign. From the fourth
  on, numbers are differences to the one before the last (pycocotools,
  common/maskApi.c, rleFrString).
  """
  counts: list[int] = []
  value = shift = 0
  for character in text:
    bits = ord(character) - 48
    if not 0 <= bits < 64:
      raise ValueError(f"run lengths hold the character {character!r}")
    value |= (bits & 0x1F) << shift
    shift += 5
    if not bits & 0x20:
      if bits & 0x10:
        value -= 1 << shift
      if len(counts) > 2:
        value += counts[-2]
      counts.append(value)
      value = shift = 0
  if shift:
    raise ValueError("run lengths end within a number")
  return counts
