"""Exports of networks with a fixed list of classes."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from test_export import BLOCKED, _need

import sseg_jax
from sseg_jax import predict
from sseg_jax.checkpoints import checkpoint, exported
from sseg_jax.errors import InputError
from sseg_jax.exporting import (
  folder,
  formats,
  source,
  to_transformers,
  verify,
  write,
)
from sseg_jax.models import sseg
from sseg_jax.models.resnet import RESNET_SIZES


@pytest.fixture
def no_unknown_sizes_checked(unchecked_types):
  """Programs of unknown sizes are traced: shapes are no numbers there."""


def _fixed(make, head, background, **sizes):
  """A source whose network has a fixed list of classes."""
  config = make()
  config.task, config.model.head = "supervised", head
  names = ("red", "green", "blue")
  config.data.classes = ("background", *names) if background else names
  if head == "upernet":
    config.model.backbone, config.model.hidden_dim = "tiny_vit", 16
  else:
    config.model.backbone = "resnet50"
  if background:
    config.evaluate.background_threshold = 0.5
  params, state = jax.tree.map(np.asarray, sseg.init(config, 5))
  loaded = checkpoint.Loaded(config.to_dict(), params, state, 7, {})
  return source.make(loaded, **sizes)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of converters
@pytest.mark.parametrize(
  ("head", "background"), [("classes", True), ("upernet", False)]
)
@pytest.mark.parametrize("name", formats.FORMATS)
def test_a_fixed_list_of_classes_gives_the_same_pixels_in_every_format(
  name, head, background, make_tiny_config, tiny_vit, tmp_path,
  no_unknown_sizes_checked, monkeypatch, caplog,
):  # fmt: skip
  """`run.py` needs neither this package nor a tokenizer."""
  _need(name)
  monkeypatch.setitem(RESNET_SIZES["resnet50"], "depths", (1, 1, 1, 1))
  made = _fixed(make_tiny_config, head, background)
  assert made.words == ("red", "green", "blue")
  picture = verify.pictures(32)[2]
  done = write.write(made, name, tmp_path, [picture])
  assert done.report.difference <= 1e-4 and done.report.equal >= 0.999
  assert not [r for r in caplog.records if "BatchNorm" in r.getMessage()]
  fields = json.loads((done.path / "config.json").read_text())
  assert fields["fixed_list"]["classes"] == ["red", "green", "blue"]
  assert fields["fixed_list"]["background"] is background
  assert not (done.path / "tokenizer.json").exists()
  card = (done.path / "README.md").read_text()
  assert "open-vocabulary" not in card and "tokenizer" not in card
  Image.fromarray(picture).save(tmp_path / "picture.png")
  blocked = "import sys; sys.modules['ftfy'] = None; " + BLOCKED
  run = [sys.executable, "-c", blocked]
  run += [done.path / "run.py", "--image", tmp_path / "picture.png"]
  told = subprocess.run(
    [*run, "--words", "blue,red", "--out", tmp_path / "labels.png"],
    check=True, capture_output=True, text=True, cwd=tmp_path,
    env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
  )  # fmt: skip
  assert "blue" in told.stdout
  labels = np.asarray(Image.open(tmp_path / "labels.png"))
  wanted = made.model("none").segment(picture, ["blue", "red"])
  assert (labels == wanted.labels).mean() >= 0.999
  if name == "safetensors":
    again = sseg_jax.load(done.path).segment(picture, ["blue", "red"])
    np.testing.assert_array_equal(again.labels, wanted.labels)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["classes", "text"])
def test_predict_takes_the_list_where_no_words_are_given(
  head, make_tiny_config, tmp_path, capsys
):
  config = make_tiny_config()
  config.model.head = head
  if head == "classes":
    config.task, config.data.classes = "supervised", ("background", "a", "b")
    config.evaluate.background_threshold = 0.5
  params, state = jax.tree.map(np.asarray, sseg.init(config, 3))
  loaded = checkpoint.Loaded(config.to_dict(), params, state, 7, {})
  made = source.make(loaded)
  exported.save(
    tmp_path,
    {"params": params, "model_state": state},
    folder.fields(made, "none"),
  )
  image = tmp_path / "picture.png"
  Image.fromarray(verify.pictures(32)[0]).save(image)
  flags = [f"--checkpoint={tmp_path}", f"--image={image}", "--json"]
  code = predict.main([*flags, f"--out={tmp_path}", "--no_compile_cache"])
  told = capsys.readouterr()
  if head == "text":
    assert code == 2 and told.err.startswith("error: words is missing")
    assert len(told.err.splitlines()) == 1
  else:
    assert code == 0
    assert set(json.loads(told.out)["areas"]) == {"background", "a", "b"}


@pytest.mark.slow
def test_words_outside_a_fixed_list_are_refused(make_tiny_config):
  with pytest.raises(InputError, match="knows 3 classes .* not 'dog'"):
    _fixed(make_tiny_config, "classes", True, words="red,dog")


@pytest.mark.slow
def test_transformers_takes_no_fixed_list(make_tiny_config):
  made = _fixed(make_tiny_config, "classes", True)
  with pytest.raises(InputError, match="model.head='classes'"):
    to_transformers.check(made.config)
