"""Scores of other systems on benchmarks: `evaluate --system=NAME`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sseg_jax import baselines, files, prompts
from sseg_jax.baselines.options import Options
from sseg_jax.errors import InputError
from sseg_jax.inference import protocols
from sseg_jax.inference.by_protocol import ByProtocol
from sseg_jax.models import hf_files, weights
from sseg_jax.scores import Origin, Settings, open_all, score_all

_SIZE = 448  # short side and window without a protocol
# Without a protocol; a system that is not here has "simple".
_TEMPLATES = {"maskclip": "maskclip"}


def run(
  name: str, specs: Sequence[str], settings: Settings, options: Options
) -> dict[str, dict[str, Any]]:
  """Scores a system of `baselines.SYSTEMS`.

  Args:
    name: a key of `baselines.SYSTEMS`.
    specs: benchmarks, see `benchmarks.open_benchmark`.
    settings: see `scores.Settings`.
    options: of the system.

  Returns:
    As `checkpoint_scores.run`, with the `system` and its `options`. InputError
    for an unknown system and for weights that are not its own.
  """
  build = baselines.system(name)
  _check(settings, name)
  if settings.protocol:
    protocol = protocols.find(settings.protocol)
  else:
    size = settings.image_size or _SIZE
    templates = settings.templates or _TEMPLATES.get(name, "simple")
    prompts.templates(templates)  # which raises for an unknown one
    protocol = protocols.own(
      size, max(1, size // 2), templates, **settings.options()
    )
  opened = open_all(specs, settings)
  system = build(options)
  segmenter = (
    system if hasattr(system, "labels_of") else ByProtocol(system, protocol)
  )
  fields = {"system": name, "weights": options.weights or options.predictions}
  if options.weights:
    fields["weights_sha256"] = weights.sha256(hf_files.path_of(options.weights))
  given = dataclasses.asdict(options)
  if Path(files.expand(options.mask_weights)).is_file():
    given["mask_weights"] = weights.sha256(
      Path(files.expand(options.mask_weights))
    )
  origin = Origin(protocol.templates, fields, settings=given)
  return score_all(segmenter, opened, settings, origin, protocol)


def _check(settings: Settings, name: str) -> None:
  """Raises InputError for settings that a system does not have."""
  wrong = [
    f for f in ("combiner", "synonyms", "refine") if getattr(settings, f)
  ]
  if name == "predictions":
    names = (
      *("protocol", "pamr", "flip", "scales", "templates", "image_size"),
      "background_threshold",
    )
    wrong += [f for f in names if getattr(settings, f) is not None]
  if wrong:
    raise InputError(
      f"--{', --'.join(wrong)}: means nothing for --system={name}; leave it out"
    )
