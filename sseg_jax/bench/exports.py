"""Exported files beside the jitted network and transformers' GroupViT."""

import importlib.util
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sseg_jax import default_config
from sseg_jax.bench import groupvit
from sseg_jax.bench.timing import Case
from sseg_jax.checkpoints import checkpoint
from sseg_jax.exporting import folder, formats, source, verify, write
from sseg_jax.models import sseg

_WORDS = tuple(f"word {i}" for i in range(20))
_SMALL: dict[str, Any] = {
  "backbone": "conv_tiny",
  "num_queries": 12,
  "decoder_layers": 1,
  "ffn_dim": 64,
}


def segment(small: bool) -> Case:
  """A picture and words in each exported format, and by GroupViT."""
  side = 224  # GroupViT takes no other
  c = default_config.get_config()
  c.dtype = "float32"
  c.evaluate.update(image_size=side, stride=side, refine="none")
  if small:
    c.model.update(_SMALL)
    c.text.layers = 1
  params, state = sseg.init(c, 0)
  made = source.make(
    checkpoint.Loaded(c.to_dict(), params, state, 0, {}), words=_WORDS
  )
  towers = made.towers("none")
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (1, side, side, 3)).astype(np.float32)
  tokens = made.segmenter._tokenizer(
    [made.templates[0].replace("{}", word) for word in _WORDS]
  )[:, None]
  weights = jax.device_put(towers.weights)
  embed = jax.jit(towers.embed_classes)

  def jitted():
    classes = embed(weights, tokens)
    return np.asarray(towers.segment_here(image, classes, np.float32(0))[1])

  ways, equal = {"sseg_jax, jitted": jitted}, []
  for name, kind in formats.FORMATS.items():
    if kind.missing():
      continue
    ways[name] = way = _by_file(made, towers, name, tokens, image)
    equal.append(f"{name} {100 * (way() == jitted()).mean():.2f} %")
  if all(map(importlib.util.find_spec, ("torch", "transformers"))):
    theirs, _ = groupvit.reference(small, image, len(_WORDS))
    ways["GroupViT, transformers (torch)"] = theirs
  return Case(
    f"a picture of {side} px and {len(_WORDS)} words to the best word of each"
    f" pixel, float32, {c.model.backbone}",
    ways,
    f"labels equal the jitted network's: {', '.join(equal)}",
  )


def _by_file(made, towers, name, tokens, image) -> Callable[[], np.ndarray]:
  """Writes a format, and returns its run on the picture."""
  part = Path(tempfile.mkdtemp())
  fields = folder.fields(made, "none")
  formats.FORMATS[name].write(towers, part, fields)
  folder.add_runner(part, name, fields["context_length"])
  write.save_fields(part, fields)
  embed, rest = verify.module(part).load(part)

  def run():
    classes = np.asarray(embed(tokens))
    return np.asarray(rest(image, classes, np.float32(0))[1])

  weakref.finalize(run, shutil.rmtree, part, ignore_errors=True)
  return run
