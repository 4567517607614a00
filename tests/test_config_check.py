"""Every field of a config is checked, all at once, whatever is given for it."""

import fuzz
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sseg_jax import config_check, config_files, default_config
from sseg_jax.errors import InputError
from sseg_jax.models import fields as models_fields
from sseg_jax.models import sseg
from sseg_jax.tasks import fields as tasks_fields
from sseg_jax.tasks import setup as tasks_setup

DEFAULT = default_config.get_config()
FIELDS = config_files.names(DEFAULT)
# Fields that name files, whose texts are anything.
TEXTS = {
  "model.teacher_features",  # read where the teacher is the backbone
  "model.weights",
  "text.weights",
  "pseudo_masks.weights",
  "data.train",
  "data.val",
  "checkpoint.best_score",
  "evaluate.benchmarks",
  "start_from",
  "self_training.teacher",
  "self_training.pictures",
  "self_training.names",
  "self_training.classes",
}
NUMBERS = st.one_of(
  st.integers(-3, 70),
  st.integers(),
  st.floats(),
  st.sampled_from([0.5, 1.0, "1e400", "-0", "0x10", "1_0", "٣"]),
).map(str)
VALUES = st.one_of(
  NUMBERS,
  st.lists(NUMBERS, max_size=4).map(lambda x: f"({','.join(x)})"),
  st.text(),
  st.sampled_from(["true", "False", "", "None", "(0.4, 1.0)", "[1,2]", "swin"]),
  # What other fields take.
  st.sampled_from(
    [w for r in config_check.RULES.values() for w in r.wanted.split(", ")]
  ),
)


def test_each_field_has_a_rule():
  assert set(config_check.RULES) == set(FIELDS)


def test_the_default_is_accepted():
  config_check.check(DEFAULT)
  assert config_check.check(DEFAULT.copy_and_resolve_references()) is None


@pytest.mark.slow
@fuzz.examples
@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1, max_size=3))
@example({"data.crop_scale": "(" * 200})
@example({"data.train": "\ud800"})
@example({"evaluate.templates": "\x00"})
@example({"batch_size": "9" * 5000})
@example({"pseudo_masks.feature": "keys:99999999999999999999"})
def test_any_text_for_any_field_is_taken_or_refused_in_a_line(overrides):
  try:
    config_check.check(config_files.overridden(DEFAULT, overrides))
  except InputError as error:
    message = str(error)
    assert any(name in message for name in overrides), message
    assert message.isprintable() and len(message) < 2000
  else:
    # What was taken is of the field's own type: JSON reads it back.
    for name, text in overrides.items():
      if name not in TEXTS:
        assert text.isprintable()


@pytest.mark.slow
@fuzz.examples
@given(
  st.sampled_from(["", "model", "optim.", "data.shapes.x", "seed.y"]),
  st.text(max_size=20),
  st.text(max_size=20),
)
def test_any_name_of_a_field_is_known_or_told(prefix, rest, value):
  name = prefix + rest
  if name in FIELDS:
    return
  with pytest.raises(InputError) as raised:
    config_files.overridden(DEFAULT, {name: value})
  assert str(raised.value).isprintable()


