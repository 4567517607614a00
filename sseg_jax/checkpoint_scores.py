"""Scores of a checkpoint on benchmarks: what `evaluate` does with its flags.

`scores.py` has what all systems share; `system_scores.py` scores the systems
that a checkpoint is compared with.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from sseg_jax.baselines import trained
from sseg_jax.checkpoints import checkpoint, named_arrays
from sseg_jax.inference import (
  background,
  fixed_classes,
  protocols,
  sources,
)
from sseg_jax.inference.by_protocol import ByProtocol
from sseg_jax.scores import Origin, Settings, open_all, score_all

__all__ = ["Settings", "run"]


def run(
  path: str, specs: Sequence[str], settings: Settings, system: str = ""
) -> dict[str, dict[str, Any]]:
  """Scores a checkpoint, and stores the thresholds that were chosen with it.

  Thresholds are stored only in a run's checkpoint that is used as its config
  says, with its own combiner, size and templates.

  Args:
    path: work directory, a step's folder, an exported folder, or a repository
      of the hub; see `inference.api.load`.
    specs: benchmarks, see `benchmarks.open_benchmark`.
    settings: see `Settings`.
    system: what the checkpoint must be (`baselines.trained`); "" for any.

  Returns:
    For each benchmark what `evaluation.evaluate` returns, where the threshold
    comes from, and the settings that were used.
  """
  opened = open_all(specs, settings)
  loaded = sources.read(path)
  config = loaded.config
  system = trained.system_of(config, system)
  network = fixed_classes.build(
    loaded.params,
    loaded.model_state,
    config,
    combiner=settings.combiner,
    image_size=settings.image_size,
    synonyms=settings.synonyms,
    refine=settings.refine,
  )
  fields = {
    "system": system,
    "checkpoint": str(path),
    "step": int(loaded.step),
    "weights_sha256": _sha256(loaded.params, loaded.model_state),
  }
  # What an evaluation depends on beside weights, as evaluate.regions.
  text = json.dumps(config.to_dict(), sort_keys=True, default=str)
  more = {"config": hashlib.sha256(text.encode()).hexdigest()}
  fields["refine"] = more["refine"] = network.refine
  if config.model.weights:  # tells the linear probes of two networks apart
    fields["backbone_weights"] = config.model.weights
  templates = settings.templates or config.evaluate.templates
  protocol = (
    protocols.find(settings.protocol)
    if settings.protocol
    else protocols.own(
      network.image_size, network.stride, templates, **settings.options()
    )
  )
  own = protocol.name == protocols.OWN
  named = bool(settings.protocol)
  segmenter: Any = network
  if not own:
    synonyms = "none" if named else network.synonyms
    segmenter = ByProtocol(network, protocol, synonyms)
  origin = Origin(
    protocol.templates,
    fields,
    threshold=None if named else config.evaluate.background_threshold,
    # Thresholds that were chosen in another way mean nothing here.
    metadata=loaded.metadata if own and not settings.refine else {},
    threshold_images=config.evaluate.threshold_images,
    settings=more,
  )
  results = score_all(segmenter, opened, settings, origin, protocol)
  changes = ("combiner", "image_size", "templates", "synonyms", "refine")
  as_config = not any(getattr(settings, name) for name in changes)
  if settings.store and own and as_config:
    chosen = {
      name: result["threshold_choice"]["threshold"]
      for name, result in results.items()
      if result["threshold_choice"]
    }
    counts = {b.name: len(b.class_names) for b, _ in opened}
    checkpoint.add_thresholds(
      loaded, background.to_store(chosen, counts, network.combiner)
    )
  return results


def _sha256(*trees: Any) -> str:
  """Returns a hash of all arrays with their names, wherever they came from."""
  found = hashlib.sha256()
  for tree in trees:
    for name, array in sorted(named_arrays.flat(tree).items()):
      found.update(name.encode())
      found.update(np.ascontiguousarray(array).tobytes())
  return found.hexdigest()
