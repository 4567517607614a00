"""A frozen vision transformer as the eye of the network.

It is not of the paper. With `model.backbone="teacher"` the network that makes
pseudo-masks also gives the features: masks are clusters of its tokens, and a
mask is embedded from the mean of the features under it. Nothing of it is
trained; `teacher_masks.py` and `teacher_tail.py` train what comes after it. Its
parameters are part of the model's state, so that a checkpoint needs no other
file.

`pseudo_masks/eye.py` runs it; this module holds its parameters.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from sseg_jax.checkpoints import named_arrays
from sseg_jax.errors import InputError
from sseg_jax.models import vit, vit_weights
from sseg_jax.models.dropout import Dropout, ExampleRngs
from sseg_jax.models.vit_sizes import VIT_SIZES

NAME = "teacher"  # the value of `model.backbone`


class Regions(NamedTuple):
  """What the eye sees in pictures.

  Attributes:
    mask_logits: float32 [b, n, y, x], positive inside a region. Regions of one
      clustering do not overlap.
    features: float32 [b, n, d], of each region; zeros where it does not exist.
    exist: bool [b, n].
    tokens: float32 [b, y, x, c], what is clustered. None if nothing learns
      masks from it (`model.teacher_masks`), or if clusters shall be the masks.
    cells: float32 [b, y, x, d], of which a region has the mean; or None.
    labels: int32 [b, h, w], the first clustering, if masks shall be snapped to
      it; else None.
  """

  mask_logits: Float[Array, "b n y x"]
  features: Float[Array, "b n d"]
  exist: Bool[Array, "b n"]
  tokens: Float[Array, "b y x c"] | None = None
  cells: Float[Array, "b y x d"] | None = None
  labels: Int[Array, "b h w"] | None = None


class Frozen(nnx.Variable):
  """An array that is stored with the model and never trained."""


class FrozenArrays(nnx.Module):
  """Nested arrays as variables of the kind `Frozen`."""

  def __init__(self, tree: dict[Any, Any]):
    for name, value in tree.items():
      held = FrozenArrays(value) if isinstance(value, dict) else Frozen(value)
      setattr(self, name, held)

  def arrays(self) -> dict[str, Any]:
    """Returns them as nested dictionaries."""
    return nnx.to_pure_dict(nnx.state(self))


class RegionInput(nnx.Module):
  """Centers and scales regions' features, and drops some while training.

  Every feature gets mean 0 and variance 1, over the regions of the global
  batch while training, over running statistics else. The features of a frozen
  network have large means in common, which hide what tells regions apart.
  """

  def __init__(self, width: int, dropout: float, *, rngs: nnx.Rngs):
    self.norm = nnx.BatchNorm(
      width,
      momentum=0.9,
      epsilon=1e-8,  # features of unit length have small variances
      use_fast_variance=False,
      use_bias=False,
      use_scale=False,
      dtype=jnp.float32,
      rngs=rngs,
    )
    self.dropout = Dropout(dropout)

  def __call__(
    self,
    features: Float[Array, "b n d"],
    counted: Bool[Array, "b n"],
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
  ) -> Float[Array, "b n d"]:
    """Returns the features, float32; those not `counted` shift no statistics.

    `train` takes the statistics of the batch, and draws from `rngs`.
    """
    # If no region counts all do, since a mean needs at least one.
    mask = (counted | ~counted.any())[..., None]
    # NaN in a region that does not count would pass into every gradient.
    x = jnp.where(mask, features.astype(jnp.float32), 0)
    x = self.norm(x, use_running_average=not train, mask=mask)
    return self.dropout(x, deterministic=not train, rngs=rngs)


def is_eye(config: Any) -> bool:
  """Whether the network of `config` sees by a frozen transformer."""
  return config.model.backbone == NAME


def sizes(config: Any) -> dict[str, Any]:
  """Returns the arguments of `vit.ViT` for the transformer of `config`."""
  name = config.model.teacher
  if name not in VIT_SIZES:
    raise InputError(
      f"model.teacher={name!r} does not exist; use one of"
      f" {', '.join(sorted(VIT_SIZES))}"
    )
  found = dict(VIT_SIZES[name])
  if config.pseudo_masks.num_heads:
    found["num_heads"] = config.pseudo_masks.num_heads
  if config.pseudo_masks.position_rule:
    found["position_rule"] = config.pseudo_masks.position_rule
  return found


def parse_features(
  text: str, depth: int, field: str
) -> tuple[tuple[str, int], ...]:
  """Reads "tokens" or "tokens+keys:10": kinds, and layers other than the last.

  Raises `InputError`, which names `field`, for a kind or a layer that a network
  of `depth` blocks does not have.
  """
  parts = []
  for part in text.split("+"):
    kind, colon, layer = part.strip().partition(":")
    try:
      number = int(layer) if colon else -1
    except ValueError:
      number = depth
    if kind not in vit.FEATURES or not -depth <= number < depth:
      raise InputError(
        f"{field}={text!r}: {part!r} is none of"
        f" {', '.join(vit.FEATURES)}, with or without a layer from 0 to"
        f' {depth - 1} as in "keys:{depth - 2}"'
      )
    parts.append((kind, number % depth))
  return tuple(parts)


def features(config: Any) -> tuple[tuple[str, int], ...]:
  """Returns kind and layer of what regions are embedded from."""
  depth = sizes(config)["depth"]
  field = "model.teacher_features"
  return parse_features(config.model.teacher_features, depth, field)


def width(config: Any) -> int:
  """Returns the number of features of a region."""
  return len(features(config)) * sizes(config)["width"]


def regions(config: Any) -> int:
  """Returns the number of regions of a picture."""
  return config.pseudo_masks.k + sum(config.model.teacher_more_k)


def holder(config: Any) -> FrozenArrays:
  """Returns room for the parameters: zeros in float16."""
  _, shapes = vit_weights.build(sizes(config))
  return FrozenArrays(
    _stored(shapes, lambda x: jnp.zeros(x.shape, jnp.float16))
  )


def _stored(params: Any, convert: Callable[[Any], Any]) -> dict[str, Any]:
  """Returns parameters under the names of attributes: "n0" for block 0."""
  return named_arrays.nested(
    {
      re.sub(r"(?<=/)(?=\d)", "n", name): convert(x)
      for name, x in named_arrays.flat(params).items()
    }
  )


def load(config: Any) -> dict[str, Any]:
  """Returns the parameters of `config`'s weights, nested, in float16.

  Raises:
    InputError: for weights that are not available, or of another network than
      `model.teacher`.
  """
  source = config.pseudo_masks.weights or config.model.teacher
  found = vit_weights.sizes_of(source)
  wanted = sizes(config)
  known = ("patch", "width", "depth", "grid", "registers", "layer_scale")
  if [found.get(k, 0) for k in known] != [wanted.get(k, 0) for k in known]:
    fits = [
      name
      for name, each in VIT_SIZES.items()
      if all(each.get(k, 0) == found.get(k, 0) for k in known)
    ]
    raise InputError(
      f"pseudo_masks.weights={source}: these are not the weights of"
      f" model.teacher={config.model.teacher!r};"
      + (
        f" set model.teacher to {' or '.join(map(repr, fits))}"
        if fits
        else " no network in models/vit_sizes.py has their sizes"
      )
    )
  _, params = vit_weights.load(source)
  return _stored(params, lambda x: np.asarray(x, np.float16))


def parameters(arrays: dict[str, Any], dtype: Any) -> dict[Any, Any]:
  """Returns stored arrays as the parameters of a `vit.ViT`, in `dtype`.

  Norms are float32 in any case.
  """
  params = named_arrays.nested(
    {
      re.sub(r"(?<=/)n(?=\d)", "", name): jnp.asarray(x, jnp.float32)
      for name, x in named_arrays.flat(arrays).items()
    },
    int_keys=True,
  )
  return vit_weights.rounded(params, dtype)
