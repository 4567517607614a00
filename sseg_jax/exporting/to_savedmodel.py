"""A TensorFlow SavedModel, by jax2tf."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sseg_jax import data
from sseg_jax.exporting.towers import Towers

# erf(x) = x A(x²) / B(x²) for |x| up to 3.83, highest power first; the fit to
# float32 that Eigen and XLA use.
_A = (
  -2.72614225801306e-10,
  2.77068142495902e-08,
  -2.10102402082508e-06,
  -5.69250639462346e-05,
  -7.34990630326855e-04,
  -2.95459980854025e-03,
  -1.60960333262415e-02,
)
_B = (
  -1.45660718464996e-05,
  -2.13374055278905e-04,
  -1.68282697438203e-03,
  -7.37332916720468e-03,
  -1.42647390514189e-02,
)


def erf(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
  """Returns the error function of float32, from products and a quotient.

  TensorFlow does not read the operation that `lax.erf` becomes.
  """
  x = jnp.clip(x, -4, 4)
  square = x * x
  above, below = (jnp.full_like(x, part[0]) for part in (_A, _B))
  for factor in _A[1:]:
    above = above * square + factor
  for factor in _B[1:]:
    below = below * square + factor
  return x * above / below


@contextlib.contextmanager
def _readable_erf() -> Iterator[None]:
  with mock.patch.object(lax, "erf", erf):
    yield


def write(towers: Towers, folder: Path, fields: dict) -> None:
  """Writes one model with both functions and the weights."""
  del fields
  tf = data.import_tensorflow()
  from jax.experimental import jax2tf

  side, length, width = towers.image_size, towers.context_length, towers.width
  weights = {k: tf.Variable(v) for k, v in towers.weights.items()}

  def converted(function, shapes):
    # A function of its own: what is traced here is not found again elsewhere.
    call = jax2tf.convert(
      lambda *x: function(*x),
      polymorphic_shapes=[None, *shapes],
      with_gradient=False,
    )
    return lambda *x: call(weights, *x)

  class Model(tf.Module):
    """Both functions on the same variables."""

    def __init__(self):
      super().__init__()
      # A list: names with slashes are no attributes.
      self.variables_held = list(weights.values())

  model = Model()
  with _readable_erf():
    model.embed_classes = tf.function(
      converted(towers.embed_classes, ["c, t, ..."]),
      input_signature=[tf.TensorSpec((None, None, length), tf.int32)],
      autograph=False,
    )
    model.segment = tf.function(
      converted(towers.segment, ["b, ...", "c, ...", None]),
      input_signature=[
        tf.TensorSpec((None, side, side, 3), tf.float32),
        tf.TensorSpec((None, width), tf.float32),
        tf.TensorSpec((), tf.float32),
      ],
      autograph=False,
    )
    tf.saved_model.save(model, folder / "model")
