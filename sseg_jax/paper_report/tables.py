"""The figures that the paper prints, and the rows of its tables 2 to 4."""

from collections.abc import Mapping
from typing import Any, NamedTuple

Figures = tuple[float | None, float | None, float | None]


class Row(NamedTuple):
  """A row of a table.

  Attributes:
    name: as the paper has it.
    system: the key that `--system` takes; "" where nothing here makes the row.
    printed: mIoU on VOC, Context and COCO, as printed; None for no figure.
    start: what the name of the backbone's weights begins with, if that tells
      two rows of a system apart.
  """

  name: str
  system: str
  printed: Figures
  start: str = ""

  def made(self, result: Mapping[str, Any]) -> bool:
    """Whether a result of `evaluate` belongs to this row."""
    weights = str(result.get("backbone_weights", ""))
    return bool(
      self.system
      and result["system"] == self.system
      and weights.startswith(self.start)
    )


class Table(NamedTuple):
  """A table of the paper.

  Attributes:
    title: with its number.
    benchmarks: the benchmarks of the columns.
    rows: from top to bottom.
  """

  title: str
  benchmarks: tuple[str, str, str]
  rows: tuple[Row, ...]


_WITH = ("voc", "context", "coco")
_WITHOUT = ("voc20", "context59", "coco80")
TABLES = (
  Table(
    "Table 2: background included",
    _WITH,
    (
      Row(
        "linearly probed MoCo v3", "linear_probe", (34.3, 21.3, None), "moco_v3"
      ),
      Row("linearly probed DINO", "linear_probe", (39.1, 20.4, None), "dino_"),
      Row("CLIP", "clip", (13.5, 8.1, 5.9)),
      Row("MaskCLIP", "maskclip", (26.8, 22.8, 12.8)),
      Row("ViL-Seg", "", (34.4, 16.3, 16.4)),
      Row("CLIPpy", "", (52.2, None, None)),
      Row("GroupViT", "groupvit", (50.8, 23.7, 27.5)),
      Row("SegCLIP", "", (52.6, 24.7, 26.5)),
      Row("OVSegmentor", "", (53.8, 20.4, 25.1)),
      Row("TCL", "", (55.0, 30.4, 31.6)),
      Row("SAM-CLIP", "", (60.6, 29.2, 31.5)),
      Row("S-Seg", "sseg", (53.2, 27.9, 30.3)),
      Row("S-Seg+", "", (62.0, 30.2, 35.7)),
      Row("DeepLabV3+, supervised", "", (78.7, 46.4, 55.7)),
      Row("MaskFormer, supervised", "maskformer", (81.2, 50.0, 62.1)),
    ),
  ),
  Table(
    "Table 3: simple baselines, trained on CC12M",
    _WITH,
    (
      Row("B1: pseudo-mask + CLIP", "b1", (12.9, 3.9, 2.9)),
      Row("B2: pseudo-mask ViT", "b2", (23.2, 11.0, 10.4)),
      Row("S-Seg", "sseg", (44.9, 22.9, 22.5)),
    ),
  ),
  Table(
    "Table 4: background excluded; rows that learn without masks",
    _WITHOUT,
    (
      Row("CLIP", "clip", (39.6, 9.0, 13.8)),
      Row("MaskCLIP", "maskclip", (49.5, 25.5, 23.6)),
      Row("GroupViT", "groupvit", (77.2, 23.0, 37.5)),
      Row("TCL", "", (83.2, 33.9, None)),
      Row("S-Seg", "sseg", (81.8, 27.2, 42.4)),
      Row("S-Seg+", "", (84.7, 31.6, 53.0)),
      Row("DeepLabV3+, supervised", "", (89.9, 48.5, 66.9)),
    ),
  ),
)
