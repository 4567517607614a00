"""The commands as they are typed: train, stop, evaluate, predict, fail."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import preloaded
import pytest

from sseg_jax import evaluate, predict
from sseg_jax.checkpoints import checkpoint
from sseg_jax.data.drawing import CLASS_NAMES

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]
# The quickstart, shrunk to compile and run in seconds.
TINY = {
  "total_steps": 8,
  "batch_size": 8,
  "image_size": 32,
  "model.backbone": "conv_tiny",
  "model.hidden_dim": 16,
  "model.mask_dim": 16,
  "model.num_queries": 8,
  "model.decoder_layers": 1,
  "model.embed_dim": 16,
  "model.proj_hidden": 32,
  "text.width": 32,
  "text.layers": 1,
  "data.lanes": 4,
  "data.shuffle_window": 16,
  "data.shapes.train_size": 32,
  "data.shapes.eval_size": 2,
  "optim.warmup_steps": 2,
  "optim.clip_norm": 0.0,
  "log_every_steps": 2,
  "checkpoint.every_steps": 4,
  "evaluate.every_steps": 4,
  "evaluate.image_size": 32,
  "evaluate.stride": 16,
}


def command(workdir, *arguments, python=None, **overrides):
  fields = TINY | {k.replace("__", "."): v for k, v in overrides.items()}
  return [
    python or preloaded.python(),
    "-m",
    "sseg_jax.main",
    f"--config={ROOT / 'configs' / 'quickstart.py'}",
    f"--workdir={workdir}",
    *(f"--config.{name}={value}" for name, value in fields.items()),
    *arguments,
  ]


ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def run(*arguments, **overrides):
  return subprocess.run(
    command(*arguments, **overrides),
    env=ENVIRONMENT,
    capture_output=True,
    text=True,
    check=False,
  )


def fails(code, stderr):
  """Returns the one line that a command says about bad input."""
  assert code == 2, stderr
  errors = [x for x in stderr.splitlines() if x.startswith("error: ")]
  assert len(errors) == 1 and "Traceback" not in stderr, stderr
  return errors[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
  """Work directory and printed JSON of a whole run."""
  workdir = tmp_path_factory.mktemp("run")
  done = run(workdir, "--json", python=sys.executable)
  assert done.returncode == 0, done.stderr
  return workdir, json.loads(done.stdout.splitlines()[-1])


def test_the_result_holds_what_a_row_of_a_table_needs(trained):
  workdir, printed = trained
  result = json.loads((workdir / "result.json").read_text())
  assert result == printed
  assert result["task"] == "sseg" and result["seed"] == 0
  assert result["steps"] == TINY["total_steps"]
  for name in ("loss", "loss/mask", "loss/contrastive", "grad_norm"):
    assert result["final"][name] > 0
  assert result["final"]["bad"] == 0 and result["bad_records"] == 0
  assert set(result["benchmarks"]) == {"plain", "hard", "held_out"}
  for benchmark in result["benchmarks"].values():
    assert 0 <= benchmark["mIoU"] <= 100
    assert tuple(benchmark["per_class"]) == CLASS_NAMES
    assert benchmark["images"] == 2
  assert result["retrieval"]["pairs"] == 4
  assert 0 <= result["retrieval"]["image_to_text_R@1"] <= 100
  assert result["images_per_second"] > 0
  assert {"jax", "flax", "optax", "python", "sseg_jax"} <= set(
    result["versions"]
  )
  assert "git_commit" in result


def test_the_work_directory_holds_the_files_of_a_run(trained):
  workdir, _ = trained
  config = json.loads((workdir / "config.json").read_text())
  assert config["model"]["hidden_dim"] == TINY["model.hidden_dim"]
  assert (workdir / "predictions.png").read_bytes().startswith(b"\x89PNG")
  assert list((workdir / "tensorboard").glob("events.out.tfevents.*"))
  assert "step 8/8: loss" in (workdir / "log.txt").read_text()
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert [r["step"] for r in rows if "loss" in r][-1] == TINY["total_steps"]
  assert [r["step"] for r in rows if "mIoU/plain" in r] == [4, 8]
  loaded = checkpoint.load(workdir)
  assert loaded.step == 8 and loaded.config["total_steps"] == 8
  counts = loaded.metadata["word_counts"]
  assert counts["records"] == counts["of"] == 32
  words = json.loads((workdir / "words.json").read_text())
  assert words["pictures"] == words["cropped"] == 4
  assert {w: x["count"] for w, x in words["words"].items()} == counts["words"]
  assert any(x["score"] is not None for x in words["words"].values())
  assert "<h1>" in (workdir / "words.html").read_text()
  # Of the one evaluation between steps.
  (row,) = [r for r in rows if "mIoU/plain" in r and r["step"] == 4]
  best = json.loads((workdir / "checkpoints" / "best.json").read_text())
  mean = sum(row[f"mIoU/{kind}"] for kind in ("plain", "hard", "held_out")) / 3
  assert best["scores"] == {"4": pytest.approx(mean)}
  assert checkpoint.load(workdir / "best").step == 4


def test_a_run_that_is_asked_to_stop_saves_and_says_so(tmp_path):
  process = subprocess.Popen(
    command(
      tmp_path, total_steps=100_000, log_every_steps=1, evaluate__every_steps=0
    ),
    env=ENVIRONMENT,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    curve = tmp_path / "metrics.jsonl"
    while not (curve.exists() and curve.stat().st_size):
      assert process.poll() is None, process.stderr.read()
      time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=600)
  finally:
    process.kill()
  assert process.returncode == 75, error
  step = checkpoint.load(tmp_path).step
  assert f"saved step {step}" in (tmp_path / "log.txt").read_text()
  assert not (tmp_path / "result.json").exists()


def test_evaluate_agrees_with_the_run(trained, capsys):
  workdir, printed = trained
  argv = [f"--checkpoint={workdir}", f"--benchmarks={workdir}/data/hard"]
  assert evaluate.main([*argv, "--json"]) == 0
  result = json.loads(capsys.readouterr().out)["hard"]
  assert result["mIoU"] == printed["benchmarks"]["hard"]["mIoU"]
  assert result["per_class"] == printed["benchmarks"]["hard"]["per_class"]
  assert result["step"] == 8


def test_the_report_of_words_can_be_written_again(trained, tmp_path, capsys):
  argv = [f"--checkpoint={trained[0]}", "--words_report", f"--out={tmp_path}"]
  assert evaluate.main(argv) == 0
  assert capsys.readouterr().out == f"{tmp_path / 'words.html'}\n"
  found = json.loads((tmp_path / "words.json").read_text())
  of_run = json.loads((trained[0] / "words.json").read_text())
  assert found["words"].keys() == of_run["words"].keys()
  for word, row in found["words"].items():
    assert row == pytest.approx(of_run["words"][word], abs=1)


def test_predict_reads_the_checkpoint(trained, tmp_path, capsys):
  workdir, _ = trained
  image = workdir / "data" / "plain" / "images" / "00000.png"
  argv = [f"--checkpoint={workdir}", f"--image={image}", f"--out={tmp_path}"]
  assert predict.main([*argv, "--words=ball, zebra", "--json"]) == 0
  output = capsys.readouterr()
  assert "note: never seen: 'zebra'" in output.err
  result = json.loads(output.out)
  assert set(result["areas"]) == {"background", "ball", "zebra"}
  assert sum(result["areas"].values()) == pytest.approx(1)
  assert pathlib.Path(result["overlay"]).is_file()


def test_a_checkpoint_of_another_model_is_refused(trained):
  done = run(trained[0], model__ffn_dim=80)
  assert "model.ffn_dim=128, not 80" in fails(done.returncode, done.stderr)


# Bad flags, and what the message says about them.
BAD = {
  "--config.optim.peek_lr=1": "optim.peek_lr=1.*did you mean optim.peak_lr",
  "--config.seeed=1": "seeed=1.*did you mean seed",
  "--config.data.source=records --config.data.train=absent": "absent",
  "--config.image_size=40": "image_size=40",
  "--config.batch_size=6": "batch_size|lanes",
  "--config.pseudo_masks.k=9": "pseudo_masks.k=9",
  "--config.checkpoint.best_score=mIoU/easy": "easy.*mIoU/plain, mIoU/hard",
}
# The command once for each list of arguments, in one process: to load JAX and
# TensorFlow takes longer than all of them.
EACH = """
import contextlib, io, json, sys
from sseg_jax import main

found = []
for argv in json.loads(sys.argv[1]):
  error = io.StringIO()
  with contextlib.redirect_stderr(error):
    code = main.run(argv)
  found.append((code, error.getvalue()))
print(json.dumps(found))
"""


def test_bad_input_is_one_line(tmp_path):
  each = [
    command(tmp_path / str(i), *flags.split())[3:]
    for i, flags in enumerate(BAD)
  ]
  done = subprocess.run(
    [sys.executable, "-c", EACH, json.dumps(each)],
    env=ENVIRONMENT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout.splitlines()[-1])
  for (code, error), message in zip(found, BAD.values(), strict=True):
    assert re.search(message, fails(code, error))
  # Fields that do not exist are named before anything is written.
  assert not (tmp_path / "0").exists() and not (tmp_path / "1").exists()


def test_flags_that_are_missing_or_unknown(tmp_path):
  missing = [sys.executable, "-m", "sseg_jax.main", f"--workdir={tmp_path}"]
  done = subprocess.run(
    missing, env=ENVIRONMENT, capture_output=True, text=True, check=False
  )
  assert "--config and --workdir" in fails(done.returncode, done.stderr)