def _changed(**fields):
  config = default_config.get_config()
  config.update_from_flattened_dict(
    {k.replace("__", "."): v for k, v in fields.items()}
  )
  return config


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"task": "pretrain"}, "task='pretrain': must be one of sseg, supervised"),
    ({"total_steps": 0}, "total_steps=0: must be at least 1"),
    ({"data__source": "web"}, "data.source='web': must be one of records"),
    ({"image_size": 225}, "image_size=225: must be a multiple of 32"),
    ({"optim__peak_lr": 0.0}, "optim.peak_lr=0.0: must be over 0"),
    ({"optim__peak_lr": float("nan")}, "optim.peak_lr=nan: must be a finite"),
    ({"optim__b2": 1.0}, "optim.b2=1.0: must be from 0 to below 1"),
    ({"optim__clip_norm": -1.0}, "optim.clip_norm=-1.0: must be at least 0"),
    (
      {"optim__warmup_steps": 81_690},
      "optim.warmup_steps=81690: must be below total_steps=81690",
    ),
    ({"data__lanes": 3}, "data.lanes=3: must divide batch_size=4096"),
    ({"data__crop_scale": (1.0, 0.4)}, "data.crop_scale=.*the lower first"),
    ({"pseudo_masks__k": 65}, "pseudo_masks.k=65 is more than"),
    ({"pseudo_masks__stride": 9}, "pseudo_masks.stride=9: must divide"),
    ({"model__num_heads": 3}, "model.hidden_dim=256: must be a multiple of"),
    ({"text__num_heads": 3}, "text.width=256: must be a multiple of"),
    ({"model__stem_depths": (1, 1)}, "give as many numbers in both"),
    ({"loss__mask_every": 2}, "loss.mask_every=2: words need"),
    ({"loss__mask_every": 3}, "loss.mask_every=3: must divide"),
    ({"accumulate_steps": 3}, "accumulate_steps=3: its product with"),
    ({"loss__contrastive_block": 5}, "loss.contrastive_block=5: must divide"),
    ({"loss__mask": 0.0, "loss__contrastive": 0.0}, "one must be over 0"),
    ({"data.classes": ("cat", "Cat")}, "data.classes=.*texts that differ"),
    (
      {"data.classes": ("cat", "background")},
      "data.classes=.*background first",
    ),
    ({"text.frozen": True}, "text.frozen=True: task='sseg' learns words"),
    (
      {"loss.label_regions": "pseudo_masks"},
      "loss.label_regions='pseudo_masks': task='sseg' learns no label maps",
    ),
    (
      {"task": "supervised", "loss.label_regions": "pseudo_masks"},
      "the network has to embed pseudo-masks; use 'classes', or",
    ),
    (
      {"self_training.teacher": "runs/a"},
      'its student needs task="supervised", not .sseg.',
    ),
    (
      {
        "self_training.teacher": "runs/a",
        "task": "supervised",
        "data.train": "x",
      },
      "labels that the run makes; leave data.train",
    ),
    (
      {"data__source": "shapes", "data__shapes__train_size": 99},
      "data.shapes.train_size=99: must be at least batch_size=4096",
    ),
    ({"evaluate__stride": 449}, "evaluate.stride=449: must be at most"),
    ({"evaluate__combiner": "max"}, "evaluate.combiner='max': must be one of"),
    ({"evaluate__refine": "yes"}, "evaluate.refine='yes': must be one of"),
    ({"evaluate__templates": "none"}, "evaluate.templates='none': must be one"),
    ({"checkpoint__keep": 0}, "checkpoint.keep=0: must be at least 1"),
  ],
)
def test_what_cannot_work_is_told_with_field_value_and_remedy(fields, message):
  with pytest.raises(InputError, match=message):
    config_check.check(_changed(**fields))


def test_all_that_is_wrong_is_told_at_once():
  config = _changed(
    seed=-1, optim__b1=2.0, data__lanes=3, evaluate__combiner="max"
  )
  with pytest.raises(InputError) as raised:
    config_check.check(config)
  for name in ("seed=-1", "optim.b1=2.0", "data.lanes=3", "evaluate.combiner="):
    assert name in str(raised.value)


def test_networks_and_steps_refuse_with_the_same_rules():
  """They can be made without `config_check`, and name all fields as well."""
  for module in (models_fields, tasks_fields):
    for name, rule in module.RULES.items():
      assert config_check.RULES[name] is rule
    assert set(module.BETWEEN) <= set(config_check.BETWEEN)
  wrong = _changed(model__mean="between", text__num_heads=3)
  wrong.loss.mask_stride = wrong.loss.mask_every = 3
  with pytest.raises(InputError, match="model.mean=.*; text.width=256"):
    sseg.build(wrong)
  with pytest.raises(InputError, match="mask_stride=3.*; loss.mask_every=3"):
    tasks_setup.make_setup(wrong)


def test_a_config_of_ones_own_has_the_fields_of_the_default():
  config = default_config.get_config()
  config.optim.peek_lr = 1.0
  with pytest.raises(InputError, match="optim.peek_lr: there is no such field"):
    config_check.check(config)
  config = default_config.get_config()
  del config.optim.peak_lr
  with pytest.raises(InputError, match="no field optim.peak_lr; begin with"):
    config_check.check(config)
  config = default_config.get_config()
  with config.unlocked(), config.ignore_type():
    config.seed = "one"
  with pytest.raises(InputError, match="seed='one': must be a whole number"):
    config_check.check(config)
