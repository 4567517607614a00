"""The generator through the compiler for TPUs; no TPU is needed."""

import pytest

from sseg_jax.errors import InputError
from sseg_jax.models import vit
from sseg_jax.plan import __main__ as command
from sseg_jax.plan import chips, generators, step

pytestmark = pytest.mark.usefixtures("flags_of_libtpu")


def _macs(side, blocks):
  """Multiply-adds of blocks of ViT-S/8; 22.4e9 for twelve at 224 px."""
  tokens, d = (side // 8) ** 2 + 1, 384
  return blocks * (12 * d**2 * tokens + 2 * d * tokens**2)


@pytest.fixture
def device_of(monkeypatch):
  pytest.importorskip("libtpu", reason="needs the extra tpu")
  # Its lock would stop a second compilation on this machine.
  monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  return lambda chip: step.devices_of(chips.squarest(chip, 4))[0]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "blocks", "side"), [("v5e", 12, 224), ("v6e", 2, 112)]
)
def test_dino_compiles_for(name, blocks, side, device_of, monkeypatch):
  monkeypatch.setitem(vit.VIT_SIZES["dino_vits8"], "depth", blocks)
  chip = chips.find(name)
  found = generators.project(
    "dino", chip, device_of(chip), image_size=side, batch_size=128, k=8
  )
  # Two operations each; attention sees 896 tokens in place of 785, or 256 of
  # 197.
  macs = _macs(side, blocks)
  assert 1 < found["gflop_per_image"] / (2e-9 * macs) < 1.2
  assert found["loops_of_unknown_length"] == 0
  assert found["memory"] < chip.hbm_bytes
  assert 0.1 < found["peak"] <= 1
  assert found["in_turn_per_image"] >= found["seconds_per_image"]
  # A picture's products at the chip's peak; the paper took 0.002 s on a GPU.
  assert 2 * macs / chip.flops < found["seconds_per_image"] < 0.002
  text = generators.render({"dino": found}, "title")
  assert "projected, not measured" in text and " 0.002" in text


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ([], "give --config, or --generators"),
    (["--generators=dino"], "give --topology as well"),
    (["--generators=dino", "--topology=v9"], "topology='v9'"),
    (["--config=c.py", "--k=8"], "k: belongs to --generators"),
    (["--generators=dino", "--topology=v5e", "--k=0"], "k=0: must be at least"),
  ],
)
def test_flags_of_the_projection(arguments, message, capsys):
  assert command.main(arguments) == 2
  assert message in capsys.readouterr().err


def test_a_row_that_does_not_exist_is_named(device_of, capsys):
  assert command.main(["--generators=dion", "--topology=v5e"]) == 2
  assert "generators='dion' is neither a row" in capsys.readouterr().err


@pytest.mark.slow
def test_what_does_not_fit_is_named(device_of):
  chip = chips.find("v5e")
  with pytest.raises(InputError, match="generators=pixels: .* memory of a v5e"):
    generators.project(
      "pixels", chip, device_of(chip), image_size=224, batch_size=2**16, k=8
    )
