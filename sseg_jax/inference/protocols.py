"""Protocols of evaluation by name: all that turns scores into an mIoU.

Scores of two protocols cannot be compared, so each result says its own. A
protocol fixes the size at which a picture is seen, the windows and their
average, the prompts, the names of the classes, and which pixels are background.

This module needs only NumPy.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from sseg_jax.errors import InputError

# Which pixels are background:
#   "window": the background is a class of its own, whose score in a window is 1
#     where the best score there is below min(threshold, best score of the
#     window), else 0. It is averaged and resized like the others; the highest
#     wins. GroupViT, segmentation/evaluation/group_vit_seg.py.
#   "constant": the background is a class whose score is the threshold.
#     TCL, segmentation/evaluation/tcl_seg.py.
#   "picture": the best score of the averaged, resized scores is below
#     min(threshold, best score of the picture); `background.apply_threshold`.
RULES = ("window", "constant", "picture")


@dataclasses.dataclass(frozen=True)
class Protocol:
  """One way to evaluate.

  Attributes:
    name: as `--protocol` takes it.
    source: whose protocol it is.
    keeps_ratio: whether `short_side` is the short side; else both sides are
      resized to it and the picture is seen whole.
    short_side: in pixels.
    long_side: the largest long side where the ratio is kept; then the short
      side may be less than `short_side`.
    window: side of the windows in pixels; `long_side` or more for one window.
    stride: of the windows in pixels.
    templates: a key of `prompts.TEMPLATES`.
    class_names: benchmark, without the number in its name, -> a key of
      `prompts.CLASS_NAMES`. Other benchmarks keep their names.
    rule: one of `RULES`.
    thresholds: of the background by benchmark, or one for all; {} where they
      are chosen on the training split.
    pamr: whether the scores of each window are refined; see `pamr.refined`.
    flip: whether scores are averaged with those of the mirrored picture.
    scales: factors of the size at which a picture is seen; scores are averaged
      over them. Windows keep their size.
  """

  name: str
  source: str
  keeps_ratio: bool
  short_side: int = 448
  long_side: int = 2048
  window: int = 448
  stride: int = 224
  templates: str = "simple"
  class_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
  rule: str = "picture"
  thresholds: Mapping[str, float] | float = dataclasses.field(
    default_factory=dict
  )
  pamr: bool = False
  flip: bool = False
  scales: Sequence[float] = (1.0,)

  @property
  def has_views(self) -> bool:
    """Whether a picture is seen more than once, or not at its size."""
    return self.flip or tuple(self.scales) != (1.0,)

  def views(self) -> list[tuple["Protocol", bool]]:
    """Returns the protocol of each view, and whether the view is mirrored.

    As mmsegmentation's test-time augmentation, `img_ratios` and `flip`.
    """
    found = []
    for scale in self.scales:
      one = dataclasses.replace(
        self,
        short_side=max(1, round(scale * self.short_side)),
        long_side=max(1, round(scale * self.long_side)),
        flip=False,
        scales=(1.0,),
      )
      found += [(one, False)] + [(one, True)] * self.flip
    return found

  @property
  def has_thresholds(self) -> bool:
    """Whether the protocol itself has background thresholds."""
    return bool(self.thresholds)

  def threshold(self, benchmark: str) -> float | None:
    """Returns the background threshold of a benchmark, if there is one."""
    if isinstance(self.thresholds, float):
      return self.thresholds
    return self.thresholds.get(benchmark)

  def names_of(self, benchmark: str) -> str | None:
    """Returns the key of `prompts.CLASS_NAMES` of a benchmark, if any."""
    return self.class_names.get(benchmark.rstrip("0123456789"))

  def settings(self) -> dict[str, Any]:
    """Returns all of it as JSON can hold it, for results."""
    return dataclasses.asdict(self)

  def line(self) -> str:
    """Returns what it fixes as a line of text."""
    if self == MADE_ELSEWHERE:
      return f"protocol {self.name}: label maps that were made elsewhere"
    if self.keeps_ratio and self.window >= self.long_side:
      seen = (
        f"short side {self.short_side}, long side at most {self.long_side},"
        " seen whole"
      )
    elif self.keeps_ratio:
      seen = (
        f"short side {self.short_side}, windows of {self.window} every"
        f" {self.stride} averaged"
      )
    else:
      seen = f"pictures resized to {self.short_side}x{self.short_side}"
    seen += "; scores refined by PAMR" * self.pamr
    if self.has_views:
      sizes = ", ".join(f"{scale:g}" for scale in self.scales)
      seen += f"; averaged over views at scales {sizes}"
      seen += ", each also mirrored" * self.flip
    rules = {
      "window": "background where a window's best score is below",
      "constant": "background is a class of constant score",
      "picture": "background where a picture's best score is below",
    }
    if isinstance(self.thresholds, float):
      values = f" {self.thresholds:g}"
    elif self.thresholds:
      values = " " + ", ".join(
        f"{v:g} ({k})" for k, v in self.thresholds.items()
      )
    else:
      values = " a threshold chosen on other pictures"
    return (
      f"protocol {self.name}: {seen}; templates {self.templates}; class names"
      f" of {self.source}; {rules[self.rule]}{values}"
    )


_GROUPVIT_NAMES = {"voc": "voc", "context": "context", "coco": "coco"}
_MASKCLIP_NAMES = {
  "voc": "voc_maskclip",
  "context": "context_maskclip",
  "coco": "coco",
}
_MMSEG_NAMES = {
  "voc": "voc_original",
  "context": "context_original",
  "coco": "coco",
}

PROTOCOLS = {
  # segmentation/configs/_base_/datasets, configs/default.yml.
  "groupvit": Protocol(
    "groupvit",
    "GroupViT",
    keeps_ratio=True,
    class_names=_GROUPVIT_NAMES,
    rule="window",
    thresholds={"voc": 0.95, "context": 0.35, "coco": 0.95},
  ),
  # README.md, without PAMR: one threshold for all benchmarks.
  "tcl": Protocol(
    "tcl",
    "TCL",
    keeps_ratio=True,
    templates="custom",
    class_names=_MMSEG_NAMES,
    rule="constant",
    thresholds=0.5,
  ),
  # configs/eval.yml: its figures in the tables of other papers are of this one.
  "tcl_pamr": Protocol(
    "tcl_pamr",
    "TCL",
    keeps_ratio=True,
    templates="custom",
    class_names=_MMSEG_NAMES,
    rule="constant",
    thresholds=0.4,
    pamr=True,
  ),
  # The paper, section 4.1: "we set the input resolution to 448x448", and a
  # threshold on the largest class probability, whose value it does not say.
  "square448": Protocol(
    "square448",
    "GroupViT",
    keeps_ratio=False,
    class_names=_GROUPVIT_NAMES,
  ),
  # configs/maskclip/maskclip_vit16_512x512_voc12aug_20.py and the one for COCO:
  # img_scale (2048, 512), and mode "whole" of _base_/models/maskclip_vit16.py.
  "maskclip": Protocol(
    "maskclip",
    "MaskCLIP",
    keeps_ratio=True,
    short_side=512,
    window=2048,
    stride=2048,
    templates="maskclip",
    class_names=_MASKCLIP_NAMES,
  ),
  # configs/maskclip/maskclip_vit16_520x520_pascal_context_59.py: img_scale
  # (520, 520).
  "maskclip_context": Protocol(
    "maskclip_context",
    "MaskCLIP",
    keeps_ratio=True,
    short_side=520,
    long_side=520,
    window=520,
    stride=520,
    templates="maskclip",
    class_names=_MASKCLIP_NAMES,
  ),
}
# Without a protocol: a checkpoint is seen as its config says, with GroupViT's
# resize, and the background is decided once for the whole picture.
OWN, OWN_PAMR, OWN_VIEWS = "own", "own_pamr", "own_views"
OWN_PAMR_VIEWS = "own_pamr_views"


# Of label maps that somebody gives: only they know what was done.
MADE_ELSEWHERE = Protocol(
  "predictions", "the benchmark", keeps_ratio=True, short_side=0, window=0
)


def find(name: str) -> Protocol:
  """Returns a protocol; InputError lists the known names."""
  if name not in PROTOCOLS:
    raise InputError(
      f"protocol={name!r} is unknown; use one of {', '.join(PROTOCOLS)}"
    )
  return PROTOCOLS[name]


def own(
  image_size: int,
  stride: int,
  templates: str,
  *,
  pamr: bool = False,
  flip: bool = False,
  scales: tuple[float, ...] = (1.0,),
) -> Protocol:
  """Returns what is done without a protocol; its name says which options."""
  one = Protocol(
    OWN_PAMR if pamr else OWN,
    "the benchmark",
    keeps_ratio=True,
    short_side=image_size,
    window=image_size,
    stride=stride,
    templates=templates,
    pamr=pamr,
    flip=flip,
    scales=scales,
  )
  if not one.has_views:
    return one
  name = OWN_PAMR_VIEWS if pamr else OWN_VIEWS
  return dataclasses.replace(one, name=name)
