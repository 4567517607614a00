"""Which held-out pictures a word finds, and which of their regions fit it best.

The pictures are those of the retrieval score: they are seen once for both.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from sseg_jax import content_words
from sseg_jax.errors import InputError
from sseg_jax.inference import padding, pairs
from sseg_jax.inference.segmenter import SSegSegmenter
from sseg_jax.models.outputs import ImageOutputs
from sseg_jax.tokenizer import Tokenizer

MOST_CROPPED = 256  # pictures whose regions are kept
_SIDE = 160  # to which these are reduced
_SMALLEST = 0.02  # share of the picture that a region must have
_CHUNK = 256  # words encoded at once


class Region(NamedTuple):
  """A region in a picture.

  Attributes:
    picture: RGB, reduced.
    inside: which of its pixels belong to the region.
  """

  picture: UInt8[np.ndarray, "h w 3"]
  inside: np.ndarray


class _Kept(NamedTuple):
  """A picture with its regions, one for each query that wins pixels."""

  picture: UInt8[np.ndarray, "h w 3"]
  labels: Int[np.ndarray, "y x"]
  queries: Int[np.ndarray, "r"]
  embeddings: Float[np.ndarray, "r e"]


class HeldOut:
  """Takes what the network sees in held-out pairs, and compares words with it.

  It is an `observe` of `pairs.of_records`.
  """

  def __init__(self, config: Any):
    """Has seen nothing yet; `config` is the run's."""
    self._config = config
    self._ids: list[int] = []
    self._pictures: list[Sequence[np.ndarray]] = []
    self._kept: list[_Kept] = []
    self._captions: list[set[str]] = []

  def __call__(
    self, batch: Mapping[str, np.ndarray], outputs: ImageOutputs
  ) -> None:
    """Takes a batch of `pipeline.eval_pairs` and what the network gave."""
    valid = np.asarray(batch["valid"])
    self._ids += batch["id"][valid].tolist()
    embedded = pairs.of_pictures(self._config, outputs)
    self._pictures.append([x[valid] for x in embedded])
    places = np.flatnonzero(valid)[: MOST_CROPPED - len(self._kept)]
    if not len(places):
      return
    labels = np.asarray(jnp.argmax(outputs.mask_logits[-1][places], 1))
    embeddings = np.asarray(outputs.query_embeddings[places])
    for i, place in enumerate(places):
      count = np.bincount(labels[i].ravel(), minlength=embeddings.shape[1])
      queries = np.flatnonzero(count >= _SMALLEST * labels[i].size)
      self._kept.append(
        _Kept(
          _reduced(batch["image"][place]),
          labels[i].astype(np.int16),
          queries,
          _unit(embeddings[i][queries]),
        )
      )

  def __len__(self) -> int:
    """Number of pictures."""
    return len(self._ids)

  @property
  def cropped(self) -> int:
    """Number of pictures whose regions are kept, the first ones."""
    return len(self._kept)

  def read_captions(self, folder: str) -> None:
    """Reads the words of all captions of the pictures again.

    Args:
      folder: the records that the pictures are of.
    """
    from sseg_jax.data.shards import RecordTable

    table = RecordTable([folder])
    self._captions = []
    for index in self._ids:
      try:
        texts = table[index].captions
      except InputError:
        raise
      except ValueError:
        texts = ()
      self._captions.append(
        {
          word
          for text in texts
          for word in content_words.words_of(text.decode(errors="replace"))
        }
      )

  def numbers(self) -> dict[str, int]:
    """Returns how many of the pictures have each word in a caption."""
    return collections.Counter(w for words in self._captions for w in words)

  def ranked(
    self, segmenter: SSegSegmenter, words: Sequence[str]
  ) -> dict[str, float]:
    """Returns how well each word alone finds its pictures, in 0..100.

    That is the share of pairs of a picture whose captions have the word and one
    whose captions have it not, in which the first fits the word better; equal
    ones count half. So chance is 50. It is the area under the ROC curve. A word
    that all or none of the captions have is left out.
    """
    found: dict[str, float] = {}
    if not self._ids:
      return found
    pictures = [np.concatenate(x) for x in zip(*self._pictures, strict=True)]
    for first in range(0, len(words), _CHUNK):
      some = words[first : first + _CHUNK]
      texts = pairs.of_texts(segmenter, _tokens(segmenter, some))
      texts = [x[: len(some)] for x in texts]
      fits = pairs.similarity(
        self._config, pairs.Pairs(pictures, [x[:, None] for x in texts]), 0
      )
      for column, word in enumerate(some):
        has = np.array([word in words for words in self._captions])
        if has.any() and not has.all():
          right, wrong = fits[has, column], fits[~has, column]
          better = (right[:, None] > wrong).mean()
          equal = (right[:, None] == wrong).mean()
          found[word] = 100 * float(better + equal / 2)
    return found

  def best_regions(
    self, segmenter: SSegSegmenter, words: Sequence[str], most: int
  ) -> dict[str, list[Region]]:
    """Returns the regions that fit each word best, one of a picture at most.

    Args:
      segmenter: embeds the words.
      words: of any number.
      most: regions of a word.
    """
    kept = [one for one in self._kept if len(one.queries)]
    found: dict[str, list[Region]] = {}
    for first in range(0, len(words), _CHUNK):
      some = words[first : first + _CHUNK]
      texts = np.asarray(segmenter.encode_tokens(_tokens(segmenter, some)))
      texts = _unit(texts[: len(some)])
      cosines = [one.embeddings @ texts.T for one in kept]  # [r, w] each
      for column, word in enumerate(some):
        best = [float(c[:, column].max()) for c in cosines]
        found[word] = [
          _region(kept[i], int(cosines[i][:, column].argmax()))
          for i in sorted(range(len(kept)), key=lambda i: -best[i])[:most]
        ]
    return found


def _reduced(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "y x 3"]:
  small = Image.fromarray(np.asarray(image)).resize((_SIDE, _SIDE))
  return np.asarray(small)


def _region(kept: _Kept, row: int) -> Region:
  h, w = kept.picture.shape[:2]
  y, x = kept.labels.shape
  inside = kept.labels == kept.queries[row]
  rows, columns = np.arange(h) * y // h, np.arange(w) * x // w
  return Region(kept.picture, inside[rows][:, columns])


def _tokens(segmenter: SSegSegmenter, words: Sequence[str]) -> np.ndarray:
  tokenizer = Tokenizer(segmenter.config.text.context_length)
  # A power of two of words, so that few programs are compiled.
  return padding.pad_rows(padding.without_padding(tokenizer(words)))


def _unit(x: np.ndarray) -> np.ndarray:
  length = np.linalg.norm(x, axis=-1, keepdims=True)
  return np.asarray(x, np.float32) / np.maximum(length, 1e-12)
