"""The step is compiled once, and moves nothing between host and device."""

import functools

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
import small_vit
from test_configs import ROOT, load
from test_train_end_to_end import TINY

from sseg_jax import sharding, train_step
from sseg_jax.errors import InputError
from sseg_jax.models import backbones
from sseg_jax.runtime.compiled_step import CompiledStep


def step(state, frozen, batch):
  return state + batch["x"].sum() * frozen, {"mean": batch["y"].mean()}


def batch(n=3, dtype=jnp.int32):
  return {"x": jnp.ones(n), "y": jnp.ones(n, dtype)}


@pytest.mark.parametrize(
  ("second", "message"),
  [
    (batch(4), r"batch/x was float32\[3\], is float32\[4\]; batch/y was"),
    (batch(dtype=jnp.int8), r"batch/y was int32\[3\], is int8\[3\]; make"),
    ({"x": jnp.ones(3)}, r"batch/y was int32\[3\], is absent"),
    (batch() | {"z": jnp.ones(2)}, r"batch/z was absent, is float32\[2\]"),
  ],
)
def test_what_would_be_compiled_anew_is_named(second, message):
  run = CompiledStep(jax.jit(step))
  assert run(jnp.float32(0), jnp.float32(2), batch())[0] == 6
  with pytest.raises(InputError, match=message):
    run(jnp.float32(0), jnp.float32(2), second)
  assert run(jnp.float32(1), jnp.float32(2), batch())[0] == 7


def test_arrays_of_the_host_are_refused():
  run = CompiledStep(jax.jit(step))
  with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
    run(jnp.float32(0), jnp.float32(2), jax.device_get(batch()))


@pytest.fixture
def compilations():
  """Durations of what the compiler did since the list was last cleared."""
  found = []

  def listen(event, seconds, **_):
    if "backend_compile" in event:
      found.append(seconds)

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield found
  jax.monitoring.clear_event_listeners()


def quickstart(config, _):
  for name, value in TINY.items():
    if name.startswith(("model.", "text.", "image_", "batch_")):
      config.update_from_flattened_dict({name: value})


def cc26m(config, folder):
  """As published, bfloat16 and DINO online, but every size is small."""
  config.update(batch_size=4, image_size=64)
  config.model.update(hidden_dim=32, mask_dim=32, decoder_layers=1, ffn_dim=32)
  config.model.update(num_queries=10, proj_hidden=32, embed_dim=16)
  config.text.update(layers=1, width=32, context_length=16, num_heads=2)
  config.pseudo_masks.weights = small_vit.write(folder / "vit.npz")


@pytest.mark.slow
@pytest.mark.parametrize("shrink", [quickstart, cc26m])
def test_published_steps_compile_once_and_transfer_nothing(
  shrink, tmp_path, monkeypatch, compilations
):
  network, sizes = backbones.BACKBONES["swin_s"]
  sizes = sizes | dict(embed_dim=16, depths=(2, 1, 1, 1), num_heads=(1,) * 4)
  monkeypatch.setitem(backbones.BACKBONES, "swin_s", (network, sizes))
  config = load(ROOT / "configs" / f"{shrink.__name__}.py").get_config()
  shrink(config, tmp_path)
  mesh = sharding.make_mesh(config.mesh)
  setup = train_step.make_setup(config, mesh=mesh)
  shardings = sharding.state_sharding(train_step.abstract_state(setup), mesh)
  state = jax.device_put(train_step.init_state(setup), shardings)
  frozen = jax.device_put(setup.frozen, sharding.replicated(mesh))
  assert bool(jax.tree.leaves(frozen)) == (shrink is cc26m)
  run = CompiledStep(
    jax.jit(
      functools.partial(train_step.train_step, setup),
      donate_argnums=0,
      out_shardings=(shardings, sharding.replicated(mesh)),
    )
  )
  rng = np.random.default_rng(0)
  b, side = config.batch_size, config.image_size
  counts = []
  for i in range(3):
    host_batch = {
      "id": np.arange(i * b, (i + 1) * b, dtype=np.uint32),
      "valid": np.ones(b, bool),
      "image": rng.integers(0, 256, (b, side, side, 3), dtype=np.uint8),
      "text": rng.integers(1, 49408, (b, config.text.context_length), np.int32),
    }
    arrays = sharding.global_batch(host_batch, mesh)
    compilations.clear()
    state, metrics = run(state, frozen, arrays)
    counts.append(len(compilations))
    assert np.isfinite(jax.device_get(metrics["loss"]))
  assert counts == [1, 0, 0]
