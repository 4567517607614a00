"""Inference: from query embeddings and masks to class scores.

Pure functions, without geometry and without weights: `class_probabilities` says
what each query is, `combine` what each pixel is. `background` says which pixels
are background.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sseg_jax.default_config import COMBINERS
from sseg_jax.errors import InputError
from sseg_jax.models.layers import clamped_scale, unit
from sseg_jax.models.pooling import in_front


def class_embeddings(
  prompt_embeddings: Float[Array, "ct e"], classes: int
) -> Float[Array, "c e"]:
  """Averages un-normalised embeddings over templates, then normalises.

  GroupViT, `build_text_embedding`. (MaskCLIP normalises before the mean, too.)
  """
  e = prompt_embeddings.shape[-1]
  mean = prompt_embeddings.astype(jnp.float32).reshape(classes, -1, e).mean(1)
  return unit(mean)


def class_probabilities(
  query_embeddings: Float[Array, "b n e"],
  class_embeddings: Float[Array, "c e"],
  logit_scale: Float[Array, ""],
  members: Int[Array | np.ndarray, "g m"] | None = None,
  *,
  max_logit_scale: float,
) -> Float[Array, "b n _"]:
  """Softmax over classes of the scaled cosine, for each query (paper, Fig. 6).

  There is no "no object" class.

  Args:
    query_embeddings: of each picture's or window's queries.
    class_embeddings: unit length.
    logit_scale: logarithm of the scale, which is clamped here, where it is
      used, as GroupViT does.
    members: where classes have synonyms, the indices of the embeddings of each;
      the nearest of them counts. The result then has g columns instead of c.
    max_logit_scale: largest scale.
  """
  scale = clamped_scale(logit_scale, max_logit_scale)
  cosine = jnp.einsum(
    "bne,ce->bnc",
    unit(query_embeddings),
    class_embeddings,
    precision=jax.lax.Precision.HIGHEST,
  )
  if members is not None:
    cosine = cosine[..., jnp.asarray(members)].max(-1)
  return jax.nn.softmax(scale * cosine, axis=-1)


def combine(
  mask_logits: Float[Array, "b n h w"],
  probabilities: Float[Array, "b n c"],
  combiner: str,
) -> Float[Array, "b h w c"]:
  """Class scores of each pixel from masks s = sigmoid(logits) and p of queries.

  Args:
    mask_logits: of one decoder layer, at any resolution.
    probabilities: of each query, summing to one over all classes; any slice of
      the classes may be given.
    combiner: "mean" is sum_q p_q s_q / sum_q s_q, a distribution over
      classes. "sum" is MaskFormer's sum_q p_q s_q; with n queries it reaches up
      to n, so it needs other thresholds. "hard" takes p of the pixel's
      strongest query, as GroupViT does. "smallest" takes p of the smallest mask
      with s over one half, because a mask within another is in front; if there
      is no such mask, it takes the strongest query. "logits", for networks
      that classify pixels, is sum_q p_q times the logits, which is no score.
  """
  if combiner == "mean":
    # s / sum(s), written so that it stays finite when every s underflows.
    share = jax.nn.softmax(jax.nn.log_sigmoid(mask_logits), axis=1)
  elif combiner == "sum":
    share = jax.nn.sigmoid(mask_logits)
  elif combiner == "logits":
    share = mask_logits
  elif combiner == "hard":
    strongest = jnp.argmax(mask_logits, axis=1)  # [b, h, w]
    return jax.vmap(lambda p, q: p[q])(probabilities, strongest)
  elif combiner == "smallest":
    chosen = in_front(mask_logits)  # [b, h, w]
    return jax.vmap(lambda p, q: p[q])(probabilities, chosen)
  else:
    raise unknown_combiner(combiner)
  return jnp.einsum("bnhw,bnc->bhwc", share, probabilities)


def unknown_combiner(combiner: str) -> InputError:
  """The error for a combiner that does not exist."""
  return InputError(
    f"combiner={combiner!r} is unknown; use one of {', '.join(COMBINERS)}"
  )
