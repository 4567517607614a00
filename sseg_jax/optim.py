"""Learning rate, weight decay and the optimizer."""

import re
from typing import Any

import jax
import optax

# Matches the last name in the path of arrays that are not weights of a linear
# map or a convolution. The rank is not enough to tell: tables and the biases of
# attention heads have two dimensions too.
_NO_DECAY = re.compile(
  r"bias|scale|norm|token|embedding|position|quer(y|ies)|table"
)


def schedule(optim_config: Any, total_steps: int) -> optax.Schedule:
  """Linear warm-up from `start_lr` to `peak_lr`, then a cosine to `end_lr`.

  The warm-up's `warmup_steps` are part of the `total_steps`, as in GroupViT
  (`utils/lr_scheduler.py`).

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
  """Returns a tree of bools: which parameters have weight decay.

  All have it except arrays of at most one dimension, biases, norms, embeddings
  (tokens, positions, queries), relative-position tables and the logit scale
  (GroupViT, `utils/optimizer.py`; MaskFormer's Swin recipe, `train_net.py`).
  """

  def decays(path: Any, leaf: Any) -> bool:
    name = jax.tree_util.keystr(path[-1:], simple=True)
    return leaf.ndim > 1 and not _NO_DECAY.search(name)

  return jax.tree.map_with_path(decays, params)


def build(config: Any) -> optax.GradientTransformation:
  """Returns clipping by global norm (unless `clip_norm` is 0), then AdamW.

  Args:
    config: the whole configuration; reads `optim` and `total_steps`.
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
  if not c.clip_norm:
    return adamw
  return optax.chain(optax.clip_by_global_norm(c.clip_norm), adamw)
