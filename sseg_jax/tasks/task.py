"""Defines a task, and the setup that its functions take."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import optax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array

from sseg_jax.pseudo_masks import generator

Metrics = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Setup:
  """The static parts of a step, and the frozen arrays that it takes.

  Attributes:
    config: the run's fields.
    graphdef: structure of the model.
    shapes: of its parameters and of its statistics, as `sseg.build` returns
      them: nested dictionaries of `jax.ShapeDtypeStruct`.
    generator: makes the pseudo-masks.
    optimizer: the optax transformation.
    frozen: arrays that are never trained: the generator's network and, in the
      supervised task, the tokens of the class names.
    mesh: the mesh over which batches are split. Some parts of the step name
      their sharding on it. With None the compiler chooses every sharding.
  """

  config: Any
  graphdef: nnx.GraphDef
  shapes: tuple[dict[Any, Any], dict[Any, Any]]
  generator: generator.PseudoMasks
  optimizer: optax.GradientTransformation
  frozen: dict[str, Any]
  mesh: Mesh | AbstractMesh | None = None


class InParts(NamedTuple):
  """A loss in two functions, for a batch that is taken in parts.

  Attributes:
    towers: what is computed of each example by itself; see `tasks.sseg.towers`.
    compare: the loss between examples; see `tasks.sseg.compare`.
  """

  towers: Callable[..., tuple[Any, Metrics]]
  compare: Callable[..., tuple[Array, Metrics]]


def _no_arrays(config: Any, class_names: tuple[str, ...]) -> dict[str, Any]:
  return {}


@dataclasses.dataclass(frozen=True)
class Task:
  """What a step learns, as functions.

  Attributes:
    loss: (setup, model, frozen, batch, key) -> (loss, metrics). `frozen` is
      `setup.frozen`, and `key` the random key of dropout.
    in_parts: the same loss for `config.accumulate_steps` above 1. None: the
      task takes its batch in one piece.
    frozen: (config, class_names) -> arrays that the loss needs besides those of
      the pseudo-masks, by their names in `Setup.frozen`.
  """

  loss: Callable[..., tuple[Array, Metrics]]
  in_parts: InParts | None = None
  frozen: Callable[[Any, tuple[str, ...]], dict[str, Any]] = _no_arrays
