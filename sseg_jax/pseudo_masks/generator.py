"""From `config.pseudo_masks` to the object that makes pseudo-masks."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec
from jaxtyping import Array, Bool, Int, Key, Num

from sseg_jax import errors, sharding
from sseg_jax.models import teacher
from sseg_jax.pseudo_masks import (
  eye,
  groups,
  kmeans,
  pixels,
  spectral,
  tokens,
)


@runtime_checkable
class PseudoMasks(Protocol):
  """What every generator offers. `generate` is pure and can be jitted."""

  @property
  def k(self) -> int:
    """Masks an image."""
    ...

  @property
  def stride(self) -> int:
    """Pixels along one or several cells; divides the image's sides."""
    ...

  @property
  def frozen(self) -> Any:
    """Parameters of the frozen network, {} without one.

    They are an argument of `generate`, so that they are neither constants of
    the compiled step nor stored in checkpoints.
    """
    ...

  def generate(
    self, frozen: Any, image: Num[Array, "b h w 3"], keys: Key[Array, "b"]
  ) -> tuple[Int[Array, "b cells_y cells_x"], Bool[Array, "b k"]]:
    """Returns label maps 0..k-1 and which labels occur; image values 0..255.

    `keys` holds one key per example, folded from its id. So the result does not
    depend on the batch, the topology or a cache, except for the rounding of a
    network's products in bfloat16. Raises `InputError` for an image whose sides
    are not multiples of the stride.
    """
    ...


# Name -> function from a whole config to a generator.
GENERATORS: dict[str, Callable[..., Any]] = {
  "pixels": pixels.Pixels.build,
  "spectral": spectral.Spectral.build,
  "groupvit": groups.Groups.build,
  **{
    name: functools.partial(tokens.Tokens.build, usual=usual)
    for name, usual in tokens.USUAL_WEIGHTS.items()
  },
}

_DTYPES = ("float32", "bfloat16", "float16")


def build(config, *, abstract: bool = False, load: bool = True) -> PseudoMasks:
  """Builds the generator that `config.pseudo_masks` describes.

  With `abstract` a network is built by its shapes, and nothing is downloaded.
  An eye (`model.backbone="teacher"`) reads its weights only with `load`.
  Raises `InputError` for a name, a metric or a start that does not exist.
  """
  fields = config.pseudo_masks
  _check("generator", fields.generator, tuple(GENERATORS))
  _check("metric", fields.metric, kmeans.METRICS)
  _check("init", fields.init, kmeans.INITS)
  if config.dtype not in _DTYPES:
    raise errors.InputError(
      f"dtype={config.dtype!r} does not exist; use one of {', '.join(_DTYPES)}"
    )
  for name in (
    "k",
    "stride",
    "iterations",
    "restarts",
    "upsample",
    "fit_every",
  ):
    if getattr(fields, name) < 1:
      raise errors.InputError(
        f"pseudo_masks.{name}={getattr(fields, name)}: must be at least 1"
      )
  for name in ("smooth_radius", "colour_steps", "num_heads"):
    if getattr(fields, name) < 0:
      raise errors.InputError(
        f"pseudo_masks.{name}={getattr(fields, name)}: must be at least 0"
      )
  if fields.smooth_temperature <= 0:
    raise errors.InputError(
      f"pseudo_masks.smooth_temperature={fields.smooth_temperature}: must be"
      " over 0"
    )
  if fields.scale <= 0:
    raise errors.InputError(
      f"pseudo_masks.scale={fields.scale}: must be over 0; 1 leaves pictures"
      " as they are"
    )
  if teacher.is_eye(config):
    return eye.build(config, load=load)
  if abstract and fields.generator in tokens.USUAL_WEIGHTS:
    return GENERATORS[fields.generator](config, abstract=True)
  return GENERATORS[fields.generator](config)


@dataclasses.dataclass(frozen=True)
class Stored:
  """Placeholder for pseudo-masks from the records: loads no network."""

  k: int
  stride: int

  @property
  def frozen(self) -> dict:
    """No parameters."""
    return {}

  def generate(self, frozen: Any, image: Array, keys: Array) -> tuple:
    """Raises an error: the batch already has its pseudo-masks."""
    raise ValueError("cached pseudo-masks are read from the records")


@dataclasses.dataclass(frozen=True)
class Sharded:
  """Pseudo-masks that each device of a mesh makes for its own pictures.

  Devices exchange nothing, because pictures are independent. XLA cannot split a
  Pallas kernel, so each kernel gets the pictures of one device.

  Attributes:
    made: the generator.
    mesh: batches are split over all of its axes.
    kernels: whether its devices compute attention in a Pallas kernel (TPUs).
  """

  made: PseudoMasks
  mesh: Mesh
  kernels: bool = False

  @property
  def k(self) -> int:
    """Masks an image."""
    return self.made.k

  @property
  def stride(self) -> int:
    """Of the generator."""
    return self.made.stride

  @property
  def frozen(self) -> Any:
    """Of the generator."""
    return self.made.frozen

  def generate(
    self, frozen: Any, image: Num[Array, "b h w 3"], keys: Key[Array, "b"]
  ) -> tuple[Int[Array, "b cells_y cells_x"], Bool[Array, "b k"]]:
    """Returns what the generator does; see there."""
    if len(image) % self.mesh.size:
      return self.made.generate(frozen, image, keys)
    rows = PartitionSpec(self.mesh.axis_names)
    made = self.made
    if self.kernels and isinstance(made, tokens.Tokens):
      made = made.with_flash_attention()
    split = jax.shard_map(
      made.generate,
      mesh=self.mesh,
      in_specs=(PartitionSpec(), rows, rows),
      out_specs=(rows, rows),
      check_vma=False,  # a Pallas kernel does not declare it
    )
    return split(frozen, image, keys)


def for_training(
  config,
  mesh: Mesh | AbstractMesh | None = None,
  *,
  abstract: bool = False,
) -> PseudoMasks:
  """Returns what `config.pseudo_masks.mode` asks for; see `build`.

  `mesh` is what batches are split over; None for one device.
  """
  fields = config.pseudo_masks
  _check("mode", fields.mode, ("online", "cached"))
  if fields.mode == "cached" and not config.model.teacher_masks:
    return Stored(fields.k, fields.stride)
  # The weights of an eye are in the model's state.
  made = build(config, abstract=abstract, load=False)
  if isinstance(made, eye.Eye):
    return made
  if not isinstance(mesh, Mesh):
    return made
  kernels = sharding.mesh_of_kernels(config, mesh) is not None
  return Sharded(made, mesh, kernels)


def _check(field: str, value: str, known: tuple[str, ...]) -> None:
  if value not in known:
    raise errors.InputError(
      f"pseudo_masks.{field}={value!r} does not exist; use one of "
      f"{', '.join(known)}"
    )
