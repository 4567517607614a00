"""The reader of exported folders: right values, and one line for bad files."""

import json

import numpy as np
import pytest

from sseg_jax.checkpoints import exported
from sseg_jax.errors import InputError

FIELDS = {
  "config": {"seed": 3},
  "words": ["cat"],
  "templates": ["{}"],
  "thresholds": {
    "values": {"default": 0.5},
    "combiner": "mean",
    "classes": {"default": 4},
  },
  "preprocessing": {},
  "step": 7,
  "commit": None,
}


@pytest.fixture
def folder(tmp_path, rng):
  tree = {
    "params": {
      "a": {0: rng.normal(size=(3, 2)).astype(np.float32).T},
      "scale": np.float32(2),
    },
    "model_state": {"mean": np.arange(3, dtype=np.float32)[::-1]},
    "frozen": {"b": np.zeros(1, np.float32)},
  }
  exported.save(tmp_path, tree, FIELDS)
  return tmp_path, tree


def test_what_is_saved_is_loaded(folder):
  path, tree = folder
  loaded = exported.load(path)
  assert exported.is_exported(path)
  np.testing.assert_array_equal(loaded.params["a"][0], tree["params"]["a"][0])
  np.testing.assert_array_equal(loaded.model_state["mean"], [2, 1, 0])
  assert loaded.params["scale"] == 2 and loaded.params["scale"].shape == ()
  assert (loaded.step, loaded.config) == (7, {"seed": 3})
  assert loaded.metadata["thresholds"] == {"default": 0.5}
  assert loaded.metadata["thresholds_of"] == {
    "combiner": "mean",
    "classes": {"default": 4},
  }


@pytest.mark.parametrize(
  "text, message",
  [
    ("{", "is not JSON"),
    ("[" * 100_000, "is not JSON"),
    ("[]", "no JSON object"),
    (json.dumps({}), "has no key 'config'"),
    (json.dumps(FIELDS | {"step": "7"}), "step is '7', of type str"),
    (json.dumps(FIELDS | {"step": True}), "step is 'True', of type bool"),
    (json.dumps(FIELDS | {"words": [1]}), "words holds what is no text"),
  ],
)
def test_a_bad_config_is_one_line(folder, text, message):
  path, _ = folder
  (path / exported.CONFIG).write_text(text)
  with pytest.raises(InputError, match="config.json") as caught:
    exported.load(path)
  assert message in str(caught.value)
  assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("cut", [0, 4, 30, -1])
def test_a_cut_file_of_weights_is_one_line(folder, cut):
  path, _ = folder
  file = path / exported.WEIGHTS
  file.write_bytes(file.read_bytes()[:cut])
  with pytest.raises(InputError, match="cannot be read as weights"):
    exported.load(path)


def test_an_array_below_another_is_refused(tmp_path):
  tree = {"params": {"a": np.zeros(1), "a/b": np.zeros(1)}}
  exported.save(tmp_path, tree, FIELDS)
  with pytest.raises(InputError, match="below another array"):
    exported.load(tmp_path)


def test_a_folder_without_files_is_no_export(tmp_path):
  assert not exported.is_exported(tmp_path)
  with pytest.raises(InputError, match="cannot be read"):
    exported.load(tmp_path)
