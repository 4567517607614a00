import json
import signal
import subprocess
import sys

import preloaded
import pytest

from sseg_jax import ablations, config_check, config_files
from sseg_jax.ablations import ROWS
from sseg_jax.data.shapes import CLASS_NAMES, GROUNDS, KINDS, THINGS
from sseg_jax.errors import InputError
from sseg_jax.study import methods, runs, series, table

CONFIG = """
from sseg_jax import default_config

def get_config():
  c = default_config.get_config()
  c.total_steps = 7
  c.data.source = "shapes"
  c.model.query_embedding = "mask_pooled"
  c.model.pool_feature = "res2+res3"
  c.model.mean = "after"
  c.pseudo_masks.merge_distance = 0.2
  return c
"""


@pytest.fixture
def config_path(tmp_path):
  path = tmp_path / "base.py"
  path.write_text(CONFIG)
  return path


def result(seed, things, grounds=50.0, **more):
  per_class = dict.fromkeys(THINGS, things) | dict.fromkeys(GROUNDS, grounds)
  benchmark = {"mIoU": (12 * things + 6 * grounds) / 18, "per_class": per_class}
  return {
    "seed": seed,
    "steps": 7,
    "final": {"ms_per_step": 100.0 + seed},
    "benchmarks": dict.fromkeys(KINDS, benchmark),
    **more,
  }


@pytest.fixture
def executed(monkeypatch):
  """Runs that write a result at once, in the order in which they happen."""
  runs = []

  def execute(run):
    runs.append(run)
    text = json.dumps(result(run.seed, 40.0 + 10 * run.seed))
    (run.workdir / "result.json").write_text(text)
    return 0

  monkeypatch.setattr(series, "execute", execute)
  return runs


def command(config_path, tmp_path, *more):
  return ablations.main(
    [f"--config={config_path}", f"--out={tmp_path / 'out'}", *more]
  )


def test_every_row_fits_the_quickstart():
  from sseg_jax.pseudo_masks import generator

  base = config_files.load("configs/quickstart.py")
  for row in ROWS.values():
    config = config_files.overridden(base, row.overrides)
    config_check.check(config)
    generator.build(config)
    assert config.batch_size % config.data.lanes == 0
    assert row.reason and row.groups


@pytest.mark.slow
def test_the_networks_of_all_rows_can_be_built():
  from sseg_jax.models import sseg

  base = config_files.load("configs/quickstart.py")
  seen = []
  for row in ROWS.values():
    config = config_files.overridden(base, row.overrides)
    if config.model.to_dict() not in seen:
      seen.append(config.model.to_dict())
      sseg.build(config)
  assert len(seen) > 8


def test_rows_are_chosen_by_group_and_by_name():
  table, ablation = ablations.choose("table"), ablations.choose("ablation")
  assert table[0] == ablation[0] == "trained"
  assert "oracle" in table and "oracle" not in ablation
  assert "k_4" in ablation and "k_4" not in table
  assert set(ablations.choose("table,table3,ablation")) == set(ROWS)
  # The baseline stands on the trained row's checkpoint.
  assert ablations.choose("global_words") == ["trained", "global_words"]
  with pytest.raises(InputError, match="'k_5' is neither"):
    ablations.choose("trained,k_5")


def test_runs_table_and_resume(config_path, tmp_path, executed, capsys):
  flags = ("--rows=trained,k_4,plain_only,oracle", "--seeds=1,0", "--steps=9")
  assert command(config_path, tmp_path, *flags, "--json") == 0
  # Seed by seed, and what is computed here after all trainings.
  assert [(run.name, run.seed) for run in executed] == [
    *(("trained", 0), ("k_4", 0), ("plain_only", 0)),
    *(("trained", 1), ("k_4", 1), ("plain_only", 1)),
    *(("oracle", 0), ("oracle", 1)),
  ]
  table = json.loads(capsys.readouterr().out)
  out = tmp_path / "out"
  assert table == json.loads((out / "table.json").read_text())
  assert list(table["rows"]) == ["trained", "oracle", "k_4", "plain_only"]
  k_4 = table["rows"]["k_4"]["scores"]
  assert k_4["hard things"] == {"mean": 45, "min": 40, "max": 50, "runs": 2}
  assert k_4["ms per step"]["mean"] == 100.5
  lines = (out / "table.md").read_text().splitlines()
  assert lines[4].startswith("| k_4 | 2 | 46.7 (43.3–50.0) | 45.0 (40.0–50.0)")

  # Again: nothing is left to do. One more row: that one alone.
  executed.clear()
  assert command(config_path, tmp_path, *flags) == 0 and not executed
  more = ("--rows=mean_before", "--steps=9")
  assert command(config_path, tmp_path, *more) == 0
  assert [run.name for run in executed] == ["mean_before"]
  # The table keeps what was there.
  rows = json.loads((out / "table.json").read_text())["rows"]
  assert [*rows] == ["trained", "oracle", "mean_before", "k_4", "plain_only"]
  assert rows["trained"]["seeds"] == [0, 1] and rows["mean_before"][
    "seeds"
  ] == [0]


