"""What a wheel holds: enough for a user who has no clone."""

import pathlib
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]
CODE = """
import pathlib
from sseg_jax import config_files, tokenizer
folder = pathlib.Path(config_files.__file__).parent
assert "unpacked" in folder.parts, folder
assert config_files.load("quickstart").total_steps > 0
assert tokenizer.Tokenizer().encode("cat") == [2368]
print(*config_files.published())
"""


@pytest.mark.slow
def test_a_wheel_holds_configs_and_merges(tmp_path):
  pytest.importorskip("hatchling")
  build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
  subprocess.run([*build, "-d", str(tmp_path)], cwd=ROOT, check=True)
  (wheel,) = tmp_path.glob("*.whl")
  with zipfile.ZipFile(wheel) as file:
    names = file.namelist()
    file.extractall(tmp_path / "unpacked")
  assert any(name.endswith("licenses/LICENSE") for name in names)
  assert "sseg_jax/clip_merges/LICENSE" in names
  assert not [name for name in names if name.startswith(("configs", "tests"))]
  done = subprocess.run(
    [sys.executable, "-c", CODE],
    cwd=tmp_path,
    env={"PYTHONPATH": str(tmp_path / "unpacked"), "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.split() == sorted(
    path.stem for path in (ROOT / "configs").glob("*.py")
  )
