import json
import logging
import os
import shutil
import subprocess
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xla_flags

from sseg_jax.checkpoints import checkpoint
from sseg_jax.errors import InputError

METADATA = {"config": {"seed": 3, "model": {"backbone": "swin_s"}}}


class State(NamedTuple):
  step: jax.Array
  params: dict
  model_state: dict
  opt_state: Any


def _state(seed=0, width=8):
  """A state of all types that occur, with bits that a conversion loses."""
  rng = np.random.default_rng(seed)
  params = {
    "blocks": {
      0: {"kernel": jnp.asarray(rng.normal(size=(4, width)), jnp.float32)},
      11: {"kernel": jnp.asarray(rng.normal(size=(3,)), jnp.bfloat16)},
    },
    "logit_scale": jnp.float32(np.pi + seed),
  }
  return State(
    step=jnp.uint32(4_000_000_000 + seed),
    params=params,
    model_state={"norm": {"mean": jnp.asarray(rng.normal(size=(4,)))}},
    opt_state=optax.chain(
      optax.clip_by_global_norm(1.0), optax.adamw(1e-3)
    ).init(params),
  )


def _abstract(state):
  return jax.eval_shape(lambda x: x, state)


def _open(path, **options):
  options = {"keep": 3, "every_steps": 10, "every_minutes": 0, **options}
  return checkpoint.Checkpoints(
    path / "checkpoints", metadata=METADATA, **options
  )


def _save(path, steps):
  checkpoints = _open(path)
  for step in steps:
    checkpoints.save(step, _state(step))
  checkpoints.close()
  return path / "checkpoints"


def _restore(path, state):
  checkpoints = _open(path)
  try:
    return checkpoints.restore(state)
  finally:
    checkpoints.close()


