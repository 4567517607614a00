"""Pictures and captions as the contrastive loss compares them."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Num

from sseg_jax import contrastive
from sseg_jax.inference.segmenter import SSegSegmenter

_ROWS = 64  # pictures compared with all texts at once


class Pairs(NamedTuple):
  """Embeddings of b pictures with c texts each.

  Attributes:
    pictures: arrays [b, …]: one embedding, or those of the parts and which of
      them exist, bool.
    texts: arrays [b, c, …], likewise of texts and their words.
  """

  pictures: Sequence[np.ndarray]
  texts: Sequence[np.ndarray]

  def where(self, valid: np.ndarray) -> "Pairs":
    """Returns the pairs for which `valid`, bool [b], is true."""
    pictures, texts = ([x[valid] for x in part] for part in self)
    return Pairs(pictures, texts)


def embed(
  segmenter: SSegSegmenter,
  images: Num[np.ndarray, "b h w 3"],
  tokens: Int[np.ndarray, "b c l"],
) -> Pairs:
  """Embeds pictures, of sides as in training, and texts of each."""
  b, c, length = tokens.shape
  rows = jnp.asarray(tokens).reshape(b * c, length)
  pictures: Any
  texts: Any
  if segmenter.config.loss.contrastive_form == "global":
    pictures = (segmenter.encode_images(jnp.asarray(images)),)
    texts = (segmenter.encode_tokens(rows),)
  else:
    pictures = segmenter.encode_parts(jnp.asarray(images))
    texts = segmenter.encode_words(rows)
  pictures, texts = jax.device_get((tuple(pictures), tuple(texts)))
  return Pairs(pictures, [x.reshape(b, c, *x.shape[1:]) for x in texts])


def join(parts: Sequence[Pairs]) -> Pairs:
  """Joins pairs along their first axis."""
  pictures, texts = (
    [np.concatenate(x) for x in zip(*group, strict=True)]
    for group in zip(*parts, strict=True)
  )
  return Pairs(pictures, texts)


def similarity(
  config: Any, pairs: Pairs, caption: int
) -> Float[np.ndarray, "b b"]:
  """Returns how well each picture fits each picture's text `caption`."""
  texts = [x[:, caption] for x in pairs.texts]
  if config.loss.contrastive_form == "global":
    image, text = (
      e / np.maximum(np.linalg.norm(e, axis=-1, keepdims=True), 1e-12)
      for e in (pairs.pictures[0], texts[0])
    )
    return image @ text.T
  compare = jax.jit(
    functools.partial(
      contrastive.similarity,
      form=config.loss.contrastive_form,
      sharpness=config.loss.sharpness,
    )
  )
  captions = contrastive.Captions(*map(jnp.asarray, texts))
  rows = []
  for i in range(0, len(texts[0]), _ROWS):
    some = (jnp.asarray(x[i : i + _ROWS]) for x in pairs.pictures)
    rows.append(compare(contrastive.Pictures(*some), captions))
  return np.concatenate([np.asarray(x) for x in rows])
