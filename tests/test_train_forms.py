"""The forms of the loss, each on the batch of `test_train_step.py`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree
from test_train_step import BATCH, CLASSES, B, assert_equal

from sseg_jax import train_step
from sseg_jax.errors import InputError
from sseg_jax.models import sseg

pytestmark = pytest.mark.slow  # each form compiles for some five seconds


def forward(config, *classes):
  """Returns a function of variables and a batch: the metrics of its loss."""
  setup = train_step.make_setup(config, *classes)

  @jax.jit
  def compute(params, model_state, batch):
    model = nnx.merge(setup.graphdef, params, model_state)
    return train_step.sseg_loss(
      setup, model, setup.frozen, batch, jax.random.key(0)
    )[1]

  def of_arrays(params, model_state, batch):
    return compute(params, model_state, jax.tree.map(jnp.asarray, batch))

  return of_arrays


class Descent:
  """Trains a form of the loss by its gradients, with Adam over one vector.

  The optimiser of `Run` has operations for each of a hundred arrays. To compile
  them again with each form takes as long as the form itself.
  """

  def __init__(self, config):
    self.setup = train_step.make_setup(config, CLASSES)
    # The step itself is traced: a form must fit the optimiser as well.
    abstract = train_step.abstract_state(self.setup)
    step = functools.partial(train_step.train_step, self.setup)
    after, _ = jax.eval_shape(step, abstract, self.setup.frozen, BATCH)
    assert jax.tree.structure(after) == jax.tree.structure(abstract)
    self.start = params, self.model_state = sseg.init(config, config.seed)
    self.vector, self._unravel = ravel_pytree(params)
    self._gradient = jax.jit(self._of_vector)

  def _of_vector(self, vector, model_state, frozen, batch, step):
    key = jax.random.fold_in(jax.random.key(0), step)
    (loss, (metrics, model_state)), grads = train_step.value_and_grad(
      self.setup,
      self._unravel(vector),
      model_state,
      frozen,
      batch,
      key,
    )
    metrics = metrics | {"loss": loss}
    return metrics, model_state, ravel_pytree(grads)[0]

  def step(self, batch=BATCH):
    """Returns the first step's metrics and its gradient."""
    batch = jax.tree.map(jnp.asarray, batch)
    metrics, _, gradient = self._gradient(
      self.vector, self.model_state, self.setup.frozen, batch, 0
    )
    return metrics, gradient

  def losses(self, steps):
    batch = jax.tree.map(jnp.asarray, BATCH)
    optimizer = optax.adam(3e-3)
    update = jax.jit(optimizer.update)
    vector, model_state, losses = self.vector, self.model_state, []
    moments = optimizer.init(vector)
    for i in range(steps):
      metrics, model_state, gradient = self._gradient(
        vector, model_state, self.setup.frozen, batch, i
      )
      assert np.isfinite(gradient).all()
      updates, moments = update(gradient, moments)
      vector += updates
      losses.append(float(metrics["loss"]))
    return losses


def test_mask_pooled_without_deep_supervision(make_tiny_config):
  config = make_tiny_config()
  config.model.query_embedding = "mask_pooled"
  config.model.mean = "after"
  config.model.proj_norm = "none"
  config.model.decoder_layers = 2
  config.model.deep_supervision = False
  config.model.dropout = 0.0
  config.text.layers = 1
  other = Descent(config)
  losses = other.losses(12)
  assert losses[-1] < 0.8 * losses[0]
  # One decoder layer of two is supervised; of all, the sum is the loss.
  config.model.deep_supervision = True
  of_both = forward(config, CLASSES)(*other.start, BATCH)["loss/mask"]
  assert other.step()[0]["loss/mask"] < 0.75 * of_both


def test_supervised(make_tiny_config):
  config = make_tiny_config()
  config.task = "supervised"
  config.model.mean = "after"
  config.text.layers = 1
  run = Descent(config)
  losses = run.losses(12)
  assert losses[-1] < 0.8 * losses[0]
  metrics, _ = run.step()
  assert {"loss/mask", "loss/pixel"} <= set(metrics)
  # Captions are not looked at.
  assert_equal(run.step(BATCH | {"text": BATCH["text"][::-1]}), run.step())


@pytest.mark.parametrize("named", ["classes", "pseudo_masks"])
def test_supervised_by_regions(make_tiny_config, named):
  """Words are learned on true masks, or on pseudo-masks with true names."""
  config = make_tiny_config()
  config.task = "supervised"
  config.text.layers = 2
  config.loss.label_regions = named
  config.model.mean = "after"
  config.model.query_embedding = "mask_pooled"
  config.model.pool_masks = "pseudo"
  config.model.pool_feature = "stem"
  config.loss.mask_every = config.model.decoder_layers = 2
  config.loss.mask = 0.0
  run = Descent(config)
  losses = run.losses(20)
  assert losses[-1] < 0.5 * losses[0]
  metrics, _ = run.step()
  assert metrics["loss"] == metrics["loss/region"]
  # At first all classes are about as likely.
  assert abs(metrics["loss"] - np.log(len(CLASSES))) < 0.7
  # A picture that does not count is not learned from.
  valid = BATCH["valid"] & (np.arange(B) != 3)
  labels, image = BATCH["labels"].copy(), BATCH["image"].copy()
  labels[3], image[3] = 4 - np.minimum(labels[3], 4), 255 - image[3]
  other = {"valid": valid, "labels": labels, "image": image}
  first = run.step(BATCH | {"valid": valid})[0]["loss/region"]
  np.testing.assert_allclose(
    run.step(BATCH | other)[0]["loss/region"], first, rtol=1e-5
  )


