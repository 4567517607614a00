"""One step of training, as pure functions of arrays.

On a first read, go straight to `train_step`; then `sseg_loss`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Float

from sseg_jax import accumulation, errors, losses, optim, sharding, tokenizer
from sseg_jax.models import pooling, pretrained, query_embedding, sseg
from sseg_jax.models.dropout import ExampleRngs
from sseg_jax.pseudo_masks import generator
from sseg_jax.tasks import supervised

Metrics = dict[str, Array]


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


@dataclasses.dataclass(frozen=True)
class Setup:
  """The static parts of a step, and the frozen arrays that it takes.

  Attributes:
    config: the run's fields.
    graphdef: structure of the model.
    generator: makes the pseudo-masks.
    optimizer: the optax transformation.
    frozen: arrays that are never trained: the generator's network and, in the
      supervised task, the tokens of the class names.
    mesh: the mesh over which batches are split. Some parts of the step name
      their sharding on it. With None the compiler chooses every sharding.
  """

  config: Any
  graphdef: nnx.GraphDef
  generator: generator.PseudoMasks
  optimizer: optax.GradientTransformation
  frozen: dict[str, Any]
  mesh: Mesh | AbstractMesh | None = None


def make_setup(
  config: Any,
  class_names: tuple[str, ...] = (),
  mesh: Mesh | AbstractMesh | None = None,
  *,
  abstract: bool = False,
) -> Setup:
  """Checks `config` and builds what `train_step` closes over.

  Args:
    config: fields as in `default_config.py`.
    class_names: names of the label classes, for the supervised task.
    mesh: the mesh over which batches are split; see `Setup`.
    abstract: whether to use shapes in place of the frozen network's weights;
      `sseg_jax.plan` does.

  Raises:
    InputError: if a field has a value that cannot work.
  """
  _check_mask_every(config, mesh)
  _check_mask_stride(config)
  _check_accumulation(config)
  _check_contrastive_block(config, mesh)
  graphdef, _, _ = sseg.build(config, sharding.mesh_of_kernels(config, mesh))
  made = generator.for_training(config, mesh, abstract=abstract)
  frozen = {"pseudo_masks": made.frozen}
  if config.task == "supervised":
    tokens = tokenizer.Tokenizer(config.text.context_length)(
      [f"a photo of a {name}." for name in class_names]
    )
    frozen["class_tokens"] = tokens
  return Setup(config, graphdef, made, optim.build(config), frozen, mesh)


def _check_mask_every(config: Any, mesh: Any) -> None:
  every, model = config.loss.mask_every, config.model
  if every < 1 or config.batch_size % every:
    raise errors.InputError(
      f"loss.mask_every={every}: must be at least 1 and divide"
      f" batch_size={config.batch_size}"
    )
  # The rows of a process may lie on devices that do not follow one another in
  # the mesh; each device must then hold whole groups of `mask_every` rows.
  if (
    isinstance(mesh, Mesh)
    and len({d.process_index for d in mesh.devices.flat}) > 1
  ):
    rows = config.batch_size // mesh.size
    if rows % every:
      raise errors.InputError(
        f"loss.mask_every={every}: must divide the {rows} pictures of a device"
        f" (batch_size={config.batch_size} on {mesh.size} devices)"
      )
  by_regions = query_embedding.by_regions(model)
  if config.task == "supervised" and not by_regions:
    return  # every picture learns masks
  alone = by_regions and model.pool_feature == "stem"
  if every > 1 and not alone:
    raise errors.InputError(
      f"loss.mask_every={every}: words need every picture's masks or backbone;"
      " use 1, or model.query_embedding='mask_pooled' with"
      " model.pool_masks='pseudo' and model.pool_feature='stem'"
    )


def _check_mask_stride(config: Any) -> None:
  stride = config.loss.mask_stride
  if stride not in (1, 2, 4):
    raise errors.InputError(
      f"loss.mask_stride={stride}: must be 1, 2 or 4, the logits' own"
    )


def _check_accumulation(config: Any) -> None:
  steps, every = config.accumulate_steps, config.loss.mask_every
  if steps < 1 or config.batch_size % (steps * every):
    raise errors.InputError(
      f"accumulate_steps={steps}: must be at least 1 and, times"
      f" loss.mask_every={every}, divide batch_size={config.batch_size}"
    )
  if steps > 1 and config.task != "sseg":
    raise errors.InputError(
      f"accumulate_steps={steps}: task={config.task!r} takes its batch in one"
      " piece; use 1"
    )


def _check_contrastive_block(config: Any, mesh: Any) -> None:
  block, devices = config.loss.contrastive_block, mesh.size if mesh else 1
  if block < 0 or (block and (config.batch_size % block or block % devices)):
    raise errors.InputError(
      f"loss.contrastive_block={block}: must divide batch_size="
      f"{config.batch_size} and be a multiple of the {devices} devices, or 0"
    )


def init_state(setup: Setup) -> TrainState:
  """Returns the state before the first step, random with seed `config.seed`.

  The parts that `model.weights` and `text.weights` name start from those
  weights. Raises InputError if the weights do not fit the model.
  """
  params, model_state = sseg.init(setup.config, setup.config.seed)
  params, model_state = pretrained.load(setup.config, params, model_state)
  return TrainState(
    jnp.zeros((), jnp.int32),
    params,
    model_state,
    jax.jit(setup.optimizer.init)(params),
  )


def abstract_state(setup: Setup) -> TrainState:
  """Returns the shapes and types of the state's arrays; computes nothing."""
  _, params, model_state = sseg.build(setup.config)
  step: Any = jax.ShapeDtypeStruct((), jnp.int32)
  return TrainState(
    step,
    params,
    model_state,
    jax.eval_shape(setup.optimizer.init, params),
  )


