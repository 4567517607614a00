"""A run that starts from another run, and a text tower that stays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sseg_jax import optim
from sseg_jax.checkpoints import checkpoint
from sseg_jax.errors import InputError
from sseg_jax.tasks import start


def _zeros(tree, change=lambda name, x: x):
  return jax.tree.map_with_path(
    lambda path, x: np.zeros_like(
      change(jax.tree_util.keystr(path, simple=True, separator="."), x)
    ),
    tree,
  )


@pytest.mark.slow
def test_arrays_of_the_same_name_and_shape_are_taken(
  stored_network, tiny_config, caplog
):
  loaded = checkpoint.load(stored_network / "run")
  tiny_config.start_from = str(stored_network / "run")

  def wider(name, x):
    return np.concatenate([x, x]) if name.startswith("image_projection") else x

  params = _zeros(loaded.params, wider)
  params["another"] = np.zeros(3, np.float32)
  with caplog.at_level("INFO"):
    new, _ = start.from_run(tiny_config, params, _zeros(loaded.model_state))
  for name in ("backbone", "maskformer", "text"):
    jax.tree.map(np.testing.assert_array_equal, new[name], loaded.params[name])
  assert not any(
    x.any() for x in jax.tree.leaves((new["image_projection"], new["another"]))
  )
  assert "random: another (1), image_projection" in caplog.text


def test_a_start_that_cannot_be_is_refused(stored_network, tiny_config):
  loaded = checkpoint.load(stored_network / "run")
  params = {"nothing": np.zeros(3)}
  assert start.from_run(tiny_config, params, {}) == (params, {})
  tiny_config.start_from = str(stored_network / "run")
  with pytest.raises(InputError, match="start_from=.*none of its parameters"):
    start.from_run(tiny_config, params, {})
  tiny_config.start_from = "nowhere"
  with pytest.raises(InputError, match="nowhere"):
    start.from_run(tiny_config, loaded.params, {})


def test_a_frozen_text_tower_gets_no_update_and_no_decay(tiny_config):
  tiny_config.text.frozen = True
  part = {"kernel": jnp.ones((2, 2))}
  params = {"text": part, "text_projection": part, "backbone": part}
  optimizer = optim.build(tiny_config)
  updates, _ = optimizer.update(
    jax.tree.map(jnp.ones_like, params), optimizer.init(params), params
  )
  new = optax.apply_updates(params, updates)
  np.testing.assert_array_equal(new["text"]["kernel"], 1)
  np.testing.assert_array_equal(new["text_projection"]["kernel"], 1)
  assert (new["backbone"]["kernel"] < 1).all()
