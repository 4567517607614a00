"""Inference with networks that know a fixed list of classes.

`build` makes the segmenter of any stored network: of S-Seg, which knows all
words, or of one of `models/fixed_classes.py`.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sseg_jax import prompts
from sseg_jax.errors import InputError
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.inference.segmenter import SSegSegmenter
from sseg_jax.inference.sliding_window import Layout, Places, assemble
from sseg_jax.models import fixed_classes

# Of background and a class, the more likely one.
EVEN = 0.5


def build(
  params: Any, model_state: Any, config: Any, **how: Any
) -> SSegSegmenter:
  """Returns the segmenter of a config's network.

  Args:
    params: as `SSegSegmenter` takes them.
    model_state: likewise.
    config: fields as in `default_config.py`.
    **how: the other arguments of `SSegSegmenter`.
  """
  fixed = fixed_classes.network(config) is not None
  made = FixedSegmenter if fixed else SSegSegmenter
  return made(params, model_state, config, **how)


def complete(config: Any, class_names: tuple[str, ...]) -> None:
  """Gives a config of a fixed list of classes that list, and a threshold.

  Args:
    config: of a run; another network's stays as it is.
    class_names: the names of the labels, "background" first or nowhere.
  """
  if fixed_classes.network(config) is None:
    return
  config.data.classes = class_names
  background = prompts.without_background(class_names, "data.classes")[1]
  if background and config.evaluate.background_threshold is None:
    config.evaluate.background_threshold = EVEN


class FixedSegmenter(SSegSegmenter):
  """A network with a fixed list of classes as a `Segmenter`.

  It takes sets of these classes alone, in any order. If the list begins with
  background, the score of a class is its share of class and background
  together: a pixel is background where no class reaches one half. Otherwise
  scores are shares among all classes of the list.
  """

  def __init__(
    self,
    params: Any,
    model_state: Any,
    config: Any,
    *,
    combiner: str | None = None,
    refine: str | None = None,
    **how: Any,
  ):
    """Does what `SSegSegmenter` does; the network has a combiner of its own.

    Raises:
      InputError: if `combiner` or `refine` is given.
    """
    network: Any = fixed_classes.network(config)
    if combiner or refine not in (None, "none"):
      raise InputError(
        f"combiner={combiner!r}, refine={refine!r}: the network"
        f" model.head={config.model.head!r} has one way to join masks and"
        " classes; leave both out"
      )
    super().__init__(params, model_state, config, refine="none", **how)
    self.combiner = network.combiner
    names, self._background = prompts.without_background(
      tuple(config.data.classes), "data.classes"
    )
    self.known = names
    graphdef = self._graphdef

    def named(params, model_state, images, frozen):
      del frozen
      return fixed_classes.apply(graphdef, params, model_state, images)

    self._encode_windows = jax.jit(named)

  def _embed_classes(self, class_set: ClassSet) -> Int[Array, "c"]:
    """Returns the place of each class in the list, background not counted."""
    unknown = [name for name in class_set.names if name not in self.known]
    if unknown:
      raise InputError(
        f"the network knows {len(self.known)} classes"
        f" ({', '.join(self.known[:3])}, …) and not {unknown[0]!r}; it"
        f" has model.head={self.config.model.head!r}: name classes of its list,"
        " or use a network with model.head='text'"
      )
    return jnp.asarray([self.known.index(name) for name in class_set.names])

  def _encoded(
    self,
    masks: Array,
    classes: Array,
    places: Int[Array, "c"],
    class_set: ClassSet,
    *geometry: Any,
  ) -> Any:
    del class_set
    return FixedEncoded(masks, classes, places, self._background, *geometry)


class FixedEncoded(NamedTuple):
  """Some pictures of one size: `Encoded` of a fixed list of classes.

  Attributes:
    masks: of each window, [v, n, mh, mw].
    probabilities: what each mask gives to each class of the list, background
      included, [v, n, c].
    wanted: places in the list of the classes that are asked for.
    background: whether the list begins with background.
    layout: the windows of one picture.
    places: `layout.places()`.
    images: number of pictures.
    chunk: of `Encoded`; here all classes are computed at once.
  """

  masks: Float[Array, "v n mh mw"]
  probabilities: Float[Array, "v n c"]
  wanted: Int[Array, "a"]
  background: bool
  layout: Layout
  places: Places
  images: int
  chunk: int

  @property
  def chances(self) -> Float[Array, "v n a"]:
    """What each mask is of the classes that are asked for."""
    return self.probabilities[..., self.wanted + self.background]

  def only(self, index: int) -> "FixedEncoded":
    """Returns the same for one of the classes."""
    return self._replace(wanted=self.wanted[index : index + 1])

  def scores(self, combiner: str) -> Iterator[Float[np.ndarray, "b h w c"]]:
    """Yields the scores of all classes that are asked for."""
    h, w = self.layout.picture
    yield np.asarray(self._scores(combiner))[:, :h, :w]

  def winners(
    self, combiner: str
  ) -> Iterator[tuple[Float[np.ndarray, "b h w"], Int[np.ndarray, "b h w"]]]:
    """Yields best score and its class for each pixel."""
    h, w = self.layout.picture
    best, index = _winners(self._scores(combiner))
    yield np.asarray(best)[:, :h, :w], np.asarray(index)[:, :h, :w]

  def _scores(self, combiner: str) -> Array:
    found = assemble(
      self.masks,
      self.probabilities,
      self.places,
      images=self.images,
      window=self.layout.window,
      canvas=self.layout.canvas,
      combiner=combiner,
    )
    return _shares(found, self.wanted, combiner == "logits", self.background)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _shares(
  found: Float[Array, "b h w c"],
  wanted: Int[Array, "a"],
  are_logits: bool,
  background: bool,
) -> Float[Array, "b h w a"]:
  """Returns the scores of the classes at some places of the list."""
  asked = found[..., int(background) :][..., wanted]
  return shares(found, asked, are_logits, background)


def shares(
  found: Float[Array, "b h w c"],
  asked: Float[Array, "b h w a"],
  are_logits: bool,
  background: bool,
) -> Float[Array, "b h w a"]:
  """Returns the scores of some classes, from 0 to 1; see `FixedSegmenter`.

  Args:
    found: what the combiner gives to each class of the list.
    asked: the same of the classes that are asked for.
    are_logits: whether these are logits, else they are 0 or more.
    background: whether the list begins with background.
  """
  if are_logits and background:
    return jax.nn.sigmoid(asked - found[..., :1])
  if are_logits:
    most = found.max(-1, keepdims=True)
    found, asked = jnp.exp(found - most), jnp.exp(asked - most)
  total = found.sum(-1, keepdims=True)
  if background:
    total = asked + found[..., :1]
  return asked / jnp.maximum(total, 1e-12)


@jax.jit
def _winners(scores: Float[Array, "b h w a"]) -> tuple[Array, Array]:
  return scores.max(-1), jnp.argmax(scores, -1).astype(jnp.int32)
