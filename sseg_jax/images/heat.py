"""Heat maps: how well one word fits each pixel of a picture."""

import numpy as np
from jaxtyping import Float, UInt8

# From dark violet over red to yellow: ever brighter, so that it reads in grey
# and for the colour-blind (anchors of matplotlib's "inferno").
_COLOURS = np.array(
  [(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)],
  np.float32,
)


def heat(
  image: UInt8[np.ndarray, "h w 3"],
  scores: Float[np.ndarray, "h w"],
  *,
  highest: float,
  opacity: float = 0.75,
) -> UInt8[np.ndarray, "h w 3"]:
  """Lays the colours of scores over a picture in grey.

  Args:
    image: the picture.
    scores: of one word, 0 or more.
    highest: score that is shown brightest.
    opacity: of the colours.
  """
  share = np.clip(scores / max(highest, 1e-12), 0, 1).astype(np.float32)
  at = share * (len(_COLOURS) - 1)
  low = np.minimum(at.astype(np.int32), len(_COLOURS) - 2)
  weight = (at - low)[..., None]
  colours = _COLOURS[low] + (_COLOURS[low + 1] - _COLOURS[low]) * weight
  grey = image.mean(-1, keepdims=True, dtype=np.float32)
  mixed = grey + (colours - grey) * np.float32(opacity)
  return np.clip(mixed + 0.5, 0, 255).astype(np.uint8)
