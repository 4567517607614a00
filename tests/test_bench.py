"""Side-by-side measurements: the arithmetic, the cases, the command."""

import json

import optax
import pytest

from sseg_jax import optim
from sseg_jax.bench import __main__ as command
from sseg_jax.bench import cases, ingest, timing
from sseg_jax.exporting import formats
from sseg_jax.models import conv, swin, vit


def test_ratios_are_taken_within_a_round(monkeypatch):
  clock = iter(
    # Round one: a 1 s, b 2 s. Round two, all slower and b first: b 8 s, a 4 s.
    [0.0, 1.0, 1.0, 3.0, 3.0, 11.0, 11.0, 15.0]
  )
  monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
  order = []
  ways = {name: lambda name=name: order.append(name) for name in "ab"}
  result = timing.measure(timing.Case("work", ways), rounds=2, warmup=0)
  assert order == ["a", "a", "b", "b", "b", "b", "a", "a"]
  assert result["ways"]["a"]["median_s"] == 2.5
  assert result["ways"]["b"]["median_s"] == 5.0
  assert result["ways"]["b"]["ratio"] == 2.0
  text = timing.table({"case": result})
  assert "| case | a | 2.50 s | 1 |" in text
  assert "| b | 5.00 s | 2.00 (2.00-2.00) |" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in cases.CASES if n != "export"])
def test_every_case_does_equal_work(name, monkeypatch):
  _measure(name, monkeypatch)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of converters
def test_every_export_does_equal_work(monkeypatch, unchecked_types):
  """Traced with unknown sizes, so without checks: shapes are no numbers."""
  for name in ("onnx", "savedmodel"):  # test_export.py writes and runs them
    monkeypatch.delitem(formats.FORMATS, name)
  _measure("export", monkeypatch)


def _measure(name, monkeypatch):
  # Fewer blocks: most of the time would go to compiling them.
  monkeypatch.setitem(swin.SWIN_SIZES["swin_t"], "depths", (1, 1, 1, 1))
  monkeypatch.setitem(conv.CONV_SIZES["conv_small"], "depths", (1, 1, 1, 1))
  for vit_s in ("dino_vits8", "dino_vits16"):
    monkeypatch.setitem(vit.VIT_SIZES[vit_s], "depth", 2)
  # For the same reason an optimiser that has one operation for each array.
  monkeypatch.setattr(optim, "build", lambda *_: optax.sgd(1e-3))
  if name in ("vit", "contrastive", "input", *cases.FOR_GPUS) or "_vs_" in name:
    pytest.importorskip("torch")
  if name in ("vit", *cases.CHOOSE) or "_vs_" in name:
    pytest.importorskip("transformers")
  case = cases.CASES[name](True)
  result = timing.measure(case, rounds=1, warmup=0, peak_flops=1e12)
  ways = {"step_parts": 11, "attention": 3, "input": 3}
  ways["evaluate_vs_groupvit"] = 3
  ways["prepare"] = 4 if ingest.program() else 2
  ways |= dict.fromkeys(("pseudo_masks_224", "pseudo_masks_448"), 3)
  if name == "export":  # as many formats as the machine can write
    assert "%" in case.agreement
  else:
    assert len(result["ways"]) == ways.get(name, 2)
  assert all(way["median_s"] > 0 for way in result["ways"].values())
  if name in cases.FOR_GPUS:
    assert all(0 < way["mfu"] for way in result["ways"].values())
    assert "| images/s, MFU |" in timing.table({name: result})
  if name in ("kmeans", "fused"):
    assert "100.00% of the labels are equal" in case.agreement
  if name == "input":
    assert int(case.agreement.split("differ by ")[1].split()[0]) <= 2
  if "maskformer" in name:
    ours, _, _, theirs = case.agreement.split()[:4]
    assert ours == theirs.strip(",")


def test_the_command_prints_json(capsys):
  argv = ["--cases=assignment", "--small", "--rounds=1", "--json"]
  assert command.main(argv) == 0
  report = json.loads(capsys.readouterr().out)
  assert set(report["results"]["assignment"]["ways"]) == {
    "sseg_jax",
    "scipy, one by one",
  }
  assert report["machine"]["cores"] and report["versions"]["jax"]


@pytest.mark.parametrize(
  "argv",
  [
    ["--cases=nothing"],
    ["--rounds=0"],
    ["--batch_size=0"],
    ["--batch_size=4", "--cases=kmeans"],
  ],
)
def test_wrong_arguments_are_named(argv, capsys):
  assert command.main([*argv, "--small"]) == 2
  field = argv[0].split("=")[0].strip("-")
  assert f"error: {field}" in capsys.readouterr().err
