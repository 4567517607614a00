"""Runs with a frozen eye: over several devices, and stopped and resumed."""

import json

import jax
import numpy as np
import pytest
import small_vit
import test_sharded
import xla_flags
from test_eye import eye_config
from test_resume import StopAfter

from sseg_jax import train
from sseg_jax.checkpoints import checkpoint
from sseg_jax.data import records
from sseg_jax.models.vit_sizes import VIT_SIZES
from sseg_jax.pseudo_masks import caching

pytestmark = [
  pytest.mark.slow,
  pytest.mark.usefixtures("signs_of_gradients"),
]

# The script of test_sharded up to its comparisons, with an eye.
SCRIPT = test_sharded.SCRIPT.partition("found = {}")[0]
SCRIPT = SCRIPT.replace("[x] * 5", "[x] * 2").replace("40", "16")
SCRIPT = (
  SCRIPT.replace(
    "def run(",
    """import optax, tempfile, small_vit, test_eye
from sseg_jax.models.vit_sizes import VIT_SIZES
VIT_SIZES["tiny"] = small_vit.SIZES
optax.adamw = lambda rate, **_: optax.sgd(rate)  # compiles much sooner
weights = small_vit.write(tempfile.mkdtemp() + "/vit.npz")

def run(""",
  )
  .replace(
    "config.batch_size,",
    "test_eye.eye_config(config, weights)\n  config.model.teacher_masks = True"
    "\n  config.batch_size,",
  )
  .replace("config.optim.clip_norm = 5.0", "pass")
)
SCRIPT += """
results = {}
results["1x1"], one = run(1, 1, block=0)
for data, fsdp, block in ((4, 2, 0), (4, 2, 8)):
  result, state = run(data, fsdp, block)
  result["difference"] = difference(one, state)
  results[f"{data}x{fsdp}, {block}"] = result
print(json.dumps(results))
"""


def test_two_steps_over_eight_devices_equal_those_of_one():
  found = xla_flags.found_on(8, SCRIPT)
  one = found.pop("1x1")["curve"]
  assert one[0] != one[1] and len(found) == 2
  for mesh, result in found.items():
    assert result["curve"] == pytest.approx(one, rel=1e-4), mesh
    assert result["difference"] < 1e-4, mesh
    assert result["split"] > 0


@pytest.fixture
def config(make_tiny_config, tmp_path, monkeypatch):
  """Of a run that reads stored features of regions."""
  monkeypatch.setitem(VIT_SIZES, "tiny", small_vit.SIZES)
  c = make_tiny_config()
  eye_config(c, small_vit.write(tmp_path / "vit.npz"))
  c.image_size = 32
  c.batch_size = c.data.lanes = 2
  c.total_steps, c.log_every_steps = 6, 2
  c.optim.warmup_steps = 1
  c.loss.region_words, c.loss.region_words_q = 1.0, 0.5
  c.checkpoint.every_steps = c.evaluate.every_steps = 0
  source, out = str(tmp_path / "source"), str(tmp_path / "regions")
  rng = np.random.default_rng(0)
  with records.RecordWriter(source, shard_size=4) as writer:
    for i in range(7):
      picture = rng.integers(0, 255, (32, 32, 3), np.uint8)
      captions = (b"a cat", b"the sky and a dog")[: 1 + i % 2]
      writer.write(
        records.Record(
          key=b"%d" % i, image=records.encode_png(picture), captions=captions
        )
      )
  c.model.teacher_masks, c.loss.mask_every = True, 2
  c.pseudo_masks.stride = 4
  caching.add_pseudo_masks(source, out, c, features=True, region_views=2)
  c.data.train, c.data.val = out, source
  c.pseudo_masks.mode = "cached"
  return c.lock()


def test_a_run_that_was_stopped_ends_alike_bit_for_bit(config, tmp_path):
  straight, stopped = tmp_path / "straight", tmp_path / "stopped"
  train.train(config, straight, StopAfter(1000))
  assert train.train(config, stopped, StopAfter(3)) == {"preempted": 3}
  train.train(config, stopped, StopAfter(1000))
  one, other = checkpoint.load(straight), checkpoint.load(stopped)
  assert one.step == other.step == 6
  for name in ("params", "model_state"):
    jax.tree.map(
      np.testing.assert_array_equal, getattr(one, name), getattr(other, name)
    )
  counts = one.metadata["word_counts"]
  assert counts == other.metadata["word_counts"]
  assert counts["words"] == {"cat": 7, "dog": 3, "sky": 3}
  for name in ("words.json", "words.html"):
    assert (straight / name).read_bytes() == (stopped / name).read_bytes()
  words = json.loads((straight / "words.json").read_text())
  assert words["pictures"] == 7 and words["words"]["cat"]["score"] is None
  assert 0 <= words["words"]["sky"]["score"] <= 100
