"""From pictures to outputs of the image tower, for every kind of network."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Num

from sseg_jax.errors import InputError
from sseg_jax.inference.sliding_window import PAD, multiple_for
from sseg_jax.models import teacher, teacher_tail, vit_pyramid
from sseg_jax.pseudo_masks import eye, generator


@dataclasses.dataclass(frozen=True, eq=False)
class Look:
  """What is done to a picture besides the network's own layers.

  Attributes:
    snaps: makes the regions that masks are snapped to, or None.
    sees: what sees in place of the image tower, or None.
    multiple: sides of pictures must be multiples of it.
  """

  snaps: generator.PseudoMasks | None = None
  sees: eye.Eye | None = None
  multiple: int = PAD

  @classmethod
  def build(cls, config: Any, refine: str) -> "Look":
    """Builds it for a config and one of `field_rules.REFINEMENTS`.

    Raises InputError for a refinement that the network cannot have.
    """
    if teacher.is_eye(config):
      sees = eye.for_pictures(config, refine)
      return cls(sees=sees, multiple=multiple_for(_cell(config, sees)))
    if refine == "clusters":
      raise InputError(
        "evaluate.refine='clusters': only model.backbone='teacher' has features"
        " of clusters; use 'pseudo_masks' or 'none'"
      )
    alone = vit_pyramid.TOKEN_SIZES.get(config.model.backbone, {})
    multiple = multiple_for(alone.get("patch", 1))
    if refine == "pseudo_masks":
      snaps = generator.build(config)
      return cls(snaps, multiple=math.lcm(multiple, _cell(config, snaps)))
    return cls(multiple=multiple)

  @property
  def frozen(self) -> Any:
    """Arrays that are not the model's: of a network that makes regions."""
    return {} if self.snaps is None else self.snaps.frozen

  def __call__(
    self,
    apply_image: Callable[..., Any],
    params: Any,
    model_state: Any,
    images: Num[Array, "b h w 3"],
    frozen: Any,
  ) -> Any:
    """Returns what a network makes of pictures.

    Args:
      apply_image: `sseg.apply_image` of the network.
      params: the network's.
      model_state: the network's.
      images: 0..255.
      frozen: the arrays above.
    """
    # One key for all, so that a picture's masks are always the same.
    keys = jnp.broadcast_to(jax.random.key(0), (len(images),))
    if self.sees is not None:
      trained = params.get(teacher_tail.NAME)
      seen = self.sees.see(model_state[teacher.NAME], images, keys, trained)
      return apply_image(params, model_state, images, seen=seen)
    snap: tuple[Array, ...] = ()
    if self.snaps is not None:
      snap = self.snaps.generate(frozen, images, keys)[:1]
    return apply_image(params, model_state, images, *snap)


def _cell(config: Any, masks: generator.PseudoMasks | eye.Eye) -> int:
  """Returns what a maker of regions needs sides to be multiples of."""
  # At another scale it rounds sides itself.
  return masks.stride if config.pseudo_masks.scale == 1 else 1
