"""Which settings a run may change on its way, and how that is told."""

import json

import pytest

from sseg_jax import default_config
from sseg_jax.checkpoints import changes
from sseg_jax.errors import InputError

# What a run may not change; everything else it may.
STAY = {
  "task": "supervised",
  "seed": 1,
  "batch_size": 32,
  "loss.mask_every": 2,
  "data.source": "shapes",
  "data.lanes": 2,
  "data.shuffle_window": 3,
  "data.shapes.train_size": 5,
  "data.shapes.hard_share": 0.25,
  "model.backbone": "swin_t",
  "model.memory": "res3",
  "model.num_heads": 4,
  "model.mean": "after",
  "model.stem_widths": (8,),
  "text.width": 8,
  "optim.clip_norm": 0.0,
}
MAY = {
  "total_steps": 7,
  "accumulate_steps": 2,
  "dtype": "float32",
  "model.dropout": 0.5,
  "model.remat": "nothing_saveable",
  "text.dropout": 0.5,
  "optim.peak_lr": 1.0,
  "optim.warmup_steps": 1,
  "loss.dice": 2.0,
  "data.flip": 0.25,
  "data.crop_scale": (0.5, 1.0),
  "data.train": "elsewhere",
  "evaluate.benchmarks": "a=b",
  "checkpoint.keep": 9,
}


def _changed(field, value):
  config = default_config.get_config()
  config.update_from_flattened_dict({field: value})
  return config


def _stored(config):
  """As the metadata of a checkpoint comes back."""
  return {"config": json.loads(json.dumps(config.to_dict()))}


def test_the_same_is_no_change():
  config = default_config.get_config()
  assert changes.since(_stored(config), config, "run") == {}
  assert changes.since({}, config, "run") == {}


@pytest.mark.parametrize(("field", "value"), STAY.items())
def test_what_must_stay_is_named_with_both_values(field, value):
  config = default_config.get_config()
  old = json.loads(json.dumps(changes.flat(config.to_dict())[field]))
  new = json.loads(json.dumps(value))
  with pytest.raises(InputError) as raised:
    changes.since(_stored(config), _changed(field, value), "run")
  assert f"run holds a run with {field}={old!r}, not {new!r}:" in str(
    raised.value
  )


@pytest.mark.parametrize(("field", "value"), MAY.items())
def test_what_may_change_is_returned(field, value):
  config = default_config.get_config()
  old = json.loads(json.dumps(changes.flat(config.to_dict())[field]))
  new = json.loads(json.dumps(value))
  found = changes.since(_stored(config), _changed(field, value), "run")
  assert found == {field: [old, new]}


def test_the_run_s_own_folders_are_no_change():
  config = default_config.get_config()
  config.data.source = "shapes"
  config.evaluate.benchmarks = "mine=x"
  stored = _stored(config)
  stored["config"]["data"] |= {"train": "w/data/train", "val": "w/data/val"}
  stored["config"]["evaluate"]["benchmarks"] = "w/a,w/b,w/c,mine=x"
  assert changes.since(stored, config, "run") == {}
  config.evaluate.benchmarks = ""
  found = changes.since(stored, config, "run")
  assert found == {"evaluate.benchmarks": ["mine=x", ""]}


def test_a_field_that_is_new_had_its_default():
  config = default_config.get_config()
  stored = _stored(config)
  del stored["config"]["data"]["lanes"], stored["config"]["loss"]["focal"]
  stored["config"]["gone"] = 3
  config.loss.focal = 3.0
  assert changes.since(stored, config, "run") == {"loss.focal": [20.0, 3.0]}


def test_other_records_are_refused():
  config = _changed("data.train", "a,b")
  for known, found in (("x", "x"), (None, "x"), ("x", None)):
    changes.check_records({"records": known}, found, config, "run")
  changes.check_records({}, "x", config, "run")
  with pytest.raises(InputError, match="other records than .*data.train='a,b'"):
    changes.check_records({"records": "x"}, "y", config, "run")
