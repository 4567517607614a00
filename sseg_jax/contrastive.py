"""The contrastive losses: a batch of pictures against a batch of captions.

`contrastive` compares one embedding of a picture with one of a caption, as the
paper does. `of_regions` compares the regions of a picture, one by one, with a
caption or with each of its words; it is not of the paper. Both are computed in
float32 over the global batch, whole or in blocks of rows.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float

from sseg_jax.models.layers import clamped_scale, unit

FORMS = ("global", "caption_attends", "words")

# The logit of an excluded pair. It is far below any cosine times a scale, and
# finite, so that a row without any valid pair has finite gradients.
EXCLUDED = -1e9

# Logits [r, c] of some rows against all columns, without the scale.
_Similarity = Callable[[Any, Any], Array]


def contrastive(
  image_embedding: Float[Array, "b e"],
  text_embedding: Float[Array, "b e"],
  logit_scale: Float[Array, ""],
  valid: Bool[Array, "b"],
  *,
  max_logit_scale: float,
  block: int = 0,
  mesh: Mesh | AbstractMesh | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """Returns the sum of both directions' cross-entropies, and metrics.

  The embeddings are not normalised; pair i is row i of both. A pair that is not
  valid is neither a positive nor a negative. `logit_scale` is the logarithm of
  the scale, which is clamped at `max_logit_scale` where it is used. Source:
  S-Seg Eq. 2-3 (it takes the sum; GroupViT and SLIP take the mean).

  With a `block`, at most `block` rows of the logits exist at once, counted over
  all devices; this holds for the gradient too. `block` must divide b, and the
  number of devices in `mesh` must divide `block`. The pairs are split over
  these devices. Each device compares its own rows with all columns, so the loop
  over blocks needs no communication.
  """
  image = unit(jnp.where(valid[:, None], image_embedding, 0))
  text = unit(jnp.where(valid[:, None], text_embedding, 0))
  scale = clamped_scale(logit_scale, max_logit_scale)
  return _both_ways(
    _Way(image, text, _cosines),
    _Way(text, image, _cosines),
    scale,
    valid,
    block,
    mesh,
  )


class Pictures(NamedTuple):
  """Pictures as parts.

  Attributes:
    regions: embeddings of the parts of each picture.
    exist: which of them exist.
  """

  regions: Float[Array, "b k e"]
  exist: Bool[Array, "b k"]


class Captions(NamedTuple):
  """Captions as words.

  Attributes:
    words: embeddings of the words of each caption, or of the caption (w = 1).
    exist: which of them exist.
  """

  words: Float[Array, "b w e"]
  exist: Bool[Array, "b w"]


class Vocabulary(NamedTuple):
  """Captions as shares of words, each of which is embedded once.

  Attributes:
    words: embeddings of the words.
    shares: of each word in each caption; those of a caption sum to 1, or are 0
      if it has no word.
  """

  words: Float[Array, "u e"]
  shares: Float[Array, "u b"]


def of_regions(
  pictures: Pictures,
  captions: Captions | Vocabulary,
  logit_scale: Float[Array, ""],
  valid: Bool[Array, "b"],
  *,
  form: str,
  sharpness: float,
  max_logit_scale: float,
  heads: int = 1,
  block: int = 0,
  mesh: Mesh | AbstractMesh | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
  """Returns the loss in which captions see the regions of a picture.

  The similarity of a picture and a caption is `similarity`; embeddings may have
  any length. All else is as in `contrastive`. A pair whose picture has no
  region or whose caption has no word counts as not valid.

  Args:
    pictures: the parts of the pictures.
    captions: the words of the captions. A `Vocabulary` needs the form "words"
      and no block.
    logit_scale: see `contrastive`.
    valid: see `contrastive`.
    form: "caption_attends" or "words"; see `similarity`.
    sharpness: see `similarity`.
    max_logit_scale: see `contrastive`.
    heads: parts of equal length of the embeddings. Each is compared by itself;
      loss and metrics are means over them.
    block: see `contrastive`.
    mesh: see `contrastive`.
  """
  (regions, there), (words, count) = pictures, captions
  if heads > 1:

    def one(part):
      return of_regions(
        Pictures(part[0], there),
        captions._replace(words=part[1]),
        logit_scale,
        valid,
        form=form,
        sharpness=sharpness,
        max_logit_scale=max_logit_scale,
        block=block,
        mesh=mesh,
      )

    parts = parts_of(regions, heads), parts_of(words, heads)
    return jax.tree.map(lambda x: x.mean(0), lax.map(one, parts))
  shared = isinstance(captions, Vocabulary)
  valid = valid & there.any(1) & (count.sum(0) > 0 if shared else count.any(1))
  # NaN in a pair that is not valid would pass into every gradient.
  pictures = Pictures(jnp.where(valid[:, None, None], regions, 0), there)
  how: _Similarity
  if isinstance(captions, Vocabulary):
    assert form == "words" and not 0 < block < len(valid)
    how = functools.partial(_similarity_of_shares, sharpness=sharpness)
  else:
    captions = Captions(jnp.where(valid[:, None, None], words, 0), count)
    how = functools.partial(similarity, form=form, sharpness=sharpness)
  return _both_ways(
    _Way(pictures, captions, how),
    _Way(captions, pictures, lambda rows, columns: how(columns, rows).T),
    clamped_scale(logit_scale, max_logit_scale),
    valid,
    block,
    mesh,
  )


def parts_of(x: Float[Array, "*b e"], heads: int) -> Float[Array, "h *b p"]:
  """Cuts embeddings into the parts of the heads."""
  return jnp.moveaxis(x.reshape(*x.shape[:-1], heads, -1), -2, 0)


def similarity(
  pictures: Pictures, captions: Captions, *, form: str, sharpness: float
) -> Float[Array, "i j"]:
  """Returns how well each picture fits each caption, in [-1, 1].

  Embeddings are brought to unit length. A word attends to the regions by a
  softmax over their cosines times `sharpness`; regions that do not exist get no
  weight.

  "words": the mean, over the words, of the cosines with the regions under that
  attention: a soft maximum. (The maximum itself is FILIP's, Yao et al. 2021,
  Eq. 4-5.) "caption_attends": the cosine of the caption, which is the only
  word, and the attended mean of the regions.
  """
  (regions, there), (words, count) = pictures, captions
  regions, words = unit(regions), unit(words)
  attended, weight = _attend(regions, there, words, sharpness)  # [i, j, w]
  if form == "words":
    total = jnp.maximum(1, count.sum(-1, dtype=jnp.float32))
    return jnp.where(count[None], attended, 0).sum(-1) / total[None]
  # The length of the attended mean, from the products of the regions.
  products = jnp.einsum(
    "ike,ile->ikl", regions, regions, precision=lax.Precision.HIGHEST
  )
  squared = jnp.einsum(
    "ijwk,ikl,ijwl->ijw",
    weight,
    products,
    weight,
    precision=lax.Precision.HIGHEST,
  )
  return (attended * lax.rsqrt(jnp.maximum(squared, 1e-12)))[..., 0]


def _attend(
  regions: Float[Array, "i k e"],
  there: Bool[Array, "i k"],
  words: Float[Array, "*n e"],
  sharpness: float,
) -> tuple[Float[Array, "i *n"], Float[Array, "i *n k"]]:
  """Returns each word's cosine under its attention, and the attention.

  All embeddings have unit length.
  """
  flat = words.reshape(-1, words.shape[-1])
  cosine = jnp.einsum(
    "ike,ne->ink", regions, flat, precision=lax.Precision.HIGHEST
  )
  seen = there[:, None]
  weight = jax.nn.softmax(jnp.where(seen, sharpness * cosine, EXCLUDED), -1)
  attended = (weight * cosine).sum(-1)
  shape = len(regions), *words.shape[:-1]
  return attended.reshape(shape), weight.reshape(*shape, -1)


def _similarity_of_shares(
  pictures: Pictures, captions: Vocabulary, *, sharpness: float
) -> Float[Array, "i j"]:
  """Returns the same as `similarity` with the form "words"."""
  # Words without a share fill the array; NaN in one would reach all gradients.
  used = captions.shares.any(1, keepdims=True)
  words = unit(jnp.where(used, captions.words, 0))
  attended, _ = _attend(
    unit(pictures.regions), pictures.exist, words, sharpness
  )
  return jnp.matmul(attended, captions.shares, precision=lax.Precision.HIGHEST)


class _Way(NamedTuple):
  """One direction: each row looks for its column."""

  rows: Any
  columns: Any
  similarity: _Similarity


def _both_ways(image_to_text, text_to_image, scale, valid, block, mesh):
  count = jnp.maximum(1.0, valid.sum(dtype=jnp.float32))
  (across, image_accuracy), (down, text_accuracy) = (
    (
      jnp.where(valid, loss, 0).sum() / count,
      (valid & hit).sum(dtype=jnp.float32) / count,
    )
    for loss, hit in _retrieval(
      image_to_text, text_to_image, scale, valid, block, mesh
    )
  )
  metrics = {
    "contrastive_i2t": across,
    "contrastive_t2i": down,
    "image_to_text_accuracy": image_accuracy,
    "text_to_image_accuracy": text_accuracy,
    "logit_scale": scale,
  }
  return across + down, metrics


def _retrieval(image_to_text, text_to_image, scale, valid, block, mesh):
  """Returns (cross-entropy, hit) of row i finding column i, and the reverse."""
  number = jnp.arange(len(valid))
  if not 0 < block < len(valid):
    logits = scale * image_to_text.similarity(*image_to_text[:2])
    return _find(logits, number, valid), _find(logits.T, number, valid)
  # One scale for each row, so that its gradient is summed after the loop.
  scales = jnp.full((len(valid), 1), scale)

  def find(way):
    one = functools.partial(
      _find_in_blocks, similarity=way.similarity, block=block
    )
    if mesh is not None and mesh.size > 1:
      one = functools.partial(
        one, block=block // mesh.size, axes=mesh.axis_names
      )
      split = PartitionSpec(mesh.axis_names)
      one = jax.shard_map(one, mesh=mesh, in_specs=split, out_specs=split)
    return one(way.rows, number, scales, way.columns, valid)

  return find(image_to_text), find(text_to_image)


def _cosines(rows, columns):
  return jnp.einsum("re,ce->rc", rows, columns, precision=lax.Precision.HIGHEST)


def _find(logits, number, valid):
  """Returns (cross-entropy, hit) of each row; its `number` is its column."""
  logits = jnp.where(valid[None], logits, EXCLUDED)
  mine = number[:, None] == jnp.arange(logits.shape[1])[None]
  right = jnp.where(mine, logits, 0).sum(-1)
  loss = jax.nn.logsumexp(logits, axis=-1) - right
  return loss, jnp.argmax(logits, axis=-1) == number


def _find_in_blocks(
  rows, number, scales, columns, valid, similarity, block, axes=()
):
  """Returns the same as `_find`, computed for `block` rows at a time."""
  if axes:
    columns, valid = jax.tree.map(
      lambda x: lax.all_gather(x, axes, tiled=True), (columns, valid)
    )

  @jax.checkpoint
  def find(part):
    rows, number, scales = part
    return _find(scales * similarity(rows, columns), number, valid)

  parts = jax.tree.map(
    lambda x: x.reshape(-1, block, *x.shape[1:]), (rows, number, scales)
  )
  return jax.tree.map(jnp.ravel, lax.map(find, parts))
