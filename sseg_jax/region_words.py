"""The loss that asks each region of a picture for a word of the caption.

It is not of the paper. With the form "words" `contrastive.of_regions` compares
whole pictures with whole captions. At test, however, each region by itself must
choose one of many words. This loss asks for that choice in training too.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float

from sseg_jax.contrastive import EXCLUDED, Pictures, Vocabulary, parts_of
from sseg_jax.models.layers import clamped_scale, unit


def regions_to_words(
  pictures: Pictures,
  captions: Vocabulary,
  logit_scale: Float[Array, ""],
  valid: Bool[Array, "b"],
  *,
  max_logit_scale: float,
  q: float = 0.0,
  heads: int = 1,
  block: int = 0,
  mesh: Mesh | AbstractMesh | None = None,
) -> Float[Array, ""]:
  """Returns how badly each region finds the words of its caption.

  A region is compared with all words of the batch. With the logit s_w (cosine
  times scale) of word w, and n_w the number of captions that have it, a region
  finds a word of its caption with probability

    p = sum_own exp(s_w) / (sum_own exp(s_w) + sum_other n_w exp(s_w))

  where "own" are the different words of the region's caption. One word is
  enough, whichever it is. A word of many captions counts as often among the
  others, so that regions do not learn how frequent it is. Source of the sum
  over several right answers: MIL-NCE (Miech et al. 2020, Eq. 1).

  The loss of a region is -log(p), or with q > 0 the generalized cross entropy
  (1 - p^q) / q (Zhang and Sabuncu 2018, Eq. 6). That asks less of regions for
  which no word of the caption is likely: captions do not name everything, and
  -log(p) would teach the sky of such a picture any word that is there.

  The result is the mean over the regions that exist, of valid pairs whose
  caption has a word, and over heads.

  Args:
    pictures: the parts of the pictures.
    captions: the words of the captions.
    logit_scale: see `contrastive`.
    valid: see `contrastive`.
    max_logit_scale: see `contrastive`.
    q: 0 to 1; see above. 1 is the mean absolute error.
    heads: see `of_regions`.
    block: number of pictures whose logits exist at once; see `contrastive`.
    mesh: see `contrastive`.
  """
  (regions, there), (words, shares) = pictures, captions
  own = (shares > 0) & valid[None]  # [u, b]
  count = own.sum(1)
  # NaN in what is not valid would pass into every gradient.
  words = jnp.where(count[:, None] > 0, words, 0)
  regions = jnp.where(valid[:, None, None], regions, 0)
  asked = there & own.any(0)[:, None]  # [b, k]
  # n_w of the others, as a summand of their logits.
  often = jnp.where(count > 0, jnp.log(jnp.maximum(count, 1.0)), EXCLUDED)
  scale = clamped_scale(logit_scale, max_logit_scale)

  def one(part):
    total = _words_of_regions(
      (unit(part[0]), asked, own.T), unit(part[1]), often, scale, q, block, mesh
    ).sum()
    return total / jnp.maximum(1.0, asked.sum(dtype=jnp.float32))

  parts = parts_of(regions, heads), parts_of(words, heads)
  return lax.map(one, parts).mean()


def _words_of_regions(pictures, words, often, scale, q, block, mesh):
  """Returns [b]: the sum of the losses of each picture's regions."""

  @jax.checkpoint
  def find(pictures, words, often, scale):
    regions, asked, own = pictures
    logits = scale * jnp.einsum(
      "bke,ue->bku", regions, words, precision=lax.Precision.HIGHEST
    )
    own = own[:, None]
    right = jnp.where(own, logits, EXCLUDED)
    wrong = jnp.where(own, EXCLUDED, logits + often[None, None])
    right, wrong = (jax.nn.logsumexp(x, -1) for x in (right, wrong))
    loss = jax.nn.softplus(wrong - right)  # -log(p)
    if q:
      loss = -jnp.expm1(-q * loss) / q
    return jnp.where(asked, loss, 0).sum(-1)

  if not 0 < block < len(pictures[0]):
    return find(pictures, words, often, scale)

  size = block
  if mesh is not None and mesh.size > 1:
    size = block // mesh.size

  def in_blocks(pictures, *others):
    parts = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), pictures)
    return lax.map(lambda part: find(part, *others), parts).ravel()

  if size < block:
    split, whole = PartitionSpec(mesh.axis_names), PartitionSpec()
    in_blocks = jax.shard_map(
      in_blocks,
      mesh=mesh,
      in_specs=(split, whole, whole, whole),
      out_specs=split,
    )
  return in_blocks(pictures, words, often, scale)
