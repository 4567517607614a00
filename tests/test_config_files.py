"""Config files and overrides: what does not fit is told in one line."""

import pathlib

import pytest

from sseg_jax import config_files, default_config, main
from sseg_jax.errors import InputError

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
MINE = """
from sseg_jax import default_config

def get_config():
  c = default_config.get_config()
  c.total_steps = 9
  return c
"""


def test_a_file_gives_its_config(tmp_path, monkeypatch):
  (tmp_path / "mine.py").write_text(MINE)
  monkeypatch.setenv("HOME", str(tmp_path))
  for path in (tmp_path / "mine.py", "~/mine.py"):
    config = config_files.load(path)
    assert config.total_steps == 9 and config.is_locked


def test_a_bare_name_is_a_published_config(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "quickstart").mkdir()  # of a run
  assert config_files.load("quickstart") == config_files.load(
    CONFIGS / "quickstart.py"
  )
  assert config_files.published() == sorted(
    p.stem for p in CONFIGS.glob("*.py")
  )


@pytest.mark.parametrize(
  ("name", "text", "message"),
  [
    ("min.py", None, "no such file; did you mean .*/mine.py"),
    ("mine", None, "no such file; did you mean .*/mine.py"),
    ("quikstart.py", None, "did you mean --config=quickstart"),
    ("absent/cc62m.py", None, "did you mean --config=cc26m"),
    ("zzz.py", None, "no such file; .* cc12m, .*quickstart"),
    (".", None, "is a folder"),
    ("a.yaml", "seed: 1", "not a Python file"),
    ("a.py", "seed: = 1", "not Python, line 1"),
    ("a.py", "x = 1\n", "has no function get_config"),
    ("a.py", "get_config = 3\n", "has no function get_config"),
    ("a.py", "\n1 / 0\n", "raises ZeroDivisionError at line 2: division"),
    ("a.py", "import nowhere_at_all\n", "raises ModuleNotFoundError at line 1"),
    ("a.py", "import sys\nsys.exit(0)\n", "raises SystemExit at line 2"),
    (
      "a.py",
      "def get_config():\n  raise KeyError('a\\nb')\n",
      "raises KeyError at line 2",
    ),
    ("a.py", "def get_config():\n  return {}\n", "get_config returns dict"),
    ("a.py", b"\x00\x01", "raises|not Python"),
    ("a.py", b"# \xe4\n", "no function get_config|not Python"),
  ],
)
def test_what_is_no_config_file_is_told(tmp_path, name, text, message):
  (tmp_path / "mine.py").write_text(MINE)
  if isinstance(text, bytes):
    (tmp_path / name).write_bytes(text)
  elif text is not None:
    (tmp_path / name).write_text(text)
  with pytest.raises(InputError, match=message) as raised:
    config_files.load(tmp_path / name)
  assert f"config={tmp_path / name}: " in str(raised.value)
  assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
  ("field", "text", "value"),
  [
    ("seed", "3", 3),
    ("optim.peak_lr", "1e-3", 1e-3),
    ("optim.peak_lr", "1", 1.0),
    ("pallas", "false", False),
    ("pallas", "1", True),
    ("data.train", "a=b, c", "a=b, c"),
    ("data.val", "", ""),
    ("data.val", "17", "17"),
    ("data.crop_scale", "(0.5, 1)", (0.5, 1)),
    ("data.crop_scale", "0.5,1.0", (0.5, 1.0)),
    ("model.stem_widths", [8, 16], (8, 16)),
  ],
)
def test_texts_become_what_the_field_is(field, text, value):
  config = config_files.overridden(default_config.get_config(), {field: text})
  for part in field.split("."):
    config = config[part]
  assert config == value and type(config) is type(value)


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("model.no_such", 1, "model.no_such=1: there is no such field"),
    ("optim.peek_lr", 1, "did you mean optim.peak_lr"),
    ("peak_lr", 1, "did you mean optim.peak_lr"),
    ("nothing.at.all", 1, "there is no such field"),
    ("seed.deep", 1, "there is no such field"),
    ("", "1", "there is no such field"),
    ("batch_size", "many", "batch_size='many': must be a whole number"),
    ("batch_size", 1.5, "batch_size=1.5: must be a whole number"),
    ("seed", True, "seed=True: must be a whole number"),
    ("optim.b1", "x", "optim.b1='x': must be a number"),
    ("pallas", "maybe", "pallas='maybe': must be true or false"),
    ("data.crop_scale", "0.5", "data.crop_scale='0.5': must be several"),
    ("data.train", 3, "data.train=3: must be a text"),
    ("model", "3", "model='3': must be left as it is"),
  ],
)
def test_wrong_overrides_are_told(field, value, message):
  with pytest.raises(InputError, match=message):
    config_files.overridden(default_config.get_config(), {field: value})


def test_all_wrong_overrides_are_told_at_once():
  with pytest.raises(InputError, match="seed='x'.*; model.nothing=1"):
    config_files.overridden(
      default_config.get_config(), {"seed": "x", "model.nothing": 1}
    )


def test_settings_are_split_at_the_first_sign():
  assert config_files.parse_settings(["a.b=3", "c=d=e", "f="]) == {
    **{"a.b": "3", "c": "d=e", "f": ""}
  }
  for wrong in ("x", "=3"):
    with pytest.raises(InputError, match="set="):
      config_files.parse_settings([wrong])


def test_the_ways_to_override_on_the_command_line(monkeypatch):
  monkeypatch.setenv("HOME", "/home/me")
  flags, config = main.parse(
    [
      f"--config={CONFIGS / 'quickstart.py'}",
      "--config.seed=5",
      "--config.optim.peak_lr",
      "0.25",
      "--config.model.pool_place",
      "--workdir=~/run",
      "--json",
    ]
  )
  assert (flags.workdir, flags.json) == ("/home/me/run", True)
  assert (config.seed, config.optim.peak_lr) == (5, 0.25)
  assert config.model.pool_place is True and config.is_locked


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--workdir=x"], "--config and --workdir are needed"),
    (["--config=configs/quickstart.py"], "--config and --workdir are needed"),
    (["--wrkdir=x"], "'--wrkdir=x' is not a flag; did you mean --workdir"),
    (["x"], "'x' is not a flag"),
    (["--config=nowhere.py", "--workdir=x"], "config=nowhere.py: no such file"),
  ],
)
def test_wrong_flags_are_one_line(arguments, message, capsys):
  assert main.run(arguments) == 2
  error = capsys.readouterr().err
  assert error.startswith("error: ") and message in error
  assert error.count("\n") == 1
