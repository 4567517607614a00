"""Window attention in one kernel equals window attention in several steps."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental.pallas import tpu as pltpu

from sseg_jax import sharding
from sseg_jax.models import sseg, swin_attention, windows
from sseg_jax.models.kernels import window_attention

DIM, HEADS, WINDOW = 16, 2, 3


def _mesh(devices=1):
  return jax.make_mesh(
    (devices, 1),
    ("data", "fsdp"),
    axis_types=(jax.sharding.AxisType.Auto,) * 2,
    devices=jax.devices()[:devices],
  )


def assert_kernels_change_nothing(devices, shifted):
  """Outputs and gradients of one attention, windows split over devices."""
  rng = np.random.default_rng(0)
  plain, one_kernel = (
    swin_attention.WindowAttention(
      DIM, HEADS, WINDOW, dtype=jnp.float32, rngs=nnx.Rngs(0)
    )
    for _ in range(2)
  )
  swin_attention.use_kernels(one_kernel, _mesh(devices))
  regions = windows.shift_regions(6, 9, WINDOW, 1) if shifted else None
  maps = 4
  x = jnp.asarray(rng.normal(size=(maps * 6, WINDOW**2, DIM)), jnp.float32)
  found = {}
  for name, module in (("plain", plain), ("kernel", one_kernel)):
    graphdef, params = nnx.split(module)
    # Weights large enough that logits differ, and some that drop out.
    params = jax.tree.map(lambda p: 10 * p, params)

    def loss(params, x, graphdef=graphdef):
      y = nnx.merge(graphdef, params)(x, regions)
      return jnp.sin(y).sum(), y

    step = jax.grad(loss, (0, 1), has_aux=True)
    called = "pallas_call" in str(jax.make_jaxpr(step)(params, x))
    assert called == (name == "kernel")
    found[name] = jax.tree.map(np.asarray, jax.jit(step)(params, x))
  for a, e in zip(
    jax.tree.leaves(found["kernel"]),
    jax.tree.leaves(found["plain"]),
    strict=True,
  ):
    np.testing.assert_allclose(a, e, atol=1e-5 * max(1, np.abs(e).max()))


@pytest.mark.slow
@pytest.mark.parametrize("shifted", [False, True])
def test_equals_plain_attention(shifted):
  with pltpu.force_tpu_interpret_mode():
    assert_kernels_change_nothing(1, shifted)


@pytest.mark.slow
def test_devices_add_up_the_gradient_of_their_biases():
  script = (
    "import test_window_attention as t\n"
    "from jax.experimental.pallas import tpu as pltpu\n"
    "with pltpu.force_tpu_interpret_mode():\n"
    "  t.assert_kernels_change_nothing(4, True)\n"
    "print('equal')\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", script],
    env=os.environ
    | {
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
      "PYTHONPATH": os.pathsep.join(sys.path),
    },
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.stdout.strip() == "equal", done.stderr


def test_maps_that_devices_would_share_are_left_to_xla():
  module = swin_attention.WindowAttention(
    DIM, HEADS, WINDOW, dtype=jnp.float32, rngs=nnx.Rngs(0)
  )
  swin_attention.use_kernels(module, _mesh())
  # Twelve windows are no whole number of maps of nine: no kernel is called,
  # which would fail here.
  regions = windows.shift_regions(9, 9, WINDOW, 1)[:8]
  assert not swin_attention._has_whole_maps(_mesh(), 12, regions)


@pytest.mark.parametrize(
  ("m", "channels", "itemsize", "expected"),
  [
    (512, 7 * 96, 2, 16),  # the first stage's
    (32, 7 * 384, 2, 8),
    (8, 7 * 768, 2, 4),
    (9, 7 * 768, 2, 3),
    (7, 7 * 6144, 4, 1),
  ],
)
def test_blocks_of_windows(m, channels, itemsize, expected):
  found = window_attention.windows_in_a_block(m, 49, channels, itemsize)
  assert found == expected


def test_only_tpus_have_kernels(tiny_config):
  tiny_config.pallas = True
  assert sharding.mesh_of_kernels(tiny_config, _mesh()) is None
  assert sharding.mesh_of_kernels(tiny_config, None) is None


def test_a_model_is_given_kernels_where_there_is_a_mesh(tiny_config):
  tiny_config.model.backbone = "swin_t"
  mesh = _mesh()
  for given in (None, mesh):
    model = nnx.merge(*sseg.build(tiny_config, given))
    found = [
      module.mesh
      for _, module in nnx.iter_modules(model)
      if isinstance(module, swin_attention.WindowAttention)
    ]
    assert found == [given] * 12
