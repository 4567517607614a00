"""Other systems as `Segmenter`s, scored by the same code as the method.

`BASELINES` is the registry. Reading it loads no network.
"""

import pkgutil
from collections.abc import Callable
from typing import Any

from sseg_jax.errors import InputError

__all__ = ["BASELINES", "find"]

# Name -> a class, called as `Class(params, model_state, config, **settings)`
# with the weights of a trained run. It has the methods of `Segmenter`.
BASELINES = {
  "global_words": "sseg_jax.baselines.global_words:GlobalWords",
}


def find(name: str) -> Callable[..., Any]:
  """Returns the class of a baseline; InputError lists the known names."""
  if name not in BASELINES:
    raise InputError(
      f"baseline={name!r} is unknown; use one of {', '.join(BASELINES)}"
    )
  return pkgutil.resolve_name(BASELINES[name])
