"""The one inference path: an image and a class set in, class scores out.

`scoring` holds the formulas and `sliding_window` the geometry. This module adds
a network to both. `evaluate`, `predict` and the baselines use it.
"""

import functools
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num, UInt8

from sseg_jax import contrastive
from sseg_jax.checkpoints import named_arrays
from sseg_jax.errors import InputError
from sseg_jax.field_rules import REFINEMENTS
from sseg_jax.inference import look, padding, scoring
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.inference.encoded import Encoded
from sseg_jax.inference.sliding_window import LARGEST_SIZE, Layout
from sseg_jax.models import sseg
from sseg_jax.models.outputs import ImageOutputs
from sseg_jax.tokenizer import Tokenizer, check_distinct

__all__ = [
  "ClassSet",
  "SSegSegmenter",
  "Segmenter",
  "winners",
]

_CLASS_SETS = 16  # of which the embeddings are kept
_CLASS_CHUNK = 64  # classes scored at once
_WINDOW_PIXELS = 8 * 448 * 448  # of all windows encoded at once
_SCORE_VALUES = 2**26  # of class scores on the device at once


@runtime_checkable
class Segmenter(Protocol):
  """Whatever scores the pixels of an image for a class set.

  A segmenter may also have `winners_many(images [b,h,w,3], class_set) ->
  (best [b,h,w], index [b,h,w])`, which saves moving all scores to the host.
  """

  def scores(
    self, image: UInt8[np.ndarray, "h w 3"], class_set: ClassSet
  ) -> Float[np.ndarray, "h w c"]:
    """Returns scores in [0, 1] at the image's size."""
    ...


_class_embeddings = jax.jit(scoring.class_embeddings, static_argnums=1)
_class_probabilities = jax.jit(
  scoring.class_probabilities, static_argnames=("max_logit_scale",)
)


def winners(
  segmenter: Segmenter,
  images: UInt8[np.ndarray, "b h w 3"],
  class_set: ClassSet,
) -> tuple[Float[np.ndarray, "b h w"], Int[np.ndarray, "b h w"]]:
  """Best score of each pixel and its class, by the segmenter's shortest way."""
  if hasattr(segmenter, "winners_many"):
    return segmenter.winners_many(images, class_set)
  scores = [segmenter.scores(image, class_set) for image in images]
  return (
    np.stack([s.max(-1) for s in scores]),
    np.stack([s.argmax(-1) for s in scores]),
  )


