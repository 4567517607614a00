"""Retrieval between held-out images and captions."""

import numpy as np
from jaxtyping import Float


def retrieval(
  image_embeddings: Float[np.ndarray, "b e"],
  text_embeddings: Float[np.ndarray, "b e"],
) -> dict[str, float]:
  """Ranks b pairs against each other by cosine; see `ranks`."""
  unit = [
    e / np.maximum(np.linalg.norm(e, axis=-1, keepdims=True), 1e-12)
    for e in (
      np.asarray(image_embeddings, np.float32),
      np.asarray(text_embeddings, np.float32),
    )
  ]
  return ranks(unit[0] @ unit[1].T)


def ranks(similarity: Float[np.ndarray, "b b"]) -> dict[str, float]:
  """Ranks b pairs against each other, in both directions.

  Args:
    similarity: of each picture, a row, to each text, a column; pair i is at
      row and column i.

  Returns:
    R@1, R@5 and R@10 in 0..100 and the median rank (from 1) of the right text
    for each image (`image_to_text_…`) and of the right image for each text. On
    a tie the right one ranks last, so equal embeddings do not score well.
  """
  # The right one counts itself, so ranks start at 1. NaN ranks last.
  right = np.diagonal(similarity)
  result = {}
  for name, rows in (
    ("image_to_text", similarity),
    ("text_to_image", similarity.T),
  ):
    ranks = len(rows) - (rows < right[:, None]).sum(1)
    for k in (1, 5, 10):
      result[f"{name}_R@{k}"] = 100 * float((ranks <= k).mean())
    result[f"{name}_median_rank"] = float(np.median(ranks))
  return result
