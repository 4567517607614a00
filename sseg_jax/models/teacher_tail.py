"""The last blocks of a vision transformer that are trained, as the eye is not.

With `model.teacher_trained` regions are embedded from what copies of the last
blocks make of the frozen tokens. Clusters stay those of the frozen transformer,
so that the masks do not move while words are learned. It is not of the paper.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from sseg_jax.models import teacher, vit
from sseg_jax.models.flax_versions import List
from sseg_jax.models.keys import parameter_keys

NAME = "teacher_tail"  # of its parameters in the network's


class Tail(nnx.Module):
  """Copies of the last `model.teacher_trained` blocks and of the final norm.

  Args:
    config: a whole config whose `model.backbone` is "teacher".
    rngs: source of the values before `initial` replaces them.
  """

  def __init__(self, config: Any, *, rngs: nnx.Rngs):
    sizes = teacher.sizes(config)
    count = config.model.teacher_trained
    self.first = sizes["depth"] - count
    # A transformer of these blocks alone, which never embeds a picture.
    whole = vit.ViT(
      **sizes | {"depth": count}, dtype=jnp.dtype(config.dtype), rngs=rngs
    )
    self.blocks = List(list(whole.blocks))
    self.norm = whole.norm

  def features(
    self, x: Float[Array, "b t d"], wanted: Sequence[tuple[str, int]]
  ) -> dict[tuple[str, int], Array]:
    """Returns features of the blocks, numbered as the whole transformer's.

    Args:
      x: tokens that enter the first of them.
      wanted: kind and layer of each, from the layer `first` on.
    """
    return vit.read_blocks(x, self.blocks, self.norm, wanted, self.first)[1]


def build(config: Any) -> nnx.GraphDef | None:
  """Returns the structure of a config's `Tail`; None if nothing is trained."""
  if not config.model.teacher_trained:
    return None
  return nnx.graphdef(
    nnx.eval_shape(lambda: Tail(config, rngs=parameter_keys(0)))
  )


def initial(config: Any, frozen: dict[str, Any]) -> dict[str, np.ndarray]:
  """Returns the parameters to start from, by name in the network's.

  Args:
    config: a whole config.
    frozen: arrays of the eye by name (`teacher.load`, flat).
  """
  count = config.model.teacher_trained
  if not count:
    return {}
  first = teacher.sizes(config)["depth"] - count
  found = {}
  for name, array in frozen.items():
    part, _, rest = name.partition("/")
    number, _, inside = rest.partition("/")
    if part == "norm":
      found[f"{NAME}/{name}"] = array
    elif part == "blocks" and int(number[1:]) >= first:
      found[f"{NAME}/blocks/{int(number[1:]) - first}/{inside}"] = array
  return {name: np.asarray(x, np.float32) for name, x in found.items()}
