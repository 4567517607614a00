"""From `config.pseudo_masks` to the object that makes pseudo-masks."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Bool, Int, Key, Num

from sseg_jax import errors
from sseg_jax.pseudo_masks import kmeans, pixels, spectral, tokens


@runtime_checkable
class PseudoMasks(Protocol):
  """What every generator offers. `generate` is pure and can be jitted."""

  @property
  def k(self) -> int:
    """Masks an image."""
    ...

  @property
  def stride(self) -> int:
    """Divides the sides of the image; pixels a cell, or some cells, wide."""
    ...

  @property
  def frozen(self) -> Any:
    """Parameters of the frozen network, {} without one.

    An argument of `generate`, so that they are neither baked into the compiled
    step nor stored in checkpoints.
    """
    ...

  def generate(
    self, frozen: Any, image: Num[Array, "b h w 3"], keys: Key[Array, "b"]
  ) -> tuple[Int[Array, "b cells_y cells_x"], Bool[Array, "b k"]]:
    """Returns label maps 0..k-1 and which labels occur; image values 0..255.

    One key per example, folded from its id: the result does not depend on the
    batch, the topology or a cache. Raises `InputError` for an image whose sides
    are no multiples of the stride.
    """
    ...


# Name -> function from a whole config to a generator.
GENERATORS: dict[str, Callable[..., Any]] = {
  "pixels": pixels.Pixels.build,
  "spectral": spectral.Spectral.build,
  **{
    name: functools.partial(tokens.Tokens.build, usual=usual)
    for name, usual in tokens.USUAL_WEIGHTS.items()
  },
}


def build(config, *, abstract: bool = False) -> PseudoMasks:
  """Builds the generator that `config.pseudo_masks` describes.

  With `abstract` a network is built by its shapes, and nothing is downloaded.
  Raises `InputError` for a name, a metric or a start that does not exist.
  """
  fields = config.pseudo_masks
  _check("generator", fields.generator, tuple(GENERATORS))
  _check("metric", fields.metric, kmeans.METRICS)
  _check("init", fields.init, kmeans.INITS)
  for name in ("k", "stride", "iterations", "restarts", "upsample"):
    if getattr(fields, name) < 1:
      raise errors.InputError(
        f"pseudo_masks.{name}={getattr(fields, name)}: must be at least 1"
      )
  if fields.scale <= 0:
    raise errors.InputError(
      f"pseudo_masks.scale={fields.scale}: must be over 0; 1 leaves pictures"
      " as they are"
    )
  if abstract and fields.generator in tokens.USUAL_WEIGHTS:
    return GENERATORS[fields.generator](config, abstract=True)
  return GENERATORS[fields.generator](config)


@dataclasses.dataclass(frozen=True)
class Stored:
  """Stands for pseudo-masks that come with the batch: no network is loaded."""

  k: int
  stride: int

  @property
  def frozen(self) -> dict:
    """No parameters."""
    return {}

  def generate(self, frozen: Any, image: Array, keys: Array) -> tuple:
    """Raises: there is nothing to make."""
    raise ValueError("cached pseudo-masks are read from the records")


def for_training(config, *, abstract: bool = False) -> PseudoMasks:
  """Returns what `config.pseudo_masks.mode` asks for; see `build`."""
  fields = config.pseudo_masks
  _check("mode", fields.mode, ("online", "cached"))
  if fields.mode == "cached":
    return Stored(fields.k, fields.stride)
  return build(config, abstract=abstract)


def _check(field: str, value: str, known: tuple[str, ...]) -> None:
  if value not in known:
    raise errors.InputError(
      f"pseudo_masks.{field}={value!r} does not exist; use one of "
      f"{', '.join(known)}"
    )
