"""Segmenting a picture with words, against transformers' GroupViT.

The task is the same; the networks differ, and each has its published size.
GroupViT (arXiv:2202.11094) is a ViT-S/16 that groups its tokens. All weights
are random.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from sseg_jax import default_config
from sseg_jax.bench.packages import need
from sseg_jax.bench.timing import Case
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.inference.segmenter import SSegSegmenter
from sseg_jax.models import sseg

_WORDS = tuple(f"word {i}" for i in range(20))
# Fields of ours and of theirs with --small.
_OURS: dict[str, Any] = {"backbone": "conv_small", "num_queries": 12}
_THEIRS: dict[str, Any] = {
  "text_config": {"num_hidden_layers": 1},
  "vision_config": {
    "depths": [1, 1, 1],
    "num_group_tokens": [8, 4, 0],
    "num_output_groups": [8, 4, 4],
  },
}


def segment(small: bool) -> Case:
  """Finds the best of twenty words for each pixel; encodes the words anew."""
  side = 224
  c = default_config.get_config()
  c.dtype = "float32"
  c.evaluate.update(image_size=side, stride=side, refine="none")
  if small:
    c.model.update(_OURS)
    c.text.layers = 1
  params, state = sseg.init(c, 0)
  segmenter = SSegSegmenter(params, state, c)
  words = ClassSet(_WORDS)
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (1, side, side, 3), np.uint8)

  def ours():
    segmenter.set_weights(params, state)  # clears the cached word embeddings
    return segmenter.winners_many(image, words)[1]

  theirs, module = reference(small, image, len(_WORDS))
  shapes = ours().shape, tuple(theirs().shape)
  assert shapes[0] == shapes[1], shapes
  counts = (
    sum(x.size for x in jax.tree.leaves(params)),
    sum(p.numel() for p in module.parameters()),
  )
  return Case(
    f"a picture of {side} px and {len(_WORDS)} words to the best word of each"
    f" pixel, float32; {c.model.backbone} against GroupViT's ViT-S/16",
    {"sseg_jax": ours, "GroupViT, transformers (torch)": theirs},
    f"{counts[0]:,} parameters and {counts[1]:,}",
  )


def reference(
  small: bool, image: np.ndarray, words: int
) -> tuple[Callable[[], Any], Any]:
  """Returns GroupViT on pictures [b, h, w, 3] and drawn words, and the network.

  The function encodes the words anew and returns the best of each pixel.
  """
  torch, transformers = need("torch"), need("transformers")
  torch.manual_seed(0)
  module = transformers.GroupViTModel(
    transformers.GroupViTConfig(**(_THEIRS if small else {}))
  ).eval()
  pixels = torch.from_numpy(
    ((image / 255 - 0.45) / 0.226).transpose(0, 3, 1, 2).astype(np.float32)
  )
  rng = np.random.default_rng(0)
  tokens = torch.from_numpy(rng.integers(1, 49_000, (words, 77)))

  def run():
    with torch.inference_mode():
      found = module(
        input_ids=tokens, pixel_values=pixels, output_segmentation=True
      )
    return found.segmentation_logits.argmax(1)

  return run, module
