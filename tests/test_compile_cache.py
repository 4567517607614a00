"""The compile cache on disk: where it is, and that it is used."""

import os
import pathlib
import stat
import subprocess
import sys

import jax
import pytest

from sseg_jax.runtime import compile_cache

CODE = """
import sys, jax
from sseg_jax.runtime import compile_cache
folder = compile_cache.use()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: x * 2 + 1)(3.0)
print(folder)
"""


@pytest.fixture
def settings():
  """Gives JAX's settings back as they were."""
  names = [
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_compilation_cache_max_size",
  ]
  before = {name: getattr(jax.config, name) for name in names}
  yield
  for name, value in before.items():
    jax.config.update(name, value)


def test_the_folder_follows_xdg(monkeypatch, tmp_path):
  monkeypatch.setenv("HOME", str(tmp_path))
  for value in ("", "relative"):
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert compile_cache.default_folder() == (
      tmp_path / ".cache/sseg_jax/compiled"
    )
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
  assert compile_cache.default_folder() == tmp_path / "x/sseg_jax/compiled"


def test_a_folder_of_the_user_stays(monkeypatch, tmp_path, settings):
  jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
  assert compile_cache.use(tmp_path / "other") == tmp_path / "mine"
  assert not (tmp_path / "other").exists()


def test_a_place_that_cannot_be_written_is_no_error(tmp_path, settings):
  jax.config.update("jax_compilation_cache_dir", None)
  (tmp_path / "file").touch()
  assert compile_cache.use(tmp_path / "file" / "x") is None
  assert jax.config.jax_compilation_cache_dir is None


def test_programs_are_kept_for_the_owner_alone(tmp_path):
  keep = {k: v for k, v in os.environ.items() if "COMPILATION_CACHE" not in k}
  env = keep | {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
  done = subprocess.run(
    [sys.executable, "-c", CODE],
    env=env,
    cwd=pathlib.Path(__file__).parents[1],
    capture_output=True,
    text=True,
    check=True,
  )
  folder = tmp_path / "sseg_jax" / "compiled"
  assert done.stdout.strip() == str(folder)
  assert any(path.is_file() for path in folder.iterdir())
  assert stat.S_IMODE(folder.stat().st_mode) == 0o700