class SSegSegmenter:
  """S-Seg as a `Segmenter`: any image size, any vocabulary.

  Attributes:
    known: the only words that it takes; () if it takes any.
  """

  known: tuple[str, ...] = ()

  def __init__(
    self,
    params: Any,
    model_state: Any,
    config: Any,
    *,
    combiner: str | None = None,
    image_size: int | None = None,
    refine: str | None = None,
    synonyms: str | None = None,
  ):
    """Puts the parameters on the default device unless they are on one already.

    Args:
      params: nested dict as `checkpoint.load(...).params`.
      model_state: nested dict of running statistics.
      config: attribute-style configuration of the run.
      combiner: instead of `config.evaluate.combiner`.
      image_size: short side and window, instead of
        `config.evaluate.image_size`; the window's stride scales with it.
      refine: instead of `config.evaluate.refine`.
      synonyms: instead of `config.evaluate.synonyms`, for benchmarks.
    """
    self.synonyms = synonyms or config.evaluate.synonyms
    self.combiner = combiner or config.evaluate.combiner
    if self.combiner not in scoring.COMBINERS:
      raise scoring.unknown_combiner(self.combiner)
    self.image_size = int(image_size or config.evaluate.image_size)
    stride = config.evaluate.stride * self.image_size
    self.stride = max(1, round(stride / config.evaluate.image_size))
    if self.image_size > LARGEST_SIZE:
      raise InputError(
        f"image_size={self.image_size} is more than {LARGEST_SIZE}; give less"
      )
    self.config = config
    graphdef = self._graphdef = sseg.build(config)[0]
    self.refine = refine or config.evaluate.refine
    if self.refine not in REFINEMENTS:
      raise InputError(
        f"evaluate.refine={self.refine!r} is unknown; use one of"
        f" {', '.join(REFINEMENTS)}"
      )
    self._look = look.Look.build(config, self.refine)
    of = self._look.multiple
    if self.image_size < of or self.image_size % of:
      raise InputError(
        f"image_size={self.image_size} is not a multiple of {of}; use"
        f" {max(1, round(self.image_size / of)) * of}"
      )

    # Compiled once for each segmenter: a graphdef need not be hashable.
    def apply(*args):
      see = functools.partial(sseg.apply_image, graphdef)
      return self._look(see, *args)

    def encode_windows(*args):
      outputs = apply(*args)
      return outputs.mask_logits[-1], outputs.query_embeddings

    def encode_images(*args):
      return apply(*args).image_embedding

    self._encode_windows = jax.jit(encode_windows)
    self._encode_images = jax.jit(encode_images)
    self._look_at = jax.jit(apply)
    self._encode_words = jax.jit(
      lambda *args: sseg.apply_words(graphdef, *args)
    )
    self._encode_text = jax.jit(functools.partial(sseg.apply_text, graphdef))
    self._tokenizer = Tokenizer(context_length=config.text.context_length)
    self.set_weights(params, model_state)

  def set_weights(self, params: Any, model_state: Any) -> None:
    """Takes other weights of the same network, without compiling again."""
    self._params = named_arrays.on_device(params)
    self.model_state = named_arrays.on_device(model_state)
    # The last few alone: a server meets ever new words.
    self._embeddings = functools.lru_cache(_CLASS_SETS)(self._embed_classes)

  @functools.cached_property
  def _frozen(self) -> Any:
    """The arrays of a network beside the model; see `Look.frozen`."""
    return named_arrays.on_device(self._look.frozen)

  def encode_images(self, images: Num[Array, "b h w 3"]) -> Float[Array, "b e"]:
    """Returns embeddings of whole pictures, 0..255; sides as in training."""
    return self._encode_images(
      self._params, self.model_state, images, self._frozen
    )

  def encode_tokens(
    self, tokens: Int[Array | np.ndarray, "b l"]
  ) -> Float[Array, "b e"]:
    """Returns embeddings of texts, given as the tokenizer's ids."""
    return self._encode_text(self._params, self.model_state, tokens)

  def look_at(self, images: Num[Array, "b h w 3"]) -> ImageOutputs:
    """Returns all that the image tower gives; pictures as `encode_images`."""
    return self._look_at(self._params, self.model_state, images, self._frozen)

  def encode_words(
    self, tokens: Int[Array | np.ndarray, "b l"]
  ) -> contrastive.Captions:
    """Returns embeddings of the words of texts, or of texts as one word."""
    return contrastive.Captions(
      *self._encode_words(self._params, self.model_state, tokens)
    )

  def tokens(self, class_set: ClassSet) -> Int[np.ndarray, "c t l"]:
    """Returns the tokenizer's ids of every word in every template."""
    tokens = self._tokenizer(class_set.prompts)
    return tokens.reshape(len(class_set.words), -1, tokens.shape[-1])

  def is_cut(self, prompt: str) -> bool:
    """Returns whether the text tower does not read a prompt to its end."""
    # Room for the start and end tokens.
    room = self._tokenizer.context_length - 2
    return len(self._tokenizer.encode(prompt)) > room

  def encode_classes(self, class_set: ClassSet) -> Num[Array, "c *e"]:
    """Returns an embedding of each word, computed once for a class set."""
    return self._embeddings(class_set)

  def _embed_classes(self, class_set: ClassSet) -> Num[Array, "c *e"]:
    tokens = self._tokenizer(class_set.prompts)
    check_distinct(class_set.words, tokens)
    encode = functools.partial(
      self._encode_text, self._params, self.model_state
    )
    each = padding.in_chunks(encode, tokens)
    return _class_embeddings(each, len(class_set.words))

  def encode(
    self, image: UInt8[np.ndarray, "h w 3"], class_set: ClassSet
  ) -> Encoded:
    """Returns the masks and classes of one picture's queries."""
    return next(self._groups(image[None], class_set))

  def scores(
    self, image: UInt8[np.ndarray, "h w 3"], class_set: ClassSet
  ) -> Float[np.ndarray, "h w c"]:
    """Class scores of one image at its size."""
    return self.scores_many(image[None], class_set)[0]

  def scores_many(
    self, images: UInt8[np.ndarray, "b h w 3"], class_set: ClassSet
  ) -> Float[np.ndarray, "b h w c"]:
    """Class scores of images of one size."""
    return self._all_scores(self._groups(images, class_set))

  def score_windows(
    self, windows: Float[np.ndarray, "g h w 3"], class_set: ClassSet
  ) -> Float[np.ndarray, "g h w c"]:
    """Class scores of windows of one size, neither resized nor cut."""
    _, h, w, _ = windows.shape
    layout = Layout.of_window(h, w, self._look.multiple)
    return self._all_scores(self._groups(windows, class_set, layout))

  def _all_scores(self, groups: Iterator[Encoded]) -> np.ndarray:
    return np.concatenate(
      [
        np.concatenate(list(group.scores(self.combiner)), axis=-1)
        for group in groups
      ]
    )

  def winners_many(
    self, images: UInt8[np.ndarray, "b h w 3"], class_set: ClassSet
  ) -> tuple[Float[np.ndarray, "b h w"], Int[np.ndarray, "b h w"]]:
    """Best score of each pixel and its class, without moving all scores."""
    bests, indices = [], []
    for group in self._groups(images, class_set):
      parts = group.winners(self.combiner)
      best, index = next(parts)
      for part_best, part_index in parts:
        index = np.where(part_best > best, part_index, index)
        best = np.maximum(best, part_best)
      bests.append(best)
      indices.append(index)
    return np.concatenate(bests), np.concatenate(indices)

  def _groups(
    self,
    images: Num[np.ndarray, "b h w 3"],
    class_set: ClassSet,
    layout: Layout | None = None,
  ) -> Iterator[Encoded]:
    """Yields groups of images, each as large as the device's memory allows."""
    layout = layout or Layout.of(
      *images.shape[1:3],
      image_size=self.image_size,
      stride=self.stride,
      multiple=self._look.multiple,
    )
    places = layout.places()
    embeddings = self.encode_classes(class_set)
    # How much fits on the device at once, in images and in classes.
    pixels = max(
      len(places.rows[0]) * len(places.columns[0]),
      layout.canvas[0] * layout.canvas[1],
    )
    chunk = min(_CLASS_CHUNK, max(8, _SCORE_VALUES // pixels // 8 * 8))
    group = min(
      _WINDOW_PIXELS
      // (len(layout.starts) * layout.window[0] * layout.window[1]),
      _SCORE_VALUES // (pixels * min(chunk, len(class_set.names))),
    )
    group = max(1, group)
    for first in range(0, len(images), group):
      some = images[first : first + group]
      seen = self._encode(np.concatenate([layout.cut(x) for x in some]))
      geometry = (layout, places, len(some), chunk)
      yield self._encoded(*seen, embeddings, class_set, *geometry)

  def _encoded(
    self,
    masks: Array,
    queries: Array,
    embeddings: Array,
    class_set: ClassSet,
    *geometry: Any,
  ) -> Encoded:
    """Names the queries of windows; `geometry` is the rest of `Encoded`."""
    probabilities = _class_probabilities(
      queries,
      embeddings,
      self._params["logit_scale"],
      class_set.members(),
      max_logit_scale=float(self.config.loss.max_logit_scale),
    )
    return Encoded(masks, probabilities, *geometry)

  def _encode(self, windows):
    """Encodes windows in batches whose sizes are powers of two."""
    limit = max(1, _WINDOW_PIXELS // (windows.shape[1] * windows.shape[2]))
    outputs = []
    for first in range(0, len(windows), limit):
      part = windows[first : first + limit]
      padded = padding.pad_rows(part, limit)
      outputs.append(
        self._encode_windows(
          self._params, self.model_state, padded, self._frozen
        )
      )
    return jax.tree.map(lambda *x: jnp.concatenate(x), *outputs)
