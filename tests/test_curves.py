"""Curves of runs are read, compared and drawn."""

import json

import pytest
from PIL import Image

from sseg_jax import curves


@pytest.fixture
def runs(tmp_path):
  """Two runs of eight steps; the second is 0.1, then 0.5 higher."""
  for name, offset in (("one", 0.0), ("two", 0.1)):
    folder = tmp_path / name
    folder.mkdir()
    rows = [
      {"step": i, "loss": 8 - i + offset * (5 if i == 2 else 1)}
      for i in range(1, 9)
    ]
    rows.insert(4, {"step": 4, "mIoU/plain": 3.0})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text)
  return tmp_path


def test_the_second_is_compared_with_the_first(runs, capsys):
  arguments = [f"a={runs}/one", f"b={runs}/two/metrics.jsonl"]
  out = runs / "loss.png"
  assert curves.main([*arguments, "--json", f"--out={out}"]) == 0
  first, second = json.loads(capsys.readouterr().out)
  assert first == {"run": "a", "last": 0.5, "difference": 0, "largest": 0}
  assert second["run"] == "b" and second["last"] == pytest.approx(0.6)
  assert second["difference"] == pytest.approx(0.1)
  assert second["largest"] == pytest.approx(0.5)
  with Image.open(out) as image:
    assert image.format == "PNG"
  assert curves.main(arguments) == 0
  assert "by 0.1 on average there, by 0.5 at most" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["{}/one"], "give NAME=FOLDER"),
    (["a={}/one", "a={}/two"], "each name once"),
    (["a={}/absent"], "absent: no scalars of a run"),
    (["a={}/one", "--scalar=los"], "no scalar 'los'; it has loss, mIoU/plain"),
  ],
)
def test_bad_input_is_one_line(runs, capsys, arguments, message):
  assert curves.main([a.format(runs) for a in arguments]) == 2
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1
