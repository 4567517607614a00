"""What bfloat16 may round: products and activations, nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sseg_jax import losses, matching
from sseg_jax.inference import scoring
from sseg_jax.models import maskformer, swin, text, vit
from sseg_jax.pseudo_masks import kmeans

LOW = jnp.dtype("bfloat16")
# What moves or picks numbers, and may do so in any type.
MOVES = {
  "broadcast_in_dim",
  "concatenate",
  "convert_element_type",
  "copy",
  "dynamic_slice",
  "gather",
  "jit",
  "map",
  "pad",
  "remat2",
  "reshape",
  "scan",
  "scatter-add",
  "select_n",
  "slice",
  "squeeze",
  "stop_gradient",
  "transpose",
}
DECODER = dict(
  channels={"res2": 8, "res3": 8, "res4": 16, "res5": 16},
  hidden_dim=16,
  mask_dim=12,
  num_queries=5,
  decoder_layers=1,
  num_heads=4,
  ffn_dim=32,
  dropout=0.0,
  memory="res5",
  deep_supervision=True,
)


def operations(jaxpr):
  """Yields every operation of a jaxpr, those of loops and functions too."""
  for eqn in jaxpr.eqns:
    yield eqn
    if eqn.primitive.name == "scatter-add":
      continue  # in gradients of what was picked once: nothing is summed
    for value in jax.tree.leaves(
      list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
    ):
      inner = getattr(value, "jaxpr", value)
      if hasattr(inner, "eqns"):
        yield from operations(inner)


def in_low_precision(function, *args):
  """Returns the names of the operations that read bfloat16."""
  return {
    eqn.primitive.name
    for eqn in operations(jax.make_jaxpr(function)(*args).jaxpr)
    if any(getattr(v.aval, "dtype", None) == LOW for v in eqn.invars)
  }


def normal(*shape, seed=0):
  values = np.random.default_rng(seed).normal(size=shape)
  return jnp.asarray(values, jnp.float32)


def pyramid():
  return {
    name: normal(2, 16 // 2**i, 24 // 2**i, channels, seed=i)
    for i, (name, channels) in enumerate(DECODER["channels"].items())
  }


NETWORKS = {
  "text": (
    functools.partial(
      text.TextTower,
      vocab_size=50,
      context_length=12,
      width=16,
      layers=2,
      num_heads=4,
    ),
    lambda: jnp.asarray(np.random.default_rng(0).integers(0, 50, (8, 12))),
  ),
  "vit": (
    functools.partial(vit.ViT, patch=4, width=16, depth=2, num_heads=2, grid=6),
    lambda: normal(2, 16, 20, 3),
  ),
  "swin": (
    functools.partial(
      swin.Swin, embed_dim=8, depths=(2, 1), num_heads=(1, 2), window=3
    ),
    lambda: normal(2, 24, 24, 3),
  ),
  "maskformer": (functools.partial(maskformer.MaskFormer, **DECODER), pyramid),
}


@functools.cache
def network(name):
  """Returns the forward pass in a given type, random parameters, an input."""
  build, make_input = NETWORKS[name]

  def graph_and_state(dtype):
    return nnx.split(
      nnx.eval_shape(lambda: build(dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0)))
    )

  rng = np.random.default_rng(0)

  def draw(leaf):  # signals keep their size; norms and biases are not trivial
    fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 25
    values = rng.normal(0, fan_in**-0.5, leaf.shape)
    return jnp.asarray(values + (len(leaf.shape) == 1), leaf.dtype)

  def run(dtype, params, x):
    return nnx.merge(graph_and_state(dtype)[0], params)(x)

  params = jax.tree.map(draw, graph_and_state("float32")[1])
  return run, params, make_input()


def rounded(tree):
  def one(x):
    return x.astype(LOW).astype(x.dtype) if x.dtype == jnp.float32 else x

  return jax.tree.map(one, tree)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_costs_little_more_than_rounding_what_goes_in(name):
  run, params, x = network(name)
  full = jax.jit(functools.partial(run, "float32"))
  exact, once = full(params, x), full(rounded(params), rounded(x))
  low = jax.jit(functools.partial(run, "bfloat16"))(params, x)

  def error(output, reference):
    difference = output.astype(jnp.float32) - reference
    return float(jnp.sqrt((difference**2).mean() / (reference**2).mean()))

  got, unavoidable = (
    jax.tree.leaves(jax.tree.map(error, outputs, exact))
    for outputs in (low, once)
  )
  assert all(
    0 < g < 3 * u < 0.02 for g, u in zip(got, unavoidable, strict=True)
  )


@pytest.mark.parametrize("name", NETWORKS)
def test_softmax_and_norms_are_in_float32(name):
  run, params, x = network(name)
  used = in_low_precision(functools.partial(run, "bfloat16"), params, x)
  assert "dot_general" in used
  assert not used & {"exp", "rsqrt", "sqrt", "div", "log", "reduce_sum"}


def _mask_loss(logits):
  labels, valid = jnp.zeros((2, 8, 8), jnp.int32), jnp.ones((2, 3), bool)
  return losses.mask_loss(
    logits, labels, valid, dice_weight=1.0, focal_weight=20.0, k=3
  )[0]


def _contrastive(embeddings):
  return losses.contrastive(
    embeddings,
    jnp.ones(embeddings.shape),
    jnp.float32(1),
    jnp.ones(4, bool),
    max_logit_scale=100.0,
  )[0]


COMPUTED_IN_FLOAT32 = {
  "mask_loss": (jax.grad(_mask_loss), (2, 2, 5, 4, 4)),
  "contrastive": (jax.grad(_contrastive), (4, 6)),
  "cost": (
    lambda x: matching.cost_matrix(x, jnp.zeros((2, 3, 4, 4))),
    (2, 2, 5, 4, 4),
  ),
  "match": (
    lambda x: matching.match(x, jnp.ones((2, 3), bool)),
    (2, 3, 5),
  ),
  "kmeans": (
    lambda x: kmeans.kmeans(x, jax.random.split(jax.random.key(0), 2), k=3),
    (2, 9, 4),
  ),
  "class_probabilities": (
    lambda x: scoring.class_probabilities(
      x, jnp.ones((3, 4)), jnp.float32(1), max_logit_scale=100.0
    ),
    (2, 5, 4),
  ),
}


@pytest.mark.parametrize("name", COMPUTED_IN_FLOAT32)
def test_bfloat16_is_only_moved_by(name):
  function, shape = COMPUTED_IN_FLOAT32[name]
  used = in_low_precision(function, jnp.zeros(shape, LOW))
  assert "convert_element_type" in used
  assert not used - MOVES