def test_a_run_of_other_settings_is_never_taken(
  config_path, tmp_path, executed, capsys
):
  assert command(config_path, tmp_path, "--rows=trained") == 0
  assert command(config_path, tmp_path, "--rows=trained", "--steps=8") == 2
  message = capsys.readouterr().err
  assert "total_steps was 7, is 8" in message and "--out" in message
  assert len(executed) == 1
  # Nor does it enter the table of another row.
  assert command(config_path, tmp_path, "--rows=k_4", "--steps=8") == 0
  rows = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
  assert list(rows) == ["k_4"] and len(executed) == 2


def test_the_drawn_data_are_shared(config_path, tmp_path, executed):
  assert command(config_path, tmp_path, "--rows=trained,k_4,plain_only") == 0
  first, second, other = (run.workdir / "data" for run in executed)
  assert first.is_symlink() and first.is_dir()
  assert first.resolve() == second.resolve() != other.resolve()
  assert first.resolve().parent == tmp_path / "out" / "data"


def test_the_command_of_a_run(config_path, tmp_path, executed):
  flags = ("--rows=decoder_after_unit", "--seeds=3", "--set=optim.peak_lr=1e-4")
  assert command(config_path, tmp_path, *flags) == 0
  (run,) = executed
  assert run.command()[1:] == [
    *("-m", "sseg_jax.main", f"--config={config_path}"),
    f"--workdir={tmp_path / 'out' / 'decoder_after_unit' / 'seed3'}",
    "--config.optim.peak_lr=1e-4",
    "--config.model.query_embedding=decoder",
    "--config.model.mean=after",
    "--config.model.counted_queries=all",
    "--config.model.normalize_queries=True",
    "--config.evaluate.combiner=mean",
    "--config.loss.mask_every=1",
    "--config.seed=3",
  ]
  assert run.config.model.normalize_queries is True and run.config.seed == 3


def test_a_row_that_changes_nothing_is_left_out(
  config_path, tmp_path, executed
):
  # This base merges clusters, but takes no medians.
  assert command(config_path, tmp_path, "--rows=no_merge,no_median") == 0
  assert [run.name for run in executed] == ["no_merge"]
  text = (tmp_path / "out" / "table.md").read_text()
  assert "Not run: `no_median` equals the base config." in text


def test_failures_are_told_and_the_rest_goes_on(
  config_path, tmp_path, monkeypatch, capsys
):
  names = []

  def execute(run):
    names.append(run.name)
    return 1 if run.name == "trained" else 0

  monkeypatch.setattr(series, "execute", execute)
  rows = "--rows=trained,k_4,global_words,oracle"
  assert command(config_path, tmp_path, rows) == 1
  assert names == ["trained", "k_4", "oracle"]
  message = capsys.readouterr().err
  assert "failed with exit code 1" in message and "output.txt" in message
  assert "needs the checkpoint of the row trained" in message


def test_stops_when_a_run_was_asked_to(config_path, tmp_path, monkeypatch):
  names = []
  monkeypatch.setattr(
    series, "execute", lambda run: names.append(run.name) or 75
  )
  assert command(config_path, tmp_path, "--rows=trained,k_4") == 75
  assert names == ["trained"]


def test_a_training_is_a_process(config_path, tmp_path, monkeypatch):
  base = config_files.load(config_path)
  run = runs.Run(
    "trained", ROWS["trained"], 0, tmp_path, str(config_path), base, {}
  )
  run.prepare()
  code = "import sys; print('so far'); sys.exit(3)"
  monkeypatch.setattr(
    runs.Run, "command", lambda self: [sys.executable, "-c", code]
  )
  assert runs.execute(run) == 3
  assert (run.workdir / "output.txt").read_text() == "so far\n"
  assert run.result() is None


def test_sigterm_stops_the_training_and_the_table(
  config_path, tmp_path, monkeypatch
):
  base = config_files.load(config_path)
  run = runs.Run(
    "trained", ROWS["trained"], 0, tmp_path, str(config_path), base, {}
  )
  run.prepare()
  # A training that dies of the signal, before it could save anything.
  code = "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM)"
  monkeypatch.setattr(
    runs.Run,
    "command",
    lambda self: [sys.executable, "-c", code + "; time.sleep(60)"],
  )
  before = signal.getsignal(signal.SIGTERM)
  # Should the command not catch it, this test fails and pytest lives on.
  signal.signal(signal.SIGTERM, lambda *_: pytest.fail("was not caught"))
  try:
    assert runs.execute(run) == runs.PREEMPTED
  finally:
    signal.signal(signal.SIGTERM, before)


