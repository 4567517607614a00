"""Sizes of vision transformers, and those of the published ones."""

import dataclasses
from typing import Any

from sseg_jax.errors import InputError
from sseg_jax.models import positions

_SMALL: dict[str, Any] = dict(width=384, depth=12, num_heads=6)
_BASE: dict[str, Any] = dict(width=768, depth=12, num_heads=12)
_V2: dict[str, Any] = dict(patch=14, grid=37, layer_scale=True)
_REG: dict[str, Any] = dict(registers=4, position_rule="antialias")

# Published networks; `grid` is the table of positions they were trained with.
VIT_SIZES: dict[str, dict[str, Any]] = {
  "dino_vits8": dict(**_SMALL, patch=8, grid=28),
  "dino_vits16": dict(**_SMALL, patch=16, grid=14),
  "dino_vitb8": dict(**_BASE, patch=8, grid=28),
  "dino_vitb16": dict(**_BASE, patch=16, grid=14),
  "dinov2_vits14": dict(**_SMALL, **_V2),
  "dinov2_vitb14": dict(**_BASE, **_V2),
  "dinov2_vits14_reg": dict(**_SMALL, **_V2, **_REG),
  "dinov2_vitb14_reg": dict(**_BASE, **_V2, **_REG),
  "deit_s16": dict(**_SMALL, patch=16, grid=14, position_rule="size"),
  "deit_b16": dict(**_BASE, patch=16, grid=14, position_rule="size"),
  "mae_vitb16": dict(**_BASE, patch=16, grid=14, position_rule="size"),
  # Heads of 32 features; the table of positions is one of sines.
  "moco_v3_vits16": dict(
    width=384,
    depth=12,
    num_heads=12,
    patch=16,
    grid=14,
    position_rule="size",
  ),
  "moco_v3_vitb16": dict(**_BASE, patch=16, grid=14, position_rule="size"),
}


def published(sizes: dict[str, Any]) -> set[str]:
  """Returns the published networks of these sizes, whatever their positions."""

  def without_rule(x):
    return {k: v for k, v in x.items() if k != "position_rule"}

  wanted = without_rule(sizes)
  return {n for n, x in VIT_SIZES.items() if without_rule(x) == wanted}


@dataclasses.dataclass(frozen=True)
class Sizes:
  """What distinguishes one vision transformer from another.

  Attributes:
    patch: side of a patch in pixels, and the stride of the tokens.
    width: features of a token.
    depth: blocks.
    num_heads: of the attention.
    grid: side of the table of positions, in patches.
    mlp_ratio: width of a block's MLP over the block's own.
    layer_scale: a learned factor per channel on every branch (DINOv2).
    registers: number of extra tokens after the class token; they have no
      position.
    position_rule: how the table is resized; see `positions`.
    epsilon: of every LayerNorm; 1e-6 in the originals.
    drop_path: rate at the last block; it grows linearly from 0 at the first.
    activation: of the MLPs, a key of `layers.ACTIVATIONS`.

  Raises:
    InputError: if `num_heads` does not divide `width`, or the rule does not
      exist.
  """

  patch: int
  width: int
  depth: int
  num_heads: int
  grid: int
  mlp_ratio: float = 4.0
  layer_scale: bool = False
  registers: int = 0
  position_rule: str = "dino"
  epsilon: float = 1e-6
  drop_path: float = 0.0
  activation: str = "gelu"

  def __post_init__(self):
    """Checks the fields."""
    if self.width % self.num_heads:
      raise InputError(
        f"a ViT of width {self.width} cannot share it among {self.num_heads}"
        " heads; change one of them"
      )
    if self.position_rule not in positions.RULES:
      raise InputError(
        f"position_rule={self.position_rule!r} does not exist; use one of"
        f" {', '.join(positions.RULES)}"
      )
