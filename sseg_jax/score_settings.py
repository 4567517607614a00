"""How scores are computed, whatever is scored: `Settings` and `Origin`."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sseg_jax.benchmarks.sample import Benchmark
from sseg_jax.errors import InputError
from sseg_jax.field_rules import SCALES
from sseg_jax.inference import background, protocols

_FLAGS = {"class_names": "classes"}


@dataclasses.dataclass(frozen=True)
class Settings:
  """How a checkpoint is scored. None takes what the checkpoint's config has.

  Attributes:
    data_root: holds `VOCdevkit/` and `coco/`.
    split: the split that is scored.
    class_names: instead of those of the benchmarks, in label order.
    background_threshold: of all benchmarks.
    choose_threshold_split: the split on which thresholds are chosen anew.
    threshold_images: how many pictures a threshold is chosen on.
    templates: a key of `prompts.TEMPLATES`.
    combiner: one of `default_config.COMBINERS`.
    synonyms: a key of `synonyms.SYNONYMS`.
    refine: one of `field_rules.REFINEMENTS`.
    image_size: short side and window.
    max_images: of each benchmark; 0 for all.
    out: folder for result.json, pictures and curves.
    pictures: how many samples of each benchmark are drawn to `out`.
    store: whether chosen thresholds are stored with the checkpoint.
    protocol: a key of `protocols.PROTOCOLS`. It fixes class names, templates,
      synonyms, size, PAMR and, for most, thresholds, which may not be given
      then.
    pamr: refine the scores of windows by PAMR.
    flip: average the scores with those of the mirrored picture.
    scales: average the scores over these factors of `image_size`.
    observer: gets each benchmark and returns an `observe` of
      `evaluation.evaluate`, with `unfinished` an `unfinished.Part`; None for
      none.
    unfinished: folder in which counts are kept meanwhile, so that the same
      call goes on after a stop. It is not emptied at the end
      (`unfinished.remove`). None keeps nothing.
  """

  data_root: str = "."
  split: str = "val"
  class_names: tuple[str, ...] | None = None
  background_threshold: float | None = None
  choose_threshold_split: str | None = None
  threshold_images: int | None = None
  templates: str | None = None
  combiner: str | None = None
  synonyms: str | None = None
  refine: str | None = None
  image_size: int | None = None
  max_images: int = 0
  out: Path | None = None
  pictures: int = 8
  store: bool = True
  protocol: str | None = None
  pamr: bool | None = None
  flip: bool | None = None
  scales: tuple[float, ...] | None = None
  observer: Callable[[Benchmark], Any] | None = None
  unfinished: Path | None = None

  def __post_init__(self):
    """Raises InputError for values that no checkpoint can be scored with."""
    if self.max_images < 0:
      raise InputError(f"max_images={self.max_images}: give 0 for all, or more")
    background.check_flag(self.background_threshold)
    if self.choose_threshold_split == self.split:
      raise InputError(
        f"choose_threshold_split={self.split} is the split that is scored; a"
        " threshold comes from other pictures, e.g. of train"
      )
    if self.scales is not None and not SCALES.fits(self.scales):
      given = ",".join(f"{scale:g}" for scale in self.scales)
      raise InputError(
        f"scales={given}: give {SCALES.wanted}, e.g. 0.75,1,1.25"
      )
    if self.protocol is not None:
      self._check_protocol(protocols.find(self.protocol))

  def _check_protocol(self, protocol: protocols.Protocol) -> None:
    """Raises InputError for what the protocol fixes and is given as well."""
    fixed = ["class_names", "templates", "synonyms", "image_size"]
    fixed += ["pamr", "flip", "scales"]
    if protocol.has_thresholds:
      fixed += ["choose_threshold_split", "threshold_images"]
    wrong = [name for name in fixed if getattr(self, name) is not None]
    if wrong:
      flags = ", ".join(f"--{_FLAGS.get(name, name)}" for name in wrong)
      raise InputError(
        f"{flags}: protocol={protocol.name} fixes this; leave out {flags}, or"
        " --protocol"
      )

  def options(self) -> dict[str, Any]:
    """Returns what `protocols.own` takes, with its defaults."""
    return {
      "pamr": bool(self.pamr),
      "flip": bool(self.flip),
      "scales": tuple(self.scales or (1.0,)),
    }


@dataclasses.dataclass(frozen=True)
class Origin:
  """What a system brings to its scores.

  Attributes:
    templates: a key of `prompts.TEMPLATES`, or templates.
    fields: of its results: its name and where it comes from.
    threshold: of the background, for all benchmarks.
    metadata: of a checkpoint, with stored thresholds.
    threshold_images: how many pictures a threshold is chosen on.
    settings: more that its scores depend on, as JSON can hold it. It decides
      with the other attributes whether unfinished counts are the same.
  """

  templates: str | Sequence[str]
  fields: Mapping[str, Any]
  threshold: float | None = None
  metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  threshold_images: int = 100
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
