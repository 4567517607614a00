"""Learning rate, weight decay and the optimizer."""

import re
from typing import Any

import jax
import optax

# Matches the last name in the path of an array that has no weight decay. The
# number of dimensions does not decide: tables and the biases of attention heads
# have two dimensions, as the weights of a linear map.
_NO_DECAY = re.compile(
  r"bias|scale|norm|token|embedding|position|quer(y|ies)|table"
)
# Parts of the model that `text.frozen` keeps as they are.
TEXT_PARTS = ("text", "text_projection")


def schedule(optim_config: Any, total_steps: int) -> optax.Schedule:
  """Returns the learning rate as a function of the step.

  It rises linearly from `start_lr` to `peak_lr` in `warmup_steps`, then falls
  to `end_lr` along a cosine. `total_steps` include the `warmup_steps`, as in
  GroupViT (`utils/lr_scheduler.py`).

  Args:
    optim_config: `config.optim`.
    total_steps: step at which the rate reaches `end_lr`; it then stays there.
  """
  warmup = optim_config.warmup_steps
  cosine = optax.cosine_decay_schedule(
    optim_config.peak_lr,
    total_steps - warmup,
    alpha=optim_config.end_lr / optim_config.peak_lr,
  )
  if not warmup:
    return cosine
  linear = optax.linear_schedule(
    optim_config.start_lr, optim_config.peak_lr, warmup
  )
  return optax.join_schedules([linear, cosine], [warmup])


def decay_mask(params: Any) -> Any:
  """Returns a tree of bools: True for parameters that have weight decay.

  These are the weights of linear maps and convolutions. Arrays of at most one
  dimension, biases, norms, embeddings (tokens, positions, queries),
  relative-position tables and the logit scale have none. Sources: GroupViT,
  `utils/optimizer.py`; MaskFormer's Swin recipe, `train_net.py`.
  """

  def decays(path: Any, leaf: Any) -> bool:
    name = jax.tree_util.keystr(path[-1:], simple=True)
    return leaf.ndim > 1 and not _NO_DECAY.search(name)

  return jax.tree.map_with_path(decays, params)


def build(config: Any) -> optax.GradientTransformation:
  """Returns the optimizer: AdamW, after clipping of the gradients.

  Gradients are clipped by their global norm, unless `clip_norm` is 0.

  Args:
    config: the whole config; `optim`, `total_steps` and `text.frozen` are
      read.
  """
  c = config.optim
  adamw = optax.adamw(
    schedule(c, config.total_steps),
    b1=c.b1,
    b2=c.b2,
    eps=c.eps,
    weight_decay=c.weight_decay,
    mask=decay_mask,
  )
  learns = adamw
  if c.clip_norm:
    learns = optax.chain(optax.clip_by_global_norm(c.clip_norm), adamw)
  if not config.text.frozen:
    return learns
  # Without gradients alone, weight decay would still shrink the text tower.
  return optax.multi_transform(
    {"learns": learns, "stays": optax.set_to_zero()}, _parts
  )


def _parts(params: Any) -> Any:
  """Returns a tree of "stays", for the text tower, and "learns"."""
  return {
    name: jax.tree.map(
      lambda _, name=name: "stays" if name in TEXT_PARTS else "learns", part
    )
    for name, part in params.items()
  }
