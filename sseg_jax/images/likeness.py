"""Finds pictures that are the same to the eye, by 64 bits of each.

The bits are those of "dHash" (N. Krawetz, Kind of Like That, 2013): whether
each of 9x8 grey values is darker than its neighbour on the right. They stay
almost the same where a picture is resized, encoded again or made brighter, and
change where it is cut or mirrored.
"""

import itertools

import numpy as np
from jaxtyping import Int, UInt64
from PIL import Image

# With fewer bits set, or unset, a picture is almost even (a white page, a sky)
# and too many others share its bits.
_FEWEST = 6


def of(image: Image.Image) -> int:
  """Returns the 64 bits of a picture; 0 for one that is almost even."""
  small = image.convert("L").resize((9, 8), Image.Resampling.LANCZOS)
  grey = np.asarray(small).astype(np.int16)
  bits = (grey[:, 1:] > grey[:, :-1]).ravel()
  if not _FEWEST <= bits.sum() <= 64 - _FEWEST:
    return 0
  return int.from_bytes(np.packbits(bits).tobytes(), "big")


class Index:
  """Known pictures, in which others are looked up.

  Args:
    known: the bits of each, as `of` returns them; 0 is like no other.
    distance: pictures are alike up to this many different bits.
  """

  def __init__(self, known: UInt64[np.ndarray, " n"], distance: int):
    self._known = known
    self._distance = distance
    # Numbers that differ in at most `distance` bits agree in one piece at
    # least, if there is one piece more.
    ends = [64 * i // (distance + 1) for i in range(distance + 2)]
    self._pieces = list(itertools.pairwise(ends))
    rows = np.flatnonzero(known)
    self._sorted = []
    for first, last in self._pieces:
      pieces = _piece(known[rows], first, last)
      order = np.argsort(pieces, kind="stable")
      self._sorted.append((pieces[order], rows[order]))

  def find(
    self, asked: UInt64[np.ndarray, " m"], *, earlier: bool = False
  ) -> Int[np.ndarray, " m"]:
    """Returns a known picture that is like each, as its row, or -1.

    Args:
      asked: the bits of each.
      earlier: whether `asked` are the known pictures themselves; then only
        those of lower rows count.
    """
    which = np.full(len(asked), -1, np.int64)
    here = np.arange(len(asked))
    for (first, last), (pieces, rows) in zip(
      self._pieces, self._sorted, strict=True
    ):
      mine = _piece(asked, first, last)
      left = np.searchsorted(pieces, mine, "left")
      right = np.searchsorted(pieces, mine, "right")
      open_ = np.flatnonzero((asked != 0) & (which < 0) & (left < right))
      while len(open_):
        row = rows[left[open_]]
        different = np.bitwise_count(asked[open_] ^ self._known[row])
        near = different <= self._distance
        if earlier:  # rows of equal pieces are in order
          near &= row < here[open_]
        which[open_[near]] = row[near]
        left[open_] += 1
        open_ = open_[~near & (left[open_] < right[open_])]
    return which


def _piece(bits: np.ndarray, first: int, last: int) -> np.ndarray:
  mask = np.uint64((1 << (last - first)) - 1)
  return (bits >> np.uint64(first)) & mask
