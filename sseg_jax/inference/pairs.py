"""Pictures and captions as the contrastive loss compares them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from sseg_jax import contrastive
from sseg_jax.inference.segmenter import SSegSegmenter
from sseg_jax.models.outputs import ImageOutputs

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


def of_records(
  segmenter: SSegSegmenter,
  folder: str,
  observe: Callable[[Mapping[str, Any], ImageOutputs], None] = (
    lambda batch, outputs: None
  ),
) -> Pairs:
  """Embeds the first pairs of a folder of records, as many as the config says.

  Args:
    segmenter: its config says how many pictures, and how many captions of each.
    folder: of records.
    observe: gets each batch of `pipeline.eval_pairs`, before its pictures are
      embedded, and what the image tower gives for them.
  """
  from sseg_jax.data import pipeline

  config = segmenter.config
  parts = []
  for batch in pipeline.eval_pairs(
    folder,
    image_size=config.image_size,
    context_length=config.text.context_length,
    limit=config.evaluate.retrieval_size,
    captions=config.evaluate.retrieval_captions,
  ):
    outputs = segmenter.look_at(jnp.asarray(batch["image"]))
    observe(batch, outputs)
    b, c, length = batch["text"].shape
    texts = of_texts(segmenter, batch["text"].reshape(b * c, length))
    pairs = Pairs(
      of_pictures(config, outputs),
      [x.reshape(b, c, *x.shape[1:]) for x in texts],
    )
    parts.append(pairs.where(batch["valid"]))
  return _join(parts)


def of_pictures(config: Any, outputs: ImageOutputs) -> list[np.ndarray]:
  """Returns `Pairs.pictures` from what the image tower gives."""
  if config.loss.contrastive_form == "global":
    return [np.asarray(outputs.image_embedding)]
  return [np.asarray(outputs.part_embeddings), np.asarray(outputs.counts > 0)]


def of_texts(
  segmenter: SSegSegmenter, tokens: Int[np.ndarray, "b l"]
) -> list[np.ndarray]:
  """Returns embeddings of texts [b, …]: `Pairs.texts` without its axis c."""
  rows = jnp.asarray(tokens)
  if segmenter.config.loss.contrastive_form == "global":
    return [np.asarray(segmenter.encode_tokens(rows))]
  return [np.asarray(x) for x in segmenter.encode_words(rows)]


def _join(parts: Sequence[Pairs]) -> Pairs:
  """Joins pairs along their first axis."""
  pictures, texts = (
    [np.concatenate(x) for x in zip(*group, strict=True)]
    for group in zip(*parts, strict=True)
  )
  return Pairs(pictures, texts)


def similarity(
  config: Any, pairs: Pairs, caption: int
) -> Float[np.ndarray, "b _"]:
  """Returns how well each picture fits each picture's text `caption`.

  There may be more or fewer texts than pictures.
  """
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
  for i in range(0, len(pairs.pictures[0]), _ROWS):
    some = (jnp.asarray(x[i : i + _ROWS]) for x in pairs.pictures)
    rows.append(compare(contrastive.Pictures(*some), captions))
  return np.concatenate([np.asarray(x) for x in rows])
