"""The background threshold of a benchmark, apart from its scored pictures."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from sseg_jax import evaluation
from sseg_jax.benchmarks.sample import Benchmark, Sample
from sseg_jax.errors import InputError
from sseg_jax.inference import background, protocols
from sseg_jax.runtime.progress_bar import counter


class Apart:
  """Refuses to score a picture that the threshold was chosen on."""

  def __init__(self, name: str):
    self._name = name
    self._chosen: dict[bytes, str] = {}

  def choose(self, sample: Sample) -> None:
    """Takes a picture that the threshold is chosen on."""
    self._chosen[self._digest(sample)] = sample.id

  def score(self, sample: Sample) -> None:
    """Raises InputError if the threshold was chosen on this picture."""
    if self._chosen and (same := self._chosen.get(self._digest(sample))):
      raise InputError(
        f"{self._name}: picture {sample.id} is scored, and the background"
        f" threshold was chosen on it ({same}); take it out of one of the two"
        " splits, or give --background_threshold"
      )

  def facts(
    self, rule: background.Threshold | None, choice: dict[str, Any] | None
  ) -> dict[str, Any]:
    """Returns a threshold and the pictures behind it, as JSON can hold them."""
    return {
      "rule": rule and dataclasses.asdict(rule),
      "choice": choice,
      "chosen": {key.hex(): name for key, name in self._chosen.items()},
    }

  def restore(
    self, facts: Mapping[str, Any]
  ) -> tuple[background.Threshold | None, dict[str, Any] | None]:
    """Goes on from what `facts` returned; returns the threshold and choice."""
    self._chosen = {bytes.fromhex(k): v for k, v in facts["chosen"].items()}
    rule = facts["rule"] and background.Threshold(**facts["rule"])
    return rule, facts["choice"]

  def _digest(self, sample: Sample) -> bytes:
    return hashlib.sha256(sample.image.tobytes()).digest()


def find(
  segmenter: Any,
  benchmark: Benchmark,
  training: Benchmark | None,
  protocol: protocols.Protocol,
  apart: Apart,
  **how: Any,
) -> tuple[background.Threshold | None, dict[str, Any] | None]:
  """Finds the background threshold of a benchmark.

  Args:
    segmenter: what is scored.
    benchmark: see `benchmarks`.
    training: the pictures that a threshold may be chosen on.
    protocol: what the segmenter does; its own threshold comes first.
    apart: gets the pictures that it is chosen on.
    **how: `fixed`, `metadata`, `templates` and `max_images` of
      `evaluation.find_threshold`.

  Returns:
    The threshold, None if there is none; and what `evaluation.choose_threshold`
    returns if it was chosen.
  """
  own = protocol.threshold(benchmark.name)
  if not benchmark.has_background or hasattr(segmenter, "labels_of"):
    return None, None
  if own is not None:
    return background.Threshold(own, f"protocol {protocol.name}"), None
  title = f"{benchmark.name}, threshold"
  with counter("pictures", title=title) as progress:
    return evaluation.find_threshold(
      segmenter,
      benchmark,
      training,
      observe=apart.choose,
      progress=progress,
      **how,
    )
