"""The registry of cases. Reading it loads neither JAX nor torch."""

import pkgutil
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from sseg_jax.bench.timing import Case


class Entry(NamedTuple):
  """A case by name.

  Attributes:
    target: "module:function" below `sseg_jax.bench`. The function is called as
      `function(small, **arguments)` and returns a `timing.Case`.
    what: one line for `--help`.
    arguments: for the function.
    for_gpus: whether it is too slow for a CPU at full size; it then runs only
      if it is named.
    takes_batch: whether the function also takes `batch_size`, and `alone`,
      which leaves out torch.
  """

  target: str
  what: str
  arguments: Mapping[str, Any] = MappingProxyType({})
  for_gpus: bool = False
  takes_batch: bool = False

  def __call__(self, small: bool, **chosen: Any) -> Case:
    """Builds the case; `small` takes tiny sizes."""
    function = pkgutil.resolve_name(f"sseg_jax.bench.{self.target}")
    return function(small, **self.arguments, **chosen)


CASES = {
  "kmeans": Entry(
    "clustering:kmeans_lloyd",
    "K-means from the same start, against scikit-learn's image by image",
  ),
  "vit": Entry(
    "clustering:vit_forward",
    "the frozen network, against transformers' with the same weights",
  ),
  "fused": Entry(
    "clustering:fused",
    "network and K-means under one jit, against one after the other",
  ),
  "cached": Entry(
    "stored_masks:cached",
    "a training step that clusters, against one that reads stored masks",
  ),
  "assignment": Entry(
    "losses:assignment",
    "Hungarian matching of a batch, against scipy image by image",
  ),
  "contrastive": Entry(
    "losses:contrastive",
    "the contrastive loss and its gradients, against torch",
  ),
  "prepare": Entry(
    "ingest:prepare",
    "from pictures to records, against img2dataset's resize of the same",
  ),
  "input": Entry(
    "feeding:train_input",
    "training input from stored JPEGs, against a DataLoader of torch and"
    " TensorFlow's decoding alone",
  ),
  "step_parts": Entry(
    "parts:step", "a training step, and each of its parts alone"
  ),
  "train_step_vs_maskformer": Entry(
    "maskformer:train_step",
    "training the mask network, against transformers' MaskFormer",
  ),
  "latency_vs_maskformer": Entry(
    "maskformer:inference",
    "masks of one picture, against transformers' MaskFormer",
  ),
  "throughput_vs_maskformer": Entry(
    "maskformer:inference",
    "masks of eight pictures, against transformers' MaskFormer",
    {"b": 8},
  ),
  "segment_vs_groupvit": Entry(
    "groupvit:segment",
    "a picture and words, against transformers' GroupViT",
  ),
  "evaluate_vs_groupvit": Entry(
    "protocol:evaluate",
    "a benchmark of 81 labels from its files on, against GroupViT there",
  ),
  "export": Entry(
    "exports:segment",
    "a picture and words in each exported format, and by GroupViT",
  ),
  "attention": Entry(
    "paper_masks:attention",
    "the frozen network's attention: in one kernel, in steps, torch's",
    for_gpus=True,
  ),
  "pseudo_masks_224": Entry(
    "paper_masks:pseudo_masks",
    "DINO ViT-S/8 and K-means on 128 pictures of 224 px; for GPUs",
    {"side": 224},
    for_gpus=True,
    takes_batch=True,
  ),
  "pseudo_masks_448": Entry(
    "paper_masks:pseudo_masks",
    "the same at 448 px; for GPUs",
    {"side": 448},
    for_gpus=True,
    takes_batch=True,
  ),
  "paper_step": Entry(
    "paper:step",
    "the step of configs/cc26m.py, against torch's, compiled; for GPUs",
    for_gpus=True,
    takes_batch=True,
  ),
}
FOR_GPUS = tuple(name for name, case in CASES.items() if case.for_gpus)
CHOOSE = tuple(name for name, case in CASES.items() if case.takes_batch)
