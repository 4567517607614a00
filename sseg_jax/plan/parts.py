"""Which part of the model a line of source belongs to."""

from collections.abc import Iterable
from typing import Any

OTHER = "other"
COLLECTIVES = "collectives"

# (part, end of the file's path, beginning of the function's name): the first
# row that fits any frame of the stack.
_RULES: tuple[tuple[str, str, str], ...] = (
  ("k-means", "pseudo_masks/kmeans.py", ""),
  ("optimizer", "sseg_jax/optim.py", ""),
  ("text tower", "models/text.py", ""),
  # UperNet's head; its ViT is the backbone.
  ("head", "models/upernet.py", "UperNet."),
  ("backbone", "models/upernet.py", ""),
  ("projections", "models/layers.py", "Projection."),
  ("pooling", "models/pooling.py", ""),
  ("pooling", "models/layers.py", "RegionLayer."),
  ("backbone", "models/swin.py", ""),
  ("backbone", "models/swin_attention.py", ""),
  ("backbone", "models/resnet.py", ""),
  ("backbone", "models/conv.py", ""),
  ("backbone", "models/vit_pyramid.py", ""),
  ("pixel decoder", "models/pixel_decoder.py", ""),
  ("decoder", "models/transformer.py", ""),
  ("masks", "models/maskformer.py", ""),
  ("matching", "sseg_jax/matching.py", ""),
  ("contrastive", "sseg_jax/contrastive.py", ""),
  ("contrastive", "sseg_jax/region_words.py", ""),
  ("mask loss", "sseg_jax/losses.py", ""),
  # Of the frozen network; the backbones that contain a ViT came before.
  ("teacher", "models/vit.py", ""),
  ("pseudo-masks", "pseudo_masks/", ""),
  ("optimizer", "optax/", ""),
)


def of_stack(stack: Iterable[tuple[str, str]]) -> str:
  """Returns the part that (file, function) frames belong to."""
  frames = [(file.replace("\\", "/"), function) for file, function in stack]
  for part, path, name in _RULES:
    for file, function in frames:
      fits = path in file if path.endswith("/") else file.endswith(path)
      if fits and function.startswith(name):
        return part
  return OTHER


def of_traceback(source_info: Any) -> str:
  """Returns the part of an equation of a jaxpr."""
  traceback = source_info.traceback
  if traceback is None:
    return OTHER
  return of_stack((f.file_name, f.function_name) for f in traceback.frames)