def stem_config(make_tiny_config, **fields):
  config = make_tiny_config()
  config.model.query_embedding = "mask_pooled"
  config.model.pool_masks = "pseudo"
  config.model.pool_feature = "stem"
  config.model.mean = "after"
  config.model.proj_norm = "none"
  config.model.dropout = 0.0
  config.text.layers = 1
  config.loss.update(fields)
  return config


@pytest.fixture(scope="module")
def stem_params(make_tiny_config):
  config = stem_config(make_tiny_config)
  return sseg.init(config, config.seed)[0]


def test_words_and_masks_are_taught_apart(make_tiny_config, stem_params):
  """With a stem, each loss reaches its own part of the network alone."""
  setups = [
    train_step.make_setup(
      stem_config(make_tiny_config, mask=mask, contrastive=1.0 - mask)
    )
    for mask in (0.0, 1.0)
  ]

  @jax.jit  # one program, which computes once what both losses share
  def gradients(params, batch):
    def loss(params, setup):
      model = nnx.merge(setup.graphdef, params, {})
      return train_step.sseg_loss(
        setup, model, {"pseudo_masks": {}}, batch, jax.random.key(0)
      )[0]

    return [
      {name: optax.tree.norm(tree) for name, tree in grads.items()}
      for grads in (jax.grad(loss)(params, setup) for setup in setups)
    ]

  norms = gradients(stem_params, jax.tree.map(jnp.asarray, BATCH))
  words = {
    *("stem", "image_projection", "text", "text_projection", "logit_scale")
  }
  for name in norms[0]:
    assert (norms[0][name] > 0) == (name in words), name
    assert (norms[1][name] > 0) == (name not in words), name


def test_masks_from_every_other_picture(make_tiny_config, stem_params):
  """Of a batch's rows 0, 2, …; the pipeline puts each picture there in turn."""

  def losses(**fields):
    compute = forward(stem_config(make_tiny_config, **fields))
    return functools.partial(compute, stem_params, {})

  whole = losses()
  of_all = whole(BATCH)
  of_half = losses(mask_every=2)(BATCH)
  # The words are those of all pictures, the masks those of the first, third …
  np.testing.assert_allclose(
    of_half["loss/contrastive"], of_all["loss/contrastive"], rtol=1e-5
  )
  counted = BATCH | {"valid": np.arange(B) % 2 == 0}
  only = whole(counted)
  np.testing.assert_allclose(of_half["loss/mask"], only["loss/mask"], rtol=1e-5)
  assert abs(of_half["loss/mask"] - of_all["loss/mask"]) > 1e-4


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"mask_every": 3}, "loss.mask_every=3.*divide batch_size=8"),
    ({"mask_every": 0}, "loss.mask_every=0.*at least 1"),
    ({"mask_stride": 3}, "loss.mask_stride=3: must be 1, 2 or 4"),
  ],
)
def test_fields_of_the_mask_loss(make_tiny_config, fields, message):
  with pytest.raises(InputError, match=message):
    train_step.make_setup(stem_config(make_tiny_config, **fields))


def test_mask_every_needs_words_without_masks(make_tiny_config):
  config = stem_config(make_tiny_config, mask_every=2)
  config.model.pool_feature = "res2+stem"
  with pytest.raises(InputError, match="use 1, or .*pool_feature='stem'"):
    train_step.make_setup(config)


@pytest.mark.parametrize("form", ["caption_attends", "words"])
def test_captions_that_see_regions(make_tiny_config, form):
  config = stem_config(make_tiny_config, mask=0.0, contrastive_form=form)
  config.text.layers = 0 if form == "words" else 1
  run = Descent(config)
  assert ("blocks" in run.start[0]["text"]) == (form != "words")
  losses = run.losses(12)
  assert losses[-1] < 0.9 * losses[0]
  # A batch in two parts gives the same gradient.
  config.accumulate_steps = 2
  config.loss.contrastive_block = 4
  parts, whole = Descent(config).step(), run.step()
  np.testing.assert_allclose(parts[1], whole[1], atol=1e-5)


def test_forms_that_cannot_work_are_refused(make_tiny_config):
  config = make_tiny_config()
  config.loss.contrastive_form = "words"
  with pytest.raises(InputError, match=r"model\.mean='after'"):
    train_step.make_setup(config)
  config = make_tiny_config()
  config.text.layers = 0
  with pytest.raises(InputError, match=r"text\.layers=0"):
    train_step.make_setup(config)
