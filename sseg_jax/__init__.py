"""S-Seg: open-vocabulary semantic segmentation from captions, in JAX."""

import importlib
import warnings
from typing import Any

__version__ = "0.1.0"

# Modules that moved into folders, by their old names: scripts that were written
# before find them still.
_MOVED = {
  "ablation_runs": "study.runs",
  "ablation_table": "study.table",
  "api": "inference.api",
  "best": "checkpoints.best",
  "caching": "pseudo_masks.caching",
  "checkpoint": "checkpoints.checkpoint",
  "compiled_step": "runtime.compiled_step",
  "integrity": "checkpoints.integrity",
  "named_arrays": "checkpoints.named_arrays",
  "palette": "images.palette",
  "peers": "runtime.multihost",
  "pictures": "images.reader",
  "provenance": "runtime.provenance",
  "scoring": "inference.scoring",
  "segmenter": "inference.segmenter",
  "stopping": "runtime.preemption",
  "supervised": "tasks.supervised",
  "visualize": "images.drawing",
  "watchdog": "runtime.watchdog",
  "windows": "inference.sliding_window",
}


def __getattr__(name: str) -> Any:
  # `sseg_jax.load` without making every `import sseg_jax` pay for JAX.
  if name == "load":
    from sseg_jax.inference import api

    return api.load
  if name in _MOVED:
    warnings.warn(
      f"sseg_jax.{name} is sseg_jax.{_MOVED[name]} now",
      DeprecationWarning,
      stacklevel=2,
    )
    return importlib.import_module(f"sseg_jax.{_MOVED[name]}")
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