def pseudo_mask_labels(
  setup: Setup, frozen: dict[str, Any], batch: dict[str, Array]
) -> tuple[Array, Array]:
  """Returns label maps int32 [b,h/s,w/s] and which masks exist, bool [b,k].

  The clusters of a picture depend only on the picture, its id and the seed.
  """
  config = setup.config
  if config.pseudo_masks.mode == "cached":
    labels = batch["pseudo_labels"]
    k = config.pseudo_masks.k
    present = labels[:, None] == jnp.arange(k)[None, :, None, None]
    return labels, present.any((2, 3))
  key = jax.random.key(config.seed)
  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(batch["id"])
  image = batch.get("teacher_image", batch["image"])
  labels, present = setup.generator.generate(
    frozen["pseudo_masks"], image, keys
  )
  return jax.lax.stop_gradient(labels), present


class Features(NamedTuple):
  """What the towers compute of each pair for the contrastive loss.

  Attributes:
    parts, counts: `sseg.ImageFeatures.part_features` and `.counts`.
    text: [b, d], output of the text tower before the projection.
  """

  parts: Array
  counts: Array
  text: Array


def towers(
  setup: Setup,
  model: sseg.SSeg,
  batch: dict[str, Array],
  labels: Array,
  present: Array,
  key: Array,
  count: Array | None = None,
) -> tuple[tuple[Features, Array], Metrics]:
  """Returns each pair's features and the weighted mask loss, and metrics.

  `labels` and `present` come from `pseudo_mask_labels`. `count` is the number
  of valid masks in the whole batch, if `batch` is only a part of it
  (`losses.mask_loss`).
  """
  config, weights = setup.config, setup.config.loss
  valid, every = batch["valid"], weights.mask_every
  _, h, w, _ = batch["image"].shape
  regions = None
  if query_embedding.by_regions(config.model):
    stride = config.model.pool_stride
    regions = pooling.region_shares(labels, present, (h, w), stride)
  image_key, text_key = jax.random.split(key)
  image = model.image_features(
    batch["image"],
    train=True,
    rngs=ExampleRngs.from_ids(image_key, batch["id"]),
    valid=valid,
    regions=regions,
    masks_every=every,
  )
  text = model.text(
    batch["text"],
    train=True,
    rngs=ExampleRngs.from_ids(text_key, batch["id"]),
  )
  mask, metrics = losses.mask_loss(
    image.mask_logits,
    labels[::every],
    (present & valid[:, None])[::every],
    dice_weight=weights.dice,
    focal_weight=weights.focal,
    k=config.pseudo_masks.k,
    size=(h // weights.mask_stride, w // weights.mask_stride),
    count=count,
  )
  features = Features(image.part_features, image.counts, text)
  return (features, weights.mask * mask), metrics | {"loss/mask": mask}


def compare(
  setup: Setup, model: sseg.SSeg, features: Features, valid: Array
) -> tuple[Array, Metrics]:
  """Returns the weighted contrastive loss of a whole batch, and metrics."""
  weights = setup.config.loss
  _, image = model.embed_parts(
    features.parts, features.counts, train=True, valid=valid
  )
  text = model.embed_text(features.text, train=True, valid=valid)
  loss, metrics = losses.contrastive(
    image,
    text,
    model.logit_scale[...],
    valid,
    max_logit_scale=weights.max_logit_scale,
    block=weights.contrastive_block,
    mesh=setup.mesh,
  )
  return weights.contrastive * loss, metrics | {"loss/contrastive": loss}


def sseg_loss(
  setup: Setup,
  model: sseg.SSeg,
  frozen: dict[str, Any],
  batch: dict[str, Array],
  key: Array,
) -> tuple[Float[Array, ""], Metrics]:
  """Returns Eq. 4: weighted mask loss plus weighted contrastive loss."""
  labels, present = pseudo_mask_labels(setup, frozen, batch)
  (features, mask), metrics = towers(setup, model, batch, labels, present, key)
  contrastive, more = compare(setup, model, features, batch["valid"])
  return mask + contrastive, metrics | more


def supervised_loss(
  setup: Setup,
  model: sseg.SSeg,
  frozen: dict[str, Any],
  batch: dict[str, Array],
  key: Array,
) -> tuple[Float[Array, ""], Metrics]:
  """Returns the loss on true label maps (`supervised.loss`)."""
  tokens = frozen["class_tokens"]
  return supervised.loss(setup.config, model, tokens, batch, key)


LOSSES: dict[str, Callable[..., tuple[Array, Metrics]]] = {
  "sseg": sseg_loss,
  "supervised": supervised_loss,
}


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

  def merged(f, *args):
    model = nnx.merge(setup.graphdef, *args)
    outputs, metrics = f(model)
    return outputs, (metrics, sseg.split(model)[2])

  config = setup.config
  if config.accumulate_steps == 1:

    def loss_fn(params):
      return merged(
        lambda model: LOSSES[config.task](setup, model, frozen, batch, key),
        params,
        model_state,
      )

    return jax.value_and_grad(loss_fn, has_aux=True)(params)

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
    return merged(
      lambda model: towers(setup, model, part, labels, present, key, count),
      params,
      model_state,
    )

  def compare_all(params, model_state, features):
    return merged(
      lambda model: compare(setup, model, features, batch["valid"]),
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

  Pure: jit it with `setup` static (or closed over) and `state` donated. With a
  non-finite loss or gradient the parameters, statistics and optimiser stay as
  they were, and the metric `bad` is 1.

  Args:
    setup: see `Setup`.
    state: before the step.
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
