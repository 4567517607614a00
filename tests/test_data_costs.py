"""Hours and bytes of `prepare`, computed from what some pictures take."""

import json

import pytest
from PIL import Image

from sseg_jax.plan import __main__ as command

RATES = "convert_ms=9,choose_us=3.6,write_ms=0.9,read_bytes=100,record_bytes=50"


def _costs(capsys, *argv):
  assert command.main([*argv, "--json"]) == 0
  return json.loads(capsys.readouterr().out)


def test_the_arithmetic(capsys):
  argv = ["--pictures=4e6", f"--rates={RATES}", "--kept=0.5", "--cores=10"]
  found = _costs(capsys, *argv, "--vcpus=20")["costs"]
  one, many = found["one machine, 10 cores"], found["Dataflow, 20 vCPUs"]
  # 4 million of 9 ms are 10 hours of a core.
  assert one["hours"] == pytest.approx(
    {"convert": 1, "choose": 0.004, "write": 0.05, "all": 1.054}
  )
  assert many["hours"]["convert"] == pytest.approx(0.5)
  assert many["hours"]["choose"] == pytest.approx(0.004)  # one process
  assert one["core_hours"] == many["core_hours"] == pytest.approx(10.5)
  assert one["bytes"]["read"] == 4e8 and one["bytes"]["records"] == 1e8
  assert one["bytes"]["most at once"] == 1e8 + 2 * 10 * 1000 * 50
  assert command.main(argv) == 0
  assert "| hours: all | 1.05 |" in capsys.readouterr().out


@pytest.mark.slow
def test_rates_are_measured(tmp_path, capsys):
  lines = []
  for i in range(9):
    Image.new("RGB", (40, 30), (i * 20, 9, 9)).save(tmp_path / f"{i}.png")
    lines.append(json.dumps({"file_name": f"{i}.png", "caption": "a b"}))
  (tmp_path / "captions.jsonl").write_text("\n".join(lines))
  argv = ["--pictures=1e6", f"--source={tmp_path}", "--sample=6"]
  rates = _costs(capsys, *argv, "--image_size=16")["rates"]
  assert all(value > 0 for value in rates.values())
  sizes = [(tmp_path / f"{i}.png").stat().st_size for i in range(6)]
  assert rates["read_bytes"] == pytest.approx(sum(sizes) / 6)


@pytest.mark.parametrize(
  ("argv", "told"),
  [
    ([], "either --source or --rates"),
    (["--rates=convert_ms=1"], "--rates='convert_ms=1': give NAME=NUMBER"),
    ([f"--rates={RATES.replace('=9', '=-9')}"], "numbers must be above 0"),
    ([f"--rates={RATES}", "--kept=2"], "--kept=2.0"),
    ([f"--rates={RATES}", "--cores=0"], "--cores=0"),
    ([f"--rates={RATES}", "--topology=v5e"], "topology: has no meaning"),
  ],
)
def test_wrong_flags_are_named(argv, told, capsys):
  assert command.main(["--pictures=1e6", *argv]) == 2
  assert told in capsys.readouterr().err
