"""What the image tower gives, before and after the projection."""

from typing import NamedTuple

from jaxtyping import Array


class ImageFeatures(NamedTuple):
  """What the image tower gives before anything is projected.

  Attributes:
    mask_logits: as in `ImageOutputs`.
    query_features: likewise.
    part_features: [b, k, d], features of the parts whose mean embeds the
      picture: the queries, or regions given in their place.
    counts: float32 [b, k], 1 for the parts that the mean counts, else 0.
  """

  mask_logits: Array
  query_features: Array
  part_features: Array
  counts: Array


class ImageOutputs(NamedTuple):
  """What the image tower gives. Embeddings are not of unit length.

  Attributes:
    mask_logits: float32 [layers, b, n, h/4, w/4], the last decoder layer last;
      in evaluation the last layer alone.
    query_features: [b, n, d], what a query is embedded from.
    query_embeddings: float32 [b, n, e], each query projected.
    part_embeddings: float32 [b, k, e], each part projected: the queries, or
      regions given in their place.
    image_embedding: float32 [b, e], for the contrastive loss.
    counts: float32 [b, k], 1 for the parts that exist, else 0.
  """

  mask_logits: Array
  query_features: Array
  query_embeddings: Array
  part_embeddings: Array
  image_embedding: Array
  counts: Array
