"""Other systems, scored by the same code as the method.

`BASELINES` are controls with the weights of a trained run. `SYSTEMS`, and those
in `trained.py` that are trained here, are what `evaluate --system` knows.
Reading them loads no network.
"""

import pkgutil
from collections.abc import Callable
from typing import Any

from sseg_jax.baselines import trained
from sseg_jax.errors import InputError

__all__ = ["BASELINES", "SYSTEMS", "find", "system"]

# Name -> a class, called as `Class(params, model_state, config, **settings)`
# with the weights of a trained run. It has the methods of `Segmenter`.
BASELINES = {
  "global_words": "sseg_jax.baselines.global_words:GlobalWords",
  "b1": "sseg_jax.baselines.b1_of_run:MasksThenRun",
}

# Name -> a function from `options.Options` to a `by_protocol.System`, or to
# what has `labels_of(samples, benchmark)`.
SYSTEMS = {
  "predictions": "sseg_jax.baselines.predictions:Predictions.build",
  "clip": "sseg_jax.baselines.clip:DenseClip.build",
  "maskclip": "sseg_jax.baselines.maskclip:MaskClip.build",
  "groupvit": "sseg_jax.baselines.groupvit:GroupVit.build",
  "b1": "sseg_jax.baselines.b1:MasksThenClip.build",
}
# System -> the fields of `options.Options` that it has.
OPTIONS = {
  "predictions": ("predictions",),
  "clip": ("weights",),
  "maskclip": ("weights", "key_smoothing", "prompt_denoising"),
  "groupvit": ("weights",),
  "b1": ("weights", "mask_generator", "mask_weights", "k"),
}


def find(name: str) -> Callable[..., Any]:
  """Returns the class of a baseline; InputError lists the known names."""
  if name not in BASELINES:
    raise InputError(
      f"baseline={name!r} is unknown; use one of {', '.join(BASELINES)}"
    )
  return pkgutil.resolve_name(BASELINES[name])


def system(name: str) -> Callable[[Any], Any]:
  """Returns what builds a system; InputError lists the known names."""
  if name not in SYSTEMS:
    raise InputError(
      f"system={name!r} is unknown; use one of {trained.METHOD},"
      f" {', '.join([*trained.TRAINED, *SYSTEMS])}"
    )
  return pkgutil.resolve_name(SYSTEMS[name])
