"""S-Seg: open-vocabulary semantic segmentation from captions, in JAX."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
  # `sseg_jax.load` without making every `import sseg_jax` pay for JAX.
  if name == "load":
    from sseg_jax.inference import api

    return api.load
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
