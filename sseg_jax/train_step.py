"""One step of training, as pure functions of arrays.

On a first read, go straight to `train_step`. The loss is `loss` in
`tasks/sseg.py`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array

from sseg_jax import accumulation
from sseg_jax.models import pretrained, sseg
from sseg_jax.tasks import TASKS, start
from sseg_jax.tasks.setup import make_setup
from sseg_jax.tasks.sseg import Features, compare, pseudo_mask_labels, towers
from sseg_jax.tasks.sseg import loss as sseg_loss
from sseg_jax.tasks.supervised import step_loss as supervised_loss
from sseg_jax.tasks.task import Metrics, Setup

# The names of `tasks` that callers find here as well.
__all__ = [
  "LOSSES",
  "Features",
  "Metrics",
  "Setup",
  "TrainState",
  "abstract_state",
  "compare",
  "init_state",
  "make_setup",
  "pseudo_mask_labels",
  "sseg_loss",
  "supervised_loss",
  "towers",
  "train_step",
  "value_and_grad",
]

LOSSES = {name: task.loss for name, task in TASKS.items()}


class TrainState(NamedTuple):
  """All that a run needs to resume: a plain pytree.

  Attributes:
    step: int32 [], number of updates tried so far, skipped ones included.
    params: parameters, float32.
    model_state: running statistics of the batch norms.
    opt_state: the state of the optax optimiser.
  """

  step: Array
  params: sseg.Variables
  model_state: sseg.Variables
  opt_state: Any


def init_state(setup: Setup, *, published: bool = True) -> TrainState:
  """Returns the state before the first step, random with seed `config.seed`.

  Args:
    setup: of the run.
    published: whether the parts that `model.weights` and `text.weights` name,
      a frozen eye, and what `start_from` names get those weights. InputError
      if they do not fit.
  """
  params, model_state = sseg.init(setup.config, setup.config.seed)
  if published:
    params, model_state = pretrained.load(setup.config, params, model_state)
    params, model_state = start.from_run(setup.config, params, model_state)
  return TrainState(
    jnp.zeros((), jnp.int32),
    params,
    model_state,
    jax.jit(setup.optimizer.init)(params),
  )


def abstract_state(setup: Setup) -> TrainState:
  """Returns the shapes and types of the state's arrays; computes nothing."""
  params, model_state = setup.shapes
  step: Any = jax.ShapeDtypeStruct((), jnp.int32)
  return TrainState(
    step,
    params,
    model_state,
    jax.eval_shape(setup.optimizer.init, params),
  )


def whole_loss(
  setup: Setup,
  params: sseg.Variables,
  model_state: sseg.Variables,
  frozen: dict[str, Any],
  batch: dict[str, Array],
  key: Array,
) -> tuple[Array, tuple[Metrics, sseg.Variables]]:
  """Returns (loss, (metrics, new statistics)) of a batch in one piece."""
  task = TASKS[setup.config.task]
  return _merged(
    setup,
    lambda model: task.loss(setup, model, frozen, batch, key),
    params,
    model_state,
  )


def _merged(setup: Setup, f: Callable[..., Any], *variables: Any) -> Any:
  """Calls `f` with the network; its result gets the new statistics."""
  model = nnx.merge(setup.graphdef, *variables)
  outputs, metrics = f(model)
  return outputs, (metrics, sseg.split(model)[2])


def value_and_grad(
  setup: Setup,
  params: sseg.Variables,
  model_state: sseg.Variables,
  frozen: dict[str, Any],
  batch: dict[str, Array],
  key: Array,
) -> tuple[tuple[Array, tuple[Metrics, sseg.Variables]], sseg.Variables]:
  """Returns ((loss, (metrics, new statistics)), gradients) of a global batch.

  With `config.accumulate_steps` above 1, the towers take the batch in that many
  parts, one after the other. The result differs only by rounding, except that a
  backbone's batch norm uses the statistics of each part. `key` is the random
  key of dropout.
  """
  config, task = setup.config, TASKS[setup.config.task]
  if config.accumulate_steps == 1:
    found = jax.value_and_grad(
      functools.partial(whole_loss, setup), has_aux=True
    )
    return found(params, model_state, frozen, batch, key)

  in_parts = task.in_parts
  assert in_parts is not None, "make_setup refuses such a config"
  every = config.loss.mask_every
  cut = accumulation.Parts(config.accumulate_steps, every, setup.mesh)
  parts = cut.split(batch)
  labels, present = jax.lax.map(
    lambda part: pseudo_mask_labels(setup, frozen, part), parts
  )
  counted = (present & parts["valid"][..., None])[:, ::every]
  count = counted.sum(dtype=jnp.float32)

  def encode(params, model_state, part):
    part, labels, present = part
    return _merged(
      setup,
      lambda model: in_parts.towers(
        setup, model, part, labels, present, key, count
      ),
      params,
      model_state,
    )

  def compare_all(params, model_state, features):
    return _merged(
      setup,
      lambda model: in_parts.compare(setup, model, features, batch["valid"]),
      params,
      model_state,
    )

  return accumulation.value_and_grad(
    encode,
    compare_all,
    params,
    model_state,
    (parts, labels, present),
    cut,
  )


def train_step(
  setup: Setup,
  state: TrainState,
  frozen: dict[str, Any],
  batch: dict[str, Array],
) -> tuple[TrainState, Metrics]:
  """Takes one optimiser step on a global batch.

  It is a pure function: jit it with `setup` static or closed over, and donate
  `state`. If the loss or the gradient is not finite, parameters, statistics and
  optimizer stay as they were, and the metric `bad` is 1.

  Args:
    setup: see `Setup`.
    state: the state before the step.
    frozen: `setup.frozen`. It is an argument so that its arrays do not become
      constants of the compiled program.
    batch: `id`, `valid`, `image`, `text`; see the pipeline.

  Returns:
    The state after the step, and float32 scalars.
  """
  config = setup.config
  # The implementation is named because `ExampleRngs` does not support all.
  key = jax.random.key(config.seed, impl="threefry2x32")
  dropout_key = jax.random.fold_in(jax.random.fold_in(key, 1), state.step)

  (loss, (metrics, model_state)), grads = value_and_grad(
    setup, state.params, state.model_state, frozen, batch, dropout_key
  )
  grad_norm = optax.tree.norm(grads)
  updates, opt_state = setup.optimizer.update(
    grads, state.opt_state, state.params
  )
  new = TrainState(
    state.step,
    optax.apply_updates(state.params, updates),
    model_state,
    opt_state,
  )
  good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
  new = jax.tree.map(lambda a, b: jnp.where(good, a, b), new, state)
  metrics |= {
    "loss": loss,
    "grad_norm": grad_norm,
    "bad": 1.0 - good,
    "valid": batch["valid"].mean(dtype=jnp.float32),
  }
  metrics = {k: jnp.asarray(v, jnp.float32) for k, v in metrics.items()}
  return new._replace(step=state.step + 1), metrics
