"""A training on a mixture of three prepared sources resumes bit for bit."""

import json

import jax
import numpy as np
import pytest
import webdata
from test_resume import StopAfter, curve

from sseg_jax import prepare, train
from sseg_jax.checkpoints import checkpoint

pytestmark = [
  pytest.mark.slow,
  pytest.mark.usefixtures("signs_of_gradients"),
]


def _sources(place):
  """As the three lists come: a folder, tars, and img2dataset's output."""
  folder = place / "folder"
  folder.mkdir(parents=True)
  lines = []
  for i in range(12):
    (folder / f"{i}.jpg").write_bytes(webdata.jpeg(i))
    lines.append(json.dumps({"file_name": f"{i}.jpg", "caption": f"a {i}"}))
  (folder / "captions.jsonl").write_text("\n".join(lines))
  members = [m for n in range(100, 120) for m in webdata.pair(n)]
  webdata.write_tar(place / "tars/0.tar", members)
  webdata.img2dataset(place / "fetched", "webdataset", shards=2)
  return [folder, place / "tars", place / "fetched"]


def test_a_run_on_a_mixture_resumes(tmp_path, make_tiny_config):
  folders = []
  for source in _sources(tmp_path):
    prepare.prepare(str(source), f"{tmp_path}/records/{source.name}")
    folders.append(f"{tmp_path}/records/{source.name}/train")
  c = make_tiny_config()
  c.total_steps = 6
  c.text.layers = 1
  c.data.source = "records"
  c.data.train, c.data.weights = ",".join(folders), "2,1,1"
  c.log_every_steps = 2
  c.checkpoint.every_steps = c.evaluate.every_steps = 0
  c.evaluate.benchmarks = ""
  c.lock()
  straight, stopped = tmp_path / "straight", tmp_path / "stopped"
  train.train(c, straight, StopAfter(1000))
  assert train.train(c, stopped, StopAfter(3)) == {"preempted": 3}
  train.train(c, stopped, StopAfter(1000))
  one, other = checkpoint.load(straight), checkpoint.load(stopped)
  assert one.step == other.step == 6
  for name in ("params", "model_state"):
    jax.tree.map(
      np.testing.assert_array_equal, getattr(one, name), getattr(other, name)
    )
  one, other = curve(straight), curve(stopped)
  assert list(one) == list(other) == [2, 4, 6]
  for step in one:
    for name in ("loss", "loss/mask", "loss/contrastive"):
      assert one[step][name] == other[step][name]
  assert len({row["loss"] for row in one.values()}) == 3
