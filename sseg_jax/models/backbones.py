"""The registry of backbones: a name, and how to build it."""

from collections.abc import Callable
from typing import Any

from flax import nnx
from jax.typing import DTypeLike

from sseg_jax import errors
from sseg_jax.models.conv import CONV_SIZES, ConvNet
from sseg_jax.models.resnet import RESNET_SIZES, ResNet
from sseg_jax.models.swin import SWIN_SIZES, Swin
from sseg_jax.models.vit_pyramid import (
  PYRAMID_SIZES,
  TOKEN_SIZES,
  TokenMap,
  ViTPyramid,
)

# Name -> class and arguments. Each network maps a picture [b,h,w,3] to levels
# "res2" to "res5"; `.channels` and `.strides` give their features and strides.
# A `TokenMap` has one level, "tokens".
BACKBONES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
  **{name: (ConvNet, sizes) for name, sizes in CONV_SIZES.items()},
  **{name: (ResNet, sizes) for name, sizes in RESNET_SIZES.items()},
  **{name: (Swin, sizes) for name, sizes in SWIN_SIZES.items()},
  **{name: (ViTPyramid, sizes) for name, sizes in PYRAMID_SIZES.items()},
  **{name: (TokenMap, sizes) for name, sizes in TOKEN_SIZES.items()},
}
LARGEST_STRIDE = 32


def has_tokens(name: str) -> bool:
  """Whether a backbone is a ViT, of which `tokens` can be built."""
  return name in BACKBONES and BACKBONES[name][0] in (ViTPyramid, TokenMap)


def tokens(
  name: str,
  *,
  drop_path: float,
  remat: str = "none",
  dtype: DTypeLike,
  rngs: nnx.Rngs,
) -> TokenMap:
  """Builds the ViT `name` without a pyramid, from random weights."""
  return TokenMap(
    **BACKBONES[name][1],
    drop_path=drop_path,
    remat=remat,
    dtype=dtype,
    rngs=rngs,
  )


def build(
  name: str,
  *,
  drop_path: float,
  remat: str = "none",
  dtype: DTypeLike,
  rngs: nnx.Rngs,
) -> Any:
  """Builds the backbone `name` from random weights.

  Raises:
    InputError: if there is no such backbone.
  """
  if name not in BACKBONES:
    raise errors.InputError(
      f"model.backbone={name!r} does not exist; there are"
      f" {', '.join(sorted(BACKBONES))}"
    )
  network, sizes = BACKBONES[name]
  return network(
    **sizes, drop_path=drop_path, remat=remat, dtype=dtype, rngs=rngs
  )