def _assert_same_bits(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, e in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    assert (a.dtype, a.shape) == (e.dtype, e.shape)
    assert np.asarray(a).tobytes() == np.asarray(e).tobytes()


def _largest_file(step_folder):
  files = (p for p in (step_folder / "state").rglob("*") if p.is_file())
  return max(files, key=lambda p: p.stat().st_size)


def test_round_trip_keeps_every_bit(tmp_path):
  _save(tmp_path, [10])
  _assert_same_bits(_restore(tmp_path, _abstract(_state())), _state(10))


def test_arrays_come_back_with_the_sharding_asked_for(tmp_path):
  _save(tmp_path, [10])
  restored = _restore(tmp_path, _state())
  _assert_same_bits(restored, _state(10))
  for a, e in zip(
    jax.tree.leaves(restored), jax.tree.leaves(_state()), strict=True
  ):
    assert isinstance(a, jax.Array) and a.sharding == e.sharding


def test_nothing_saved_restores_none(tmp_path):
  assert _restore(tmp_path, _abstract(_state())) is None


def _save_if_due(checkpoints, step):
  due = checkpoints.due(step)
  if due:
    checkpoints.save(step, _state(step))
  return due


def test_saves_at_the_steps_asked_for_and_keeps_the_last(tmp_path):
  checkpoints = _open(tmp_path, keep=2)
  saved = [s for s in range(1, 41) if _save_if_due(checkpoints, s)]
  checkpoints.save(
    40, _state(0)
  )  # the end of the run saves again: nothing to do
  checkpoints.close()
  assert saved == [10, 20, 30, 40]
  names = {p.name for p in (tmp_path / "checkpoints").iterdir()}
  assert names == {"30", "40"}
  _assert_same_bits(_restore(tmp_path, _abstract(_state())), _state(40))


def test_saves_by_time(tmp_path, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
  checkpoints = _open(tmp_path, every_steps=0, every_minutes=1.0)
  saved = []
  for step in range(1, 8):
    now[0] += 25.0
    if _save_if_due(checkpoints, step):
      saved.append(step)
  monkeypatch.undo()
  checkpoints.close()
  assert saved == [3, 6]


def _truncate(folder):
  path = _largest_file(folder)
  path.write_bytes(path.read_bytes()[:-1])


def _remove(folder):
  _largest_file(folder).unlink()


def _flip(folder):
  path = _largest_file(folder)
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def _flip_metadata(folder):
  path = folder / "metadata" / "metadata"
  path.write_text(path.read_text().replace("swin_s", "swin_t"))


def _unseal(folder):
  (folder / "manifest.json").unlink()


def _garble_manifest(folder):
  (folder / "manifest.json").write_text("{")


DAMAGES = [_truncate, _remove, _flip, _flip_metadata, _unseal, _garble_manifest]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_falls_back_loudly(tmp_path, caplog, damage):
  folder = _save(tmp_path, [10, 20])
  damage(folder / "20")
  with caplog.at_level(logging.WARNING):
    loaded = checkpoint.load(tmp_path)
    assert loaded.step == 10
    checkpoints = _open(tmp_path)
    restored = checkpoints.restore(_abstract(_state()))
  _assert_same_bits(restored, _state(10))
  assert caplog.text.count("CHECKPOINT DAMAGED") == 2
  # The run comes by the same step again, and its checkpoint counts.
  checkpoints.save(20, _state(21))
  checkpoints.close()
  _assert_same_bits(_restore(tmp_path, _abstract(_state())), _state(21))
  assert (tmp_path / "checkpoints.damaged" / "20").is_dir()


def test_none_whole_is_an_error_and_not_a_fresh_start(tmp_path):
  folder = _save(tmp_path, [10, 20])
  _flip(folder / "10")
  _truncate(folder / "20")
  with pytest.raises(InputError, match=r"steps \[10, 20\]"):
    _restore(tmp_path, _abstract(_state()))
  with pytest.raises(InputError, match="is whole"):
    checkpoint.load(tmp_path)
  assert (folder / "20").is_dir()  # nothing is moved away


def test_each_byte_of_the_arrays_is_covered(tmp_path):
  folder = _save(tmp_path, [10]) / "10"
  named = json.loads((folder / "manifest.json").read_text())["sha256"]
  files = {
    str(p.relative_to(folder))
    for item in ("state", "metadata")
    for p in (folder / item).rglob("*")
    if p.is_file() and p.name != "commit_success.txt"
  }
  assert set(named) == files


def test_another_model_is_refused_with_the_first_difference(tmp_path):
  _save(tmp_path, [10])
  with pytest.raises(
    InputError,
    match=r"params/blocks/0/kernel is float32\[4, 8\] there and"
    r" float32\[4, 16\] here",
  ):
    _restore(tmp_path, _abstract(_state(width=16)))
  fewer = _state()._replace(model_state={})
  with pytest.raises(InputError, match="model_state/norm/mean .* missing here"):
    _restore(tmp_path, _abstract(fewer))
  more = _state()._replace(
    model_state={**_state().model_state, "x": jnp.ones(2)}
  )
  with pytest.raises(InputError, match="model_state/x is missing there"):
    _restore(tmp_path, _abstract(more))


@pytest.mark.parametrize("where", ["", "checkpoints", "checkpoints/20"])
def test_load_finds_the_folder(tmp_path, where):
  _save(tmp_path, [10, 20])
  loaded = checkpoint.load(tmp_path / where)
  assert loaded.step == 20
  assert loaded.config == METADATA["config"]
  assert loaded.metadata["versions"]["jax"] == jax.__version__
  # Keys of NNX lists are ints again.
  _assert_same_bits(loaded.params, _state(20).params)
  _assert_same_bits(loaded.model_state, _state(20).model_state)
  assert all(type(x) is np.ndarray for x in jax.tree.leaves(loaded.params))


def test_a_copy_of_a_step_has_any_name(tmp_path):
  folder = _save(tmp_path, [10, 20])
  for name in ("my model", "20.copy", "best", "state"):
    shutil.copytree(folder / "20", tmp_path / "copies" / name)
    loaded = checkpoint.load(tmp_path / "copies" / name)
    assert loaded.step == 4_000_000_020  # what the state itself says
    _assert_same_bits(loaded.params, _state(20).params)
  _flip(tmp_path / "copies" / "my model")
  with pytest.raises(InputError, match="my model is whole"):
    checkpoint.load(tmp_path / "copies" / "my model")
  (tmp_path / "copies" / "best" / "state").rename(tmp_path / "gone")
  with pytest.raises(InputError, match="best is whole"):
    checkpoint.load(tmp_path / "copies" / "best")


def test_a_run_called_by_a_number_is_no_step(tmp_path):
  for year in ("2024", "2025"):
    _save(tmp_path / year, [10])
  assert checkpoint.load(tmp_path / "2024").step == 10
  with pytest.raises(InputError, match="it holds the runs 2024, 2025; give a"):
    checkpoint.load(tmp_path)
  (tmp_path / "2026").mkdir()
  (tmp_path / "2026" / "config.json").write_text("{}")
  with pytest.raises(InputError, match="it holds config.json; give a run's"):
    checkpoint.load(tmp_path / "2026")


def test_what_was_found_in_place_of_a_checkpoint_is_told(tmp_path):
  (tmp_path / "run" / "checkpoints").mkdir(parents=True)
  (tmp_path / "empty").mkdir()
  (tmp_path / "file").write_text("")
  for name, message in (
    ("run", "its folder checkpoints holds no step"),
    ("run/checkpoints", "it is empty"),
    ("empty", "it is empty"),
    ("file", "it is a file"),
    ("absent/below", f"there is no such folder in {tmp_path}"),
    ("", "it holds the runs run"),
  ):
    with pytest.raises(InputError, match=f"holds no checkpoint: {message}"):
      checkpoint.load(tmp_path / name)


def test_load_of_one_step(tmp_path):
  _save(tmp_path, [10, 20])
  assert checkpoint.load(tmp_path, step=10).step == 10
  with pytest.raises(InputError, match=r"no step 15; it has \[10, 20\]"):
    checkpoint.load(tmp_path, step=15)
  with pytest.raises(InputError, match="holds no checkpoint"):
    checkpoint.load(tmp_path / "nowhere")


def test_a_save_that_was_killed_is_cleaned_up(tmp_path):
  folder = _save(tmp_path, [10])
  (folder / "20.orbax-checkpoint-tmp").mkdir()
  _assert_same_bits(_restore(tmp_path, _abstract(_state())), _state(10))
  assert {p.name for p in folder.iterdir()} == {"10"}


def test_the_state_may_be_donated_right_after_the_save(tmp_path):
  """The next step overwrites the memory while the files are still written."""
  state = {"params": {"kernel": jnp.arange(2.0**20).reshape(1024, 1024)}}
  expected = np.array(state["params"]["kernel"], copy=True)
  step = jax.jit(
    lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0
  )
  jax.block_until_ready(step(jax.tree.map(jnp.copy, state)))
  checkpoints = _open(tmp_path)
  checkpoints.save(10, state)
  for _ in range(3):
    state = step(state)
  checkpoints.close()
  kernel = checkpoint.load(tmp_path).params["kernel"]
  np.testing.assert_array_equal(kernel, expected)


def test_relative_paths(tmp_path, monkeypatch):
  _save(tmp_path, [10])
  monkeypatch.chdir(tmp_path)
  checkpoints = checkpoint.Checkpoints(
    "checkpoints", keep=1, every_steps=1, every_minutes=0, metadata=METADATA
  )
  _assert_same_bits(checkpoints.restore(_abstract(_state())), _state(10))
  checkpoints.close()
  assert checkpoint.load("checkpoints/10").step == 10


def test_keep_is_checked(tmp_path):
  with pytest.raises(InputError, match="checkpoint.keep is 0"):
    _open(tmp_path, keep=0)
  with pytest.raises(InputError, match="checkpoint.keep_best is -1"):
    _open(tmp_path, keep_best=-1)


def _steps(path):
  return sorted(int(p.name) for p in path.iterdir() if p.name.isdigit())


def test_the_best_stay_beside_the_newest(tmp_path):
  checkpoints = _open(tmp_path, keep=2, keep_best=1)
  scores = {10: 5.0, 15: 9.0, 20: 9.0, 30: float("nan"), 40: 3.0, 45: 4.0}
  kept = []
  for step in range(1, 61):
    _save_if_due(checkpoints, step)
    if step in scores and checkpoints.rate(step, _state(step), scores[step]):
      kept.append(step)
  checkpoints.close()
  folder = tmp_path / "checkpoints"
  assert kept == [10, 15]  # 15 was saved for its score, 20 is no better
  assert _steps(folder) == [15, 50, 60]
  assert checkpoint.load(tmp_path / "best").step == 15
  assert checkpoint.load(tmp_path).step == 60
  _assert_same_bits(_restore(tmp_path, _abstract(_state())), _state(60))

  # Started again it goes on comparing, with those that are still there.
  (folder / "15").rename(tmp_path / "15")
  checkpoints = _open(tmp_path, keep=1, keep_best=1)
  assert checkpoints.rate(65, _state(65), 1.0)
  assert not checkpoints.rate(65, _state(65), float("nan"))
  assert checkpoints.rate(66, _state(66), 2.0)
  checkpoints.save(70, _state(70))
  checkpoints.close()
  assert _steps(folder) == [66, 70]


def test_no_best_is_told(tmp_path, caplog):
  folder = _save(tmp_path, [10])
  with pytest.raises(InputError, match="no checkpoint there was scored"):
    checkpoint.load(tmp_path / "best")
  (folder / "best.json").write_text('{"scores": [')
  with pytest.raises(InputError, match="no checkpoint there was scored"):
    checkpoint.load(tmp_path / "best")
  assert "best.json is not readable" in caplog.text


@pytest.mark.parametrize("damage", ["truncate", "remove", "flip"])
def test_marks_of_orbax_are_not_needed(tmp_path, damage):
  """The manifest does not cover them, since nothing is read from them."""
  folder = _save(tmp_path, [10])
  marks = {p for p in (folder / "10").iterdir() if p.is_file()}
  marks |= set((folder / "10").rglob("commit_success.txt"))
  marks = {p for p in marks if p.name != "manifest.json"}
  assert marks
  for path in marks:
    data = bytearray(path.read_bytes())
    if damage == "truncate":
      path.write_bytes(data[: len(data) // 2])
    elif damage == "remove":
      path.unlink()
    elif data:
      data[len(data) // 2] ^= 16
      path.write_bytes(data)
  _assert_same_bits(_restore(tmp_path, _abstract(_state())), _state(10))
  assert checkpoint.load(tmp_path).step == 10


# Saves split over eight devices; the caller loads on one.
EIGHT = """
import sys, types
import jax, numpy as np
from sseg_jax import sharding
from sseg_jax.checkpoints import checkpoint

mesh = sharding.make_mesh(types.SimpleNamespace(data=-1, fsdp=4))
kernel = np.arange(2**15, dtype=np.float32).reshape(256, 128)
state = {"params": {"kernel": kernel}}
state = jax.device_put(state, sharding.state_sharding(state, mesh))
assert not state["params"]["kernel"].sharding.is_fully_replicated
checkpoints = checkpoint.Checkpoints(
  sys.argv[1], keep=1, every_steps=1, every_minutes=0, metadata={}
)
checkpoints.save(1, state)
restored = checkpoints.restore(state)["params"]["kernel"]
assert restored.sharding == state["params"]["kernel"].sharding
np.testing.assert_array_equal(restored, kernel)
checkpoints.close()
"""


@pytest.mark.slow
def test_any_topology_loads_what_another_wrote(tmp_path):
  flags = xla_flags.simulated_devices(8)
  subprocess.run(
    [sys.executable, "-c", EIGHT, str(tmp_path / "checkpoints")],
    check=True,
    env={**os.environ, "XLA_FLAGS": flags},
  )
  expected = np.arange(2**15, dtype=np.float32).reshape(256, 128)
  loaded = checkpoint.load(tmp_path)
  np.testing.assert_array_equal(loaded.params["kernel"], expected)
  state = {"params": {"kernel": jnp.zeros((256, 128), jnp.float32)}}
  restored = _restore(tmp_path, state)
  np.testing.assert_array_equal(restored["params"]["kernel"], expected)
