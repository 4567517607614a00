"""A training step, and each of its parts alone.

Parts that are trained run forward and backward. Their times do not add up to
the time of the step, because parts of one program share work and cached data.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sseg_jax import default_config, losses, matching, optim, train_step
from sseg_jax.bench import frozen
from sseg_jax.bench.timing import Case, Way
from sseg_jax.models import layers, sseg
from sseg_jax.models.dropout import ExampleRngs
from sseg_jax.pseudo_masks import kmeans
from sseg_jax.pseudo_masks.tokens import Tokens


def step(small: bool) -> Case:
  """Builds the case."""
  teacher = frozen.vit_s16()
  b, side = (2, 64) if small else (8, 224)
  c = default_config.get_config()
  c.batch_size, c.image_size, c.dtype = b, side, "float32"
  c.model.backbone = "swin_t"
  if small:
    c.model.update(num_queries=12, decoder_layers=1, ffn_dim=64)
    c.model.update(proj_hidden=64)
    c.text.layers = 1
  c.pseudo_masks.stride = teacher.stride
  graphdef, params, statistics = sseg.build(c)
  setup = train_step.Setup(
    c,
    graphdef,
    (params, statistics),
    teacher,
    optim.build(c),
    {"pseudo_masks": teacher.frozen},
  )
  state = train_step.init_state(setup)
  rng = np.random.default_rng(0)
  image = jnp.asarray(rng.integers(256, size=(b, side, side, 3)), jnp.uint8)
  text = rng.integers(1, 49_000, size=(b, c.text.context_length))
  batch = {
    "id": jnp.arange(b),
    "valid": jnp.ones(b, bool),
    "image": image,
    "text": jnp.asarray(text, jnp.int32),
  }
  whole = jax.jit(functools.partial(train_step.train_step, setup))

  def run() -> Any:
    return jax.block_until_ready(whole(state, setup.frozen, batch)[0].step)

  return Case(
    f"training step of Swin-T, {c.text.layers} layers of text, frozen ViT-S/16,"
    f" batch {b}, {side} px, float32; parts alone",
    {
      "the whole step": run,
      **_networks(setup, state, batch, teacher),
      **_clustering(batch, teacher),
      **_losses(setup, batch, teacher),
      "optimizer": _optimizer(setup, state),
    },
  )


def _networks(
  setup: train_step.Setup,
  state: train_step.TrainState,
  batch: dict[str, jax.Array],
  teacher: Tokens,
) -> dict[str, Way]:
  """Returns the trained networks, forward and backward."""
  params = state.params

  def trained(call: Callable[..., Any], *inputs: Any) -> Way:
    """Gradients with respect to the parameters and, if floats, the inputs."""

    def loss(params, inputs):
      model = nnx.merge(setup.graphdef, params, state.model_state)
      rngs = ExampleRngs.from_ids(jax.random.key(0), batch["id"])
      leaves = jax.tree.leaves(call(model, rngs, *inputs))
      return sum(jnp.square(x).mean() for x in leaves)

    floats = all(x.dtype == jnp.float32 for x in jax.tree.leaves(inputs))
    gradient = jax.jit(jax.grad(loss, (0, 1) if floats else 0))
    return _run(gradient, params, inputs)

  pixels = layers.normalize_pixels(batch["image"], jnp.float32)
  model = nnx.merge(setup.graphdef, params, state.model_state)
  shapes = nnx.eval_shape(lambda x: model.backbone(x), pixels)
  levels = {name: _normal(*x.shape) for name, x in shapes.items()}
  return {
    "backbone": trained(
      lambda model, rngs, x: model.backbone(x, train=True, rngs=rngs), pixels
    ),
    "pixel decoder": trained(
      lambda model, _, levels: model.maskformer.fpn(levels), levels
    ),
    "pixel decoder, decoder and masks": trained(
      lambda model, rngs, levels: (
        model.maskformer(levels, train=True, rngs=rngs).mask_logits
      ),
      levels,
    ),
    "text tower": trained(
      lambda model, rngs, text: model.text(text, train=True, rngs=rngs),
      batch["text"],
    ),
  }


def _clustering(batch: dict[str, jax.Array], teacher: Tokens) -> dict[str, Way]:
  """Returns the frozen network, and K-means on tokens of noise."""
  b, side = batch["image"].shape[:2]
  points = _normal(b, (side // teacher.stride) ** 2, 384)
  cluster = functools.partial(kmeans.kmeans, k=teacher.k, metric="cosine")
  return {
    "frozen ViT": _run(
      jax.jit(teacher.features), teacher.frozen, batch["image"]
    ),
    "K-means": _run(
      jax.jit(cluster), points, jax.random.split(jax.random.key(0), b)
    ),
  }


def _losses(
  setup: train_step.Setup, batch: dict[str, jax.Array], teacher: Tokens
) -> dict[str, Way]:
  """Returns the matching alone, and both losses with their gradients."""
  c = setup.config
  b, side = c.batch_size, c.image_size
  layer_count, queries = c.model.decoder_layers, c.model.num_queries
  masks = _normal(layer_count, b, queries, side // 4, side // 4)
  cells = side // teacher.stride
  labels = jnp.asarray(
    np.random.default_rng(1).integers(teacher.k, size=(b, cells, cells)),
    jnp.int32,
  )

  def mask_loss(masks, labels):
    return losses.mask_loss(
      masks,
      labels,
      jnp.ones((b, teacher.k), bool),
      dice_weight=c.loss.dice,
      focal_weight=c.loss.focal,
      k=teacher.k,
      size=(c.image_size // c.loss.mask_stride,) * 2,
    )[0]

  def contrastive(image, text):
    return losses.contrastive(
      image, text, jnp.float32(2), batch["valid"], max_logit_scale=100.0
    )[0]

  cost = _normal(layer_count * b, teacher.k, queries)
  embedded = _normal(2, b, c.model.embed_dim)
  valid = jnp.ones(cost.shape[:2], bool)
  return {
    "matching, costs given": _run(jax.jit(matching.match), cost, valid),
    "mask loss, with costs and matching": _run(
      jax.jit(jax.grad(mask_loss)), masks, labels
    ),
    "contrastive loss": _run(
      jax.jit(jax.grad(contrastive, (0, 1))), embedded[0], embedded[1]
    ),
  }


def _optimizer(setup: train_step.Setup, state: train_step.TrainState) -> Way:
  """Returns the update of all parameters."""

  def update(grads, moments, params):
    updates, moments = setup.optimizer.update(grads, moments, params)
    return jax.tree.map(jnp.add, params, updates), moments

  grads = jax.tree.map(lambda x: 1e-3 * jnp.ones_like(x), state.params)
  return _run(jax.jit(update), grads, state.opt_state, state.params)


def _normal(*shape: int) -> jax.Array:
  """Returns normal noise."""
  return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


def _run(function: Callable[..., Any], *arguments: Any) -> Way:
  return lambda: jax.block_until_ready(function(*arguments))
