"""`sseg_jax.load` from each kind of source, and from damaged ones."""

import copy
import json
import subprocess

import numpy as np
import preloaded
import pytest
import stored

import sseg_jax
from sseg_jax.checkpoints import exported, hub, named_arrays
from sseg_jax.errors import InputError


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_tiny_config):
  """A work directory and an export of the same network."""
  folder = tmp_path_factory.mktemp("run")
  out = folder / "exported" / "safetensors"
  stored.write(folder, out, make_tiny_config(), "a drawing of a {}.")
  return folder, out


@pytest.mark.slow
def test_an_export_gives_what_its_run_gives(run, rng):
  folder, out = run
  image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
  model = sseg_jax.load(folder)
  of_export = [sseg_jax.load(path) for path in (out, out.parent)]
  assert of_export[0].templates == ("a drawing of a {}.",)
  model.templates = of_export[0].templates
  expected = model.scores(image, "cat, dog")
  for other in of_export:
    np.testing.assert_array_equal(other.scores(image, "cat, dog"), expected)
    assert other.segment(image, "cat, dog").threshold == 0.7
  named = sseg_jax.load(out, templates="identity")
  assert named.templates == ("{}",)


COMPILED = """
import sys
import jax
import sseg_jax

events = []
jax.monitoring.register_event_duration_secs_listener(
  lambda name, seconds, **_: events.append(name)
)
sseg_jax.load(sys.argv[1])
print(sum("backend_compile" in name for name in events))
"""


@pytest.mark.slow
def test_loading_compiles_nothing(run):
  """In a process of its own: in this one, other tests have compiled."""
  done = subprocess.run(
    [preloaded.python(), "-c", COMPILED, run[1]],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout == "0\n"


def test_weights_on_the_device_are_copies():
  for _ in range(20):  # whether JAX shares memory depends on where it lies
    given = np.zeros(4096, np.float32)
    made = named_arrays.on_device({"a": given})
    given[:] = 1
    assert not np.asarray(made["a"]).any()
  assert named_arrays.on_device(made)["a"] is made["a"]


def test_a_repository_is_downloaded(run, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  asked = []

  def download(name, *, revision):
    asked.append((name, revision))
    return str(run[1]), f"hf://{name}@{'0' * 40}"

  monkeypatch.setattr(hub, "download", download)
  model = sseg_jax.load("org/name", revision="v1")
  assert asked == [("org/name", "v1")]
  assert model.metadata["source"].startswith("hf://org/name@0000")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"revision": "v1"}, "revision=v1 is for a repository"),
    ({"step": 3}, "step=3: .* which has one step"),
    ({"sha256": "0" * 64}, "not 0000"),
  ],
)
def test_arguments_that_do_not_fit(run, arguments, message):
  with pytest.raises(InputError, match=message):
    sseg_jax.load(run[1], **arguments)


CHANGES = (
  ("model", 3),
  ("model.hidden_dim", 10**9),
  ("model.hidden_dim", -1),
  ("model.hidden_dim", "many"),
  ("model.num_queries", 9),
  ("model.backbone", "../../etc"),
  ("model.decoder_layers", 0),
  ("model.dropout", float("nan")),
  ("text.context_length", 10**6),
  ("text.layers", 2),
  ("dtype", "object"),
  ("evaluate", None),
  ("evaluate.image_size", 33),
  ("evaluate.combiner", "best"),
  ("evaluate.refine", "x"),
  ("evaluate.background_threshold", "x"),
)


@pytest.mark.parametrize(("field", "value"), CHANGES)
def test_a_changed_config_is_told_in_one_line(run, tmp_path, field, value):
  fields = copy.deepcopy(json.loads((run[1] / "config.json").read_text()))
  node = fields["config"]
  *path, last = field.split(".")
  for part in path:
    node = node[part]
  assert last in node
  node[last] = value
  (tmp_path / "config.json").write_text(json.dumps(fields))
  weights = (run[1] / "weights.safetensors").read_bytes()
  (tmp_path / "weights.safetensors").write_bytes(weights)
  with pytest.raises(InputError) as raised:
    sseg_jax.load(tmp_path)
  assert "\n" not in str(raised.value) and len(str(raised.value)) < 600


@pytest.mark.slow
def test_weights_of_another_network(run, tmp_path):
  weights = exported.read_weights(run[1])
  text = (run[1] / "config.json").read_text()
  (tmp_path / "config.json").write_text(text)

  def load(leaves):
    import safetensors.numpy

    safetensors.numpy.save_file(leaves, tmp_path / "weights.safetensors")
    with pytest.raises(
      InputError, match="another network|not numbers"
    ) as error:
      sseg_jax.load(tmp_path)
    return str(error.value)

  name = "params/logit_scale"
  assert f"{name} is missing" in load(
    {k: v for k, v in weights.items() if k != name}
  )
  assert f"{name} is [2]" in load(weights | {name: np.zeros(2, np.float32)})
  more = weights | {"params/more": np.zeros(2, np.float32)}
  assert "must be missing" in load(more)
  assert "not numbers" in load(weights | {name: np.array(True)})