def test_scores_are_read_from_the_result():
  retrieval = {"image_to_text_R@1": 11.0, "text_to_image_R@1": 12.0}
  one = result(0, 30.0, 60.0, retrieval=retrieval)
  hard = json.loads(json.dumps(one["benchmarks"]["hard"]))
  hard["per_class"]["ball"] = None  # never occurs
  hard["per_class"]["box"] = 52.0
  one["benchmarks"]["hard"] = hard
  del one["benchmarks"]["held_out"]
  found = table.scores(one)
  assert found["plain things"] == 30 and found["plain grounds"] == 60
  assert found["plain mIoU"] == 40
  assert found["hard things"] == pytest.approx((10 * 30 + 52) / 11)
  assert found["image_to_text R@1"] == 11
  assert found["text_to_image R@1"] == 12
  assert found["ms per step"] == 100
  assert not any(name.startswith("held_out") for name in found)
  assert table.scores({"seed": 0, "steps": 0}) == {}


def test_list(capsys):
  assert ablations.main(["--list"]) == 0
  text = capsys.readouterr().out
  assert all(f"{name} (" in text for name in ROWS)
  assert ablations.main(["--list", "--json"]) == 0
  listed = json.loads(capsys.readouterr().out)
  assert listed["k_4"]["overrides"] == {"pseudo_masks.k": 4}


@pytest.mark.slow
def test_a_whole_table(tmp_path):
  source = "\n".join(
    [
      "from sseg_jax import default_config",
      "def get_config():",
      "  c = default_config.get_config()",
      '  c.dtype, c.data.source = "float32", "shapes"',
      '  c.model.backbone = "conv_tiny"',
      "  c.total_steps = c.batch_size = c.data.lanes = 4",
      "  c.image_size = c.evaluate.image_size = 32",
      "  c.evaluate.stride = 16",
      "  c.model.hidden_dim = c.model.mask_dim = c.model.ffn_dim = 32",
      "  c.model.num_heads = c.text.num_heads = c.text.layers = 2",
      "  c.model.decoder_layers = 1",
      "  c.model.num_queries = 8",
      "  c.model.embed_dim = c.model.proj_hidden = c.text.width = 32",
      "  c.text.context_length = 16",
      "  c.pseudo_masks.k = c.pseudo_masks.stride = 4",
      "  c.optim.warmup_steps = 1",
      "  c.data.threads = c.log_every_steps = 1",
      "  c.data.shuffle_window = c.data.shapes.train_size = 16",
      "  c.data.shapes.eval_size = 4",
      "  return c",
    ]
  )
  (tmp_path / "tiny.py").write_text(source)
  flags = [f"--config={tmp_path}/tiny.py", f"--out={tmp_path}/out", "--json"]
  rows = "--rows=trained,untrained,global_words,oracle"
  made = subprocess.run(
    [preloaded.python(), "-m", "sseg_jax.ablations", *flags, rows],
    capture_output=True,
    text=True,
    check=False,
  )
  assert made.returncode == 0, made.stderr
  table = json.loads(made.stdout)["rows"]
  assert table["trained"]["steps"] == [4]
  assert table["untrained"]["steps"] == table["oracle"]["steps"] == [0]
  for name, row in table.items():
    for kind in KINDS:
      assert 0 <= row["scores"][f"{kind} mIoU"]["mean"] <= 100, name
  best = table["oracle"]["scores"]["plain mIoU"]["mean"]
  assert best > table["untrained"]["scores"]["plain mIoU"]["mean"]
  assert "image_to_text R@1" in table["untrained"]["scores"]
  results = tmp_path / "out" / "oracle" / "seed0" / "result.json"
  per_class = json.loads(results.read_text())["benchmarks"]["hard"]["per_class"]
  assert tuple(per_class) == CLASS_NAMES


def test_every_row_has_a_method():
  known = {"train", *methods.METHODS}
  assert {row.method for row in ROWS.values()} <= known


def test_an_unknown_method_is_told(config_path, tmp_path):
  row = runs.Row("a typing error", method="orcale")
  base = config_files.load(config_path)
  run = runs.Run("typo", row, 0, tmp_path, str(config_path), base, {})
  with pytest.raises(InputError, match="'orcale' .* oracle, global_words"):
    methods.compute(run)
