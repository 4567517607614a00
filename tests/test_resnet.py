"""The ResNet backbone: sizes, and pictures that do not count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sseg_jax.exporting import to_onnx
from sseg_jax.models import backbones, resnet


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "count"), [("resnet50", 23_508_032), ("resnet101", 42_500_160)]
)
def test_parameters_and_levels(name, count):
  model = nnx.eval_shape(
    lambda: backbones.build(
      name, drop_path=0.0, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0)
    )
  )
  params = nnx.state(model, nnx.Param)
  assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
  assert model.channels == {
    "res2": 256,
    "res3": 512,
    "res4": 1024,
    "res5": 2048,
  }
  outputs = nnx.eval_shape(
    lambda model: model(jnp.zeros((2, 64, 96, 3))), model
  )
  for level, value in outputs.items():
    stride = model.strides[level]
    shape = (2, 64 // stride, 96 // stride, model.channels[level])
    assert value.shape == shape


def test_pictures_that_are_not_valid_leave_no_trace(rng):
  image = jnp.asarray(rng.normal(size=(3, 8, 8, 3)).astype(np.float32))
  spoilt = image.at[2].set(1e3)
  valid = jnp.array([True, True, False])

  def run(image, valid):
    layer = resnet.ConvNorm(
      3, 4, 3, stride=2, dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    out = layer(image, train=True, valid=valid)
    return out[:2], layer.norm.mean[...], layer.norm.var[...]

  whole = run(image[:2], None)
  masked = run(spoilt, valid)
  for a, b in zip(whole, masked, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the converter
def test_the_onnx_converter_takes_the_padded_maximum(tmp_path, rng):
  pytest.importorskip("jax2onnx")
  onnxruntime = pytest.importorskip("onnxruntime")
  model = resnet.ResNet(depths=(1, 1, 1, 1), width=4, rngs=nnx.Rngs(0))
  image = rng.normal(size=(1, 64, 64, 3)).astype(np.float32)
  path = tmp_path / "resnet.onnx"
  inputs = {"image": (image.shape, np.float32)}
  to_onnx._write(path, lambda x: model(x)["res5"], inputs, ["res5"])
  session = onnxruntime.InferenceSession(path)
  (found,) = session.run(None, {"image": image})
  image = jnp.asarray(image)
  np.testing.assert_allclose(found, model(image)["res5"], atol=1e-4)
