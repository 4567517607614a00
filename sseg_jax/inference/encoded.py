"""Pictures after the network has seen their windows; scores come from here."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sseg_jax.inference.sliding_window import (
  Layout,
  Places,
  assemble,
  assemble_winners,
)


class Encoded(NamedTuple):
  """Some pictures of one size: what the network gave for their windows.

  `scores` and `winners` compute a part of the classes at a time, each when it
  is asked for: for a large picture and hundreds of words, all parts together do
  not fit into the memory of a usual host.

  Attributes:
    masks: mask logits of each window, [v, n, mh, mw]. The windows of the first
      picture come first; the last ones may only fill the batch.
    probabilities: classes of each window's queries, [v, n, c].
    layout: the windows of one picture.
    places: `layout.places()`.
    images: number of pictures.
    chunk: how many classes are computed at once.
  """

  masks: Float[Array, "v n mh mw"]
  probabilities: Float[Array, "v n c"]
  layout: Layout
  places: Places
  images: int
  chunk: int

  @property
  def chances(self) -> Float[Array, "v n c"]:
    """What each query is of the classes that are asked for."""
    return self.probabilities

  def only(self, index: int) -> "Encoded":
    """Returns the same for one of the classes."""
    one = self.probabilities[..., index : index + 1]
    return self._replace(probabilities=one)

  def scores(self, combiner: str) -> Iterator[Float[np.ndarray, "b h w c"]]:
    """Yields the scores of the first classes, then of the next ones."""
    h, w = self.layout.picture
    for _, count, p in self._chunks():
      found = assemble(self.masks, p, self.places, **self._how(combiner))
      yield np.asarray(found)[:, :h, :w, :count]

  def winners(
    self, combiner: str
  ) -> Iterator[tuple[Float[np.ndarray, "b h w"], Int[np.ndarray, "b h w"]]]:
    """Yields best score and its class for each pixel, among some classes."""
    h, w = self.layout.picture
    for first, count, p in self._chunks():
      best, index = assemble_winners(
        self.masks, p, jnp.int32(count), self.places, **self._how(combiner)
      )
      yield np.asarray(best)[:, :h, :w], np.asarray(index)[:, :h, :w] + first

  def _chunks(self) -> Iterator[tuple[int, int, Array]]:
    """Yields the first class, the number of classes and their columns."""
    for first in range(0, self.probabilities.shape[-1], self.chunk):
      p = self.probabilities[..., first : first + self.chunk]
      count = p.shape[-1]
      # A multiple of eight columns, so that few programs are compiled.
      yield first, count, jnp.pad(p, ((0, 0), (0, 0), (0, -count % 8)))

  def _how(self, combiner: str) -> dict[str, Any]:
    return {
      "images": self.images,
      "window": self.layout.window,
      "canvas": self.layout.canvas,
      "combiner": combiner,
    }
