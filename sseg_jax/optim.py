"""Learning rate, weight decay and the optimizer."""

import functools
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
# Parts of the model that `text.frozen` and `model.frozen` keep as they are.
TEXT_PARTS = ("text", "text_projection")
IMAGE_PARTS = ("backbone",)
# Parts that learn from a loss of their own. Their gradients are clipped apart,
# so that the other parts have the updates that they have without them.
APART = ("teacher_masks",)


def schedule(optim_config: Any, total_steps: int) -> optax.Schedule:
  """Returns the learning rate as a function of the step.

  "cosine" rises linearly from `start_lr` to `peak_lr` in `warmup_steps`, then
  falls to `end_lr` along a cosine. `total_steps` include the `warmup_steps`, as
  in GroupViT (`utils/lr_scheduler.py`). "poly" falls from the first step on,
  and the warm-up is a factor of it, as in mmcv (`runner/hooks/lr_updater.py`)
  and detectron2 (`projects/DeepLab/deeplab/lr_scheduler.py`).

  Args:
    optim_config: `config.optim`.
    total_steps: step at which the rate reaches `end_lr`; it then stays there.
  """
  warmup = optim_config.warmup_steps
  if optim_config.schedule == "poly":
    return _poly(optim_config, total_steps)
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


def _poly(c: Any, total_steps: int) -> optax.Schedule:
  falls = optax.polynomial_schedule(c.peak_lr, c.end_lr, c.power, total_steps)
  if not c.warmup_steps:
    return falls
  rises = optax.linear_schedule(c.start_lr / c.peak_lr, 1.0, c.warmup_steps)
  return lambda step: falls(step) * rises(step)


def layer_factors(params: Any, decay: float) -> Any:
  """Returns the factor of the learning rate of each array, a tree of floats.

  It is 1 outside of the backbone's ViT, `decay` for its last block, and is
  multiplied by `decay` from a block to the one before it; tokens, positions and
  the patch embedding are before the first. The blocks of `teacher_tail` count
  as the last of such a ViT. Source: BEiT,
  semantic_segmentation/mmcv_custom/layer_decay_optimizer_constructor.py.
  """

  def names(path: Any) -> list[str]:
    found = jax.tree_util.keystr(path, simple=True, separator=".")
    return found.replace("teacher_tail.", "backbone.vit.", 1).split(".")

  paths = [names(path) for path, _ in jax.tree.leaves_with_path(params)]
  inside = ["backbone", "vit", "blocks"]
  numbers = [int(path[3]) for path in paths if path[:3] == inside]
  depth = max(numbers, default=-1) + 1

  def factor(path: Any, leaf: Any) -> float:
    del leaf
    name = names(path)
    if name[:3] == inside:
      return decay ** (depth - int(name[3]))
    first = name[2:3] in (["tokens"], ["positions"], ["patch_embedding"])
    if name[:2] == inside[:2] and first:
      return decay ** (depth + 1)
    return 1.0

  return jax.tree.map_with_path(factor, params)


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

  Gradients are clipped by their global norm, those of the parts `APART` by a
  norm of their own, unless `clip_norm` is 0.

  Args:
    config: the whole config; `optim`, `total_steps`, `text.frozen` and
      `model.frozen` are read.
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
  if c.layer_decay != 1:
    # The update is in proportion to the rate, that of weight decay as well.
    learns = optax.chain(adamw, _by_layer(c.layer_decay))
  if c.clip_norm:
    clip = optax.clip_by_global_norm(c.clip_norm)
    if config.model.teacher_masks:
      clip = _apart(clip)
    learns = optax.chain(clip, learns)
  stay: tuple[str, ...] = TEXT_PARTS if config.text.frozen else ()
  stay += IMAGE_PARTS if config.model.frozen else ()
  if not stay:
    return learns
  # Without gradients alone, weight decay would still shrink these parts.
  return optax.multi_transform(
    {"learns": learns, "stays": optax.set_to_zero()},
    functools.partial(_parts, stay),
  )


def _apart(clip: optax.GradientTransformation) -> optax.GradientTransformation:
  """Clips the gradients of `APART` by themselves, and so all others."""

  def clipped(updates: Any, params: Any = None) -> Any:
    del params
    apart = {name: x for name, x in updates.items() if name in APART}
    others = {name: x for name, x in updates.items() if name not in APART}
    found = [clip.update(x, optax.EmptyState())[0] for x in (apart, others)]
    return {**found[0], **found[1]}

  return optax.stateless(clipped)


def _by_layer(decay: float) -> optax.GradientTransformation:
  def scaled(updates: Any, params: Any = None) -> Any:
    del params
    factors = layer_factors(updates, decay)
    return jax.tree.map(lambda x, factor: x * factor, updates, factors)

  return optax.stateless(scaled)


def _parts(stay: tuple[str, ...], params: Any) -> Any:
  """Returns a tree of "stays", for these parts of a model, and "learns"."""
  return {
    name: jax.tree.map(
      lambda _, name=name: "stays" if name in stay else "learns", part
    )
    for name, part in params.items()
  }
