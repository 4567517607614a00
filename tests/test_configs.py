"""Every published configuration loads, is whole, and describes a model."""

import importlib.util
import pathlib
import pickle
import re

import jax
import pytest

from sseg_jax import (
  config_check,
  config_files,
  default_config,
  optim,
  stored_config,
  train_step,
)
from sseg_jax.errors import InputError
from sseg_jax.models import vit_weights
from sseg_jax.models.published import PUBLISHED
from sseg_jax.models.vit import VIT_SIZES

ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def load(path):
  """Loads a file as the command does: by its path, from any folder."""
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def leaves(config, prefix=""):
  for name, value in config.items():
    if hasattr(value, "items"):
      yield from leaves(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", value


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def path(request, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return request.param


def test_configs_are_found():
  assert {"quickstart", "cc12m", "cc15m", "cc26m"} <= {p.stem for p in CONFIGS}


def test_the_docstring_holds_the_command(path):
  doc = load(path).__doc__
  assert f"python -m sseg_jax.main --config=configs/{path.name}" in doc
  assert "--workdir=" in doc
  assert not doc.splitlines()[0].endswith(" ")


def test_the_docstring_holds_hardware_hours_and_score(path):
  doc = load(path).__doc__
  found = dict(
    re.findall(r"^(\w+): ((?:.+\n?)(?:  .+\n?)*)", doc, re.MULTILINE)
  )
  assert re.search(r"TPU|GPU|CPU", found["Hardware"])
  hours = " ".join(found["Hours"].split())
  assert re.match(r"[\d.]+ \(.*\), (measured|projected)", hours)
  score = found["Score"]
  measured = re.search(r"\d.*\bmeasured\b", score, re.DOTALL)
  assert measured or score.startswith("no score: has not been run.")


def test_fields_are_those_of_the_default(path):
  config = load(path).get_config()
  default = dict(leaves(default_config.get_config()))
  own = dict(leaves(config))
  assert own.keys() == default.keys()
  for name, value in own.items():
    assert isinstance(value, type(default[name])), name
  assert own != default or path.stem == "cc12m"  # which is the default


def test_locked_fields_cannot_be_misspelt(path):
  config = load(path).get_config().lock()
  with pytest.raises(AttributeError, match="peak_learning_rate"):
    config.optim.peak_learning_rate = 1.0


def test_each_call_makes_a_configuration_of_its_own(path):
  module = load(path)
  module.get_config().optim.peak_lr = 123.0
  assert module.get_config().optim.peak_lr != 123.0


@pytest.mark.parametrize(
  ("name", "steps"), [("cc12m", 81_690), ("cc15m", 102_870), ("cc26m", 183_450)]
)
def test_the_paper_s_runs_follow_their_batch(name, steps):
  """The published recipe at 4096; its epochs and its rates' ratio elsewhere."""
  config = load(ROOT / "configs" / f"{name}.py").get_config()
  assert config.batch_size == 4096 and config.total_steps == steps
  assert config.optim.warmup_steps == steps // 15
  rates = [config.optim[f"{name}_lr"] for name in ("peak", "start", "end")]
  assert rates == [5e-4, 1.25e-6, 1.25e-5]
  # As `main` and `plan --set` override, a locked copy.
  small = config_files.overridden(config.lock(), {"batch_size": 1024})
  assert small.total_steps == pytest.approx(4 * steps, rel=1e-3)
  assert small.optim.warmup_steps == small.total_steps // 15
  assert small.optim.peak_lr == 1.25e-4 and small.optim.end_lr == 3.125e-6
  assert config.total_steps == steps  # of the copy alone
  chosen = {"optim.peak_lr": 1e-3, "total_steps": 7, "batch_size": 1024}
  for order in (list(chosen), reversed(chosen)):
    own = config_files.overridden(
      config, {name: chosen[name] for name in order}
    )
    assert own.optim.peak_lr == 1e-3 and own.total_steps == 7
    assert own.optim.start_lr == 1.25e-6 / 4
  sent = pickle.loads(pickle.dumps(config))  # as launchers do
  sent.batch_size = 512
  assert sent.optim.peak_lr == 5e-4 / 8 and sent.total_steps > 7 * steps
  sent.batch_size = 0
  with pytest.raises(InputError, match="batch_size=0 must be at least 1"):
    config_check.check(sent)
  with pytest.raises(InputError, match="there is no such field"):
    config_files.overridden(config.lock(), {"batchsize": 7})


@pytest.fixture
def no_download(monkeypatch):
  """Networks of published weights by their shapes alone."""

  def load(source, *, dtype, **changed):
    assert not any(changed.values())
    sizes = VIT_SIZES[PUBLISHED[source].network]
    return vit_weights.build(sizes, dtype)

  monkeypatch.setattr(vit_weights, "load", load)


@pytest.mark.slow
def test_the_training_state_can_be_built(path, no_download):
  config = load(path).get_config()
  config_check.check(config)
  assert config.optim.warmup_steps < config.total_steps
  assert config.batch_size % config.data.lanes == 0
  setup = train_step.make_setup(config, ("cat", "dog"))
  state = train_step.abstract_state(setup)
  sizes = [leaf.size for leaf in jax.tree.leaves(state.params)]
  assert sum(sizes) > 4e5
  # Two for each parameter, but for parts that stay as they started.
  stay = optim.TEXT_PARTS if config.text.frozen else ()
  stay += optim.IMAGE_PARTS if config.model.frozen else ()
  learned = {k: v for k, v in state.params.items() if k not in stay}
  moments = [leaf.size for leaf in jax.tree.leaves(state.opt_state)]
  wanted = 2 * sum(leaf.size for leaf in jax.tree.leaves(learned))
  assert wanted < sum(moments) < 1.01 * wanted
  if path.stem.startswith("cc"):
    frozen = jax.tree.leaves(setup.frozen["pseudo_masks"])
    assert sum(leaf.size for leaf in frozen) == 21_670_272  # DINO ViT-S/8


def test_a_stored_config_gets_the_fields_that_came_later():
  config = default_config.get_config()
  config.pseudo_masks.k = 5
  stored = config.to_dict()
  del stored["pseudo_masks"]["scale"], stored["mesh"]
  stored["gone"] = 1  # a field of then is kept
  completed = stored_config.completed(stored).to_dict()
  assert completed.pop("gone") == 1
  assert completed == config.to_dict()
