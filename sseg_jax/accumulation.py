"""Computes the gradient of a batch from parts of it that fit into memory.

A contrastive loss is not a sum over parts, because each example is compared
with all others. So the towers run twice over each part:

1. Without a gradient, to compute the features of all examples.
2. With a gradient. It starts from the gradient of the whole batch's loss with
   respect to these features.

This is the method of Gao et al. 2021, "Scaling Deep Contrastive Learning Batch
Size under Memory Limited Setup", and of open_clip's `--accum-freq`
(src/open_clip_train/train.py). It costs one more forward pass, and memory for
one set of gradients.

On a first read, go to `value_and_grad`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Float

from sseg_jax import sharding

Tree = Any  # nested dictionaries or tuples of arrays


@dataclasses.dataclass(frozen=True)
class Parts:
  """Cuts a batch into parts, each of which is split over all devices.

  Attributes:
    steps: number of parts.
    group: number of consecutive examples that stay together, in order.
    mesh: mesh over which the batch is split; None lets the compiler choose.
  """

  steps: int
  group: int = 1
  mesh: Mesh | AbstractMesh | None = None

  def split(self, batch: Tree) -> Tree:
    """Cuts arrays [b,...] to [steps,b/steps,...].

    Part i takes the groups i, i + steps, i + 2 * steps and so on. A device
    holds consecutive groups, so it has some of every part and sends nothing.
    """

    def one(x):
      x = x.reshape(-1, self.steps, self.group, *x.shape[1:])
      x = jnp.swapaxes(x, 0, 1)
      return x.reshape(self.steps, -1, *x.shape[3:])

    return sharding.constrain(jax.tree.map(one, batch), self.mesh, 1)

  def join(self, parts: Tree) -> Tree:
    """Joins arrays [steps,b/steps,...] to [b,...]: undoes `split`."""

    def one(x):
      x = x.reshape(self.steps, -1, self.group, *x.shape[2:])
      x = jnp.swapaxes(x, 0, 1)
      return x.reshape(-1, *x.shape[3:])

    return sharding.constrain(jax.tree.map(one, parts), self.mesh, 0)


def value_and_grad(
  encode: Callable[[Tree, Tree, Tree], tuple[Any, Any]],
  compare: Callable[[Tree, Tree, Tree], tuple[Any, Any]],
  params: Tree,
  model_state: Tree,
  parts: Tree,
  cut: Parts,
) -> tuple[tuple[Float[Array, ""], tuple[dict[str, Array], Tree]], Tree]:
  """Returns ((loss, (metrics, model_state)), gradients) of the whole batch.

  Args:
    encode: (params, model_state, part) -> ((features [b/steps,...], own loss),
      (metrics, model_state)). The features of an example may not depend on
      other examples. Own losses and metrics are summed over the parts.
    compare: (params, model_state, features [b,...]) -> (loss, (metrics,
      model_state)), on the whole batch.
    params: the parameters of which the gradient is computed.
    model_state: running statistics. Those that `encode` changes are averaged
      over the parts.
    parts: the result of `cut.split`.
    cut: how the batch was cut.
  """

  def features_of(part):
    (features, _), (_, state) = encode(params, model_state, part)
    return features, state

  features, states = jax.lax.map(features_of, parts)
  model_state = jax.tree.map(lambda x: x.mean(0), states)
  of_compare = jax.value_and_grad(compare, argnums=(0, 2), has_aux=True)
  (loss, (metrics, model_state)), (grads, of_features) = of_compare(
    params, model_state, cut.join(features)
  )

  if cut.mesh is not None:
    # The loop below adds to these arrays, so their sharding is the loop's.
    grads = jax.lax.with_sharding_constraint(
      grads, sharding.state_sharding(grads, cut.mesh)
    )

  def add(total, part):
    part, of_features = part

    def run(params):
      outputs, (metrics, _) = encode(params, model_state, part)
      return outputs, metrics

    (_, own), pull, metrics = jax.vjp(run, params, has_aux=True)
    (grads,) = pull((of_features, jnp.ones_like(own)))
    return jax.tree.map(jnp.add, total, (own, metrics, grads)), None

  abstract = jax.eval_shape(
    lambda part: encode(params, model_state, part),
    jax.tree.map(lambda x: x[0], parts),
  )
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), (abstract[0][1], abstract[1][0])
  )
  total, _ = jax.lax.scan(add, (*zeros, grads), (parts, cut.split(of_features)))
  own, more, grads = total
  return (loss + own, (metrics | more, model_state)), grads
