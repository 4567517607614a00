import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from test_evaluate import save_checkpoint

from sseg_jax import predict
from sseg_jax.errors import InputError


def test_help_needs_no_jax():
  code = (
    "import sys\n"
    "from sseg_jax import predict\n"
    "try: predict.main(['--help'])\n"
    "except SystemExit: pass\n"
    "assert 'jax' not in sys.modules and 'tensorflow' not in sys.modules\n"
  )
  start = time.perf_counter()
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert "--words" in done.stdout
  assert time.perf_counter() - start < 3


# --------------------------------------------------------------- the command


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["--words=cat,cat"], "repeats number 1"),
    (["--words=cat,,dog"], "word 2 is empty"),
    (["--words= "], "words is empty"),
    (["--words=cat", "--background_threshold=-1"], "negative"),
    (["--words=cat"], "no such picture"),
  ],
)
def test_bad_input_is_one_line(tmp_path, capsys, argv, message):
  flags = ["--checkpoint=x", f"--image={tmp_path}/a.png", f"--out={tmp_path}"]
  assert predict.main([*flags, *argv]) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1


def test_output_names_never_collide(tmp_path):
  a, b = tmp_path / "a" / "x.jpg", tmp_path / "b" / "x.jpg"
  outputs = predict._outputs([a, b], tmp_path / "out")
  names = [path.name for pair in outputs for path in pair]
  assert len(set(names)) == 4 and names[0] == "x_overlay.png"
  with pytest.raises(InputError, match="one file for 2 pictures"):
    predict._outputs([a, b], tmp_path / "out.png")
  with pytest.raises(InputError, match="the picture itself"):
    predict._outputs([tmp_path / "x.png"], tmp_path / "x.png")


@pytest.mark.slow
def test_command(tmp_path, tiny_config, capsys, monkeypatch):
  save_checkpoint(tmp_path, tiny_config)
  noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
  for name in ("a.png", "b.png"):
    Image.fromarray(noise).save(tmp_path / name)
  flags = [f"--checkpoint={tmp_path}", "--words=cat, potted plant"]
  images = ["--image", str(tmp_path / "a.png"), str(tmp_path / "b.png")]
  out = tmp_path / "out"
  assert predict.main([*flags, *images, f"--out={out}"]) == 0
  printed = capsys.readouterr().out
  assert "potted plant" in printed and "background" in printed
  assert len(os.listdir(out)) == 4
  single = ["--image", str(tmp_path / "a.png"), f"--out={out / 'one.png'}"]
  rest = ["--no_background", "--json", "--templates=subset"]
  assert predict.main([*flags, *single, *rest]) == 0
  (result,) = json.loads(capsys.readouterr().out)
  assert list(result["areas"]) == ["cat", "potted plant"]
  assert sum(result["areas"].values()) == pytest.approx(1)
  assert result["threshold"] is None
  with Image.open(result["labels"]) as labels:
    assert labels.mode == "P" and labels.size == (40, 30)
    values = np.asarray(labels)
  assert set(np.unique(values)) <= {0, 1}
  assert (values == 0).mean() == pytest.approx(result["areas"]["cat"])


@pytest.mark.slow
def test_api(tmp_path, tiny_config):
  import sseg_jax

  save_checkpoint(tmp_path, tiny_config, thresholds={"default": 0.3})
  model = sseg_jax.load(tmp_path)
  image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
  found = model.segment(image, "cat, dog")
  assert found.threshold == 0.3 and found.labels.shape == (32, 48)
  assert found.names == ("background", "cat", "dog")
  assert found.scores.min() >= 0.5  # the best of two
  without = model.segment(image, ["cat", "dog"], background=False)
  scores = model.scores(image, ["cat", "dog"])
  np.testing.assert_array_equal(without.labels, scores.argmax(-1))
  with pytest.raises(InputError, match="float64"):
    model.segment(image / 255, "cat")
  with pytest.raises(InputError, match="no pixels"):
    model.segment(image[:0], "cat")
