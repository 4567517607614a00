"""A tiny network on disk: the work directory of a run, and an export."""

import pathlib
from typing import Any

from test_evaluate import save_checkpoint

from sseg_jax.checkpoints import checkpoint, exported


def write(
  run: pathlib.Path,
  export: pathlib.Path,
  config: Any,
  template: str = "a {}.",
) -> None:
  """Writes both; the export's own threshold is 0.7, for two words."""
  save_checkpoint(run, config)
  loaded = checkpoint.load(run)
  export.mkdir(parents=True)
  fields = {
    "config": loaded.config,
    "words": ["cat"],
    "templates": [template],
    "thresholds": {
      "values": {"default": 0.7},
      "combiner": config.evaluate.combiner,
      "classes": {"default": 2},
    },
    "preprocessing": {},
    "step": loaded.step,
    "commit": None,
  }
  tree = {"params": loaded.params, "model_state": loaded.model_state}
  exported.save(export, tree, fields)
