"""The commands that pages show are valid; `test_readme.py` runs some of them.

A rule of `RULES` says of each kind of command how it is checked. A command
that no rule fits fails. What needs a pod, a cloud, a chip or millions of
pictures is compared with the real flags and files only.
"""

import ast
import importlib.util
import pathlib
import re
import shlex
import tomllib

import pytest
import readme
import yaml

from sseg_jax import config_check, main

ROOT = pathlib.Path(__file__).parents[1]
PAGES = (
  "README.md",
  "launch/README.md",
  "configs/README.md",
  "sseg_jax/exporting/README.md",
  "sseg_jax/plan/README.md",
  "sseg_jax/bench/README.md",
  ".github/CONTRIBUTING.md",
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]


def page(name):
  return (ROOT / name).read_text(encoding="utf-8")


# --- The rules ----------------------------------------------------------------


def of_package(module, arguments):
  """Flags, and for a training the values of all fields, are valid."""
  if module == "main":
    flags, config = main.parse(arguments)
    assert flags.workdir
    config_check.check(config)
    return
  command = f"sseg_jax.{module}"
  if (ROOT / "sseg_jax" / module).is_dir():
    command += ".__main__"
  flags = importlib.import_module(command)._parser().parse_args(arguments)
  if module == "bench":
    from sseg_jax.bench.cases import CASES

    assert set(flags.cases.split(",")) <= CASES.keys()


def of_local(arguments):
  """launch/local.py has the flags; what follows `--` is a training."""
  own, training = shlex.split(arguments.partition(" -- ")[0]), "-- "
  text = page("launch/local.py")
  for flag in own:
    assert f'add_argument("{flag.partition("=")[0]}"' in text
  of_package("main", shlex.split(arguments.partition(training)[2]))


def of_script(name, arguments):
  """A script of launch/ has the word; what follows `run` is a training."""
  word, *rest = shlex.split(arguments)
  assert re.search(rf"^  {word}\)", page(f"launch/{name}"), re.M)
  if word == "run":
    of_package("main", [r for r in rest if r.startswith("--")])


def of_slurm(options, arguments):
  assert all(option.startswith("--") for option in shlex.split(options))
  of_package("main", shlex.split(arguments))


def of_exports(assignments):
  """Scripts of launch/ read the variables."""
  scripts = page("launch/tpu_pod.sh") + page("launch/xpk.sh")
  for assignment in shlex.split(assignments):
    assert re.search(rf"\$\{{?{assignment.partition('=')[0]}\b", scripts)


def of_pip(arguments):
  """Extras exist. Other packages are those of the environment or named so."""
  for argument in shlex.split(arguments):
    if match := re.fullmatch(r"(?:\.|sseg-jax)\[(.*)\]", argument):
      assert set(match[1].split(",")) <= EXTRAS.keys()


def of_tools(line):
  """Test files exist, and the extra `test` has the tools."""
  test = " ".join(EXTRAS["test"])
  for command in line.split("&&"):
    name, *arguments = shlex.split(command)
    assert name in test
    for argument in arguments:
      if argument.startswith("tests/"):
        assert (ROOT / argument).is_file()
      if argument == "--dist":
        assert "pytest-xdist" in test


def of_docker(arguments):
  assert (ROOT / re.search(r"-f (\S+)", arguments)[1]).is_file()


def of_sed(script, path):
  """What is replaced is there."""
  for replaced in re.findall(r"s\|(.*?)\|", script):
    assert replaced in page(path)


def of_copies(*folders):
  assert all((ROOT / folder).is_dir() for folder in folders)


def of_skypilot(arguments):
  (task,) = re.findall(r"launch/\S+", arguments)
  known = yaml.safe_load(page(task))["envs"]
  assert set(re.findall(r"--env (\w+)=", arguments)) <= known.keys()


def of_tfds(config, module, _):
  """The builder is there, and has the config."""
  text = page(f"{module.replace('.', '/')}.py")
  assert "class CaptionedPictures(" in text
  assert int(config) in ast.literal_eval(
    re.search(r"for side in (\(.*?\))", text)[1]
  )


def of_runner(name, arguments):
  """The runner of an exported folder has the flags."""
  assert (ROOT / f"sseg_jax/exporting/runners/of_{name}.py").is_file()
  text = page("sseg_jax/exporting/runners/common.py")
  for flag in shlex.split(arguments):
    assert f'"{flag.partition("=")[0]}"' in text


RULES = (
  (
    r"python -m sseg_jax\.(\w+)(.*)",
    lambda name, arguments: of_package(name, shlex.split(arguments)),
  ),
  (r"python launch/local\.py (.*)", of_local),
  (r"launch/(tpu_pod\.sh|xpk\.sh) (.*)", of_script),
  (r"sbatch (.*)launch/slurm\.sbatch (.*)", of_slurm),
  (r"export (.*)", of_exports),
  (r"pip install (.*?)(?: # .*)?", of_pip),
  (r"((?:pytest|ruff) .*?)(?: # .*)?", of_tools),
  (r"docker build (.*)", of_docker),
  (r"sed \"(.*)\" (\S+) \| kubectl apply -f -", of_sed),
  (r"sky jobs launch (.*)", of_skypilot),
  (r"cp -r (\S+) SPACE && cp -r (\S+) SPACE/", of_copies),
  (
    r"tfds build captioned_pictures/short(\d+) --imports=(\S+) "
    r" *(--manual_dir=.*)",
    of_tfds,
  ),
  (r"python exported/(\w+)/run\.py (.*)", of_runner),
)


def check(command):
  for pattern, rule in RULES:
    if match := re.fullmatch(pattern, command):
      rule(*match.groups())
      return
  raise AssertionError(f"no rule of RULES fits: {command}")


def checked(block):
  """Checks a block; a line of flags alone changes the command before it."""
  if block.language == "python":
    compile(block.text, "block", "exec")
    return
  assert block.language == "bash", f"no rule for ```{block.language}"
  command = ""
  for line in block.lines():
    if line.startswith("--"):
      check(f"{command} {line}")
    else:
      check(line)
      command = line


# --- Every command is valid ---------------------------------------------------


def shown():
  for name in PAGES:
    for i, block in enumerate(readme.blocks(page(name))):
      yield pytest.param(block, id=f"{name}-{i}")


@pytest.mark.parametrize("block", list(shown()))
def test_blocks_are_valid(monkeypatch, block):
  monkeypatch.chdir(ROOT)
  checked(block)


@pytest.mark.parametrize("name", PAGES)
def test_commands_within_sentences_are_valid(monkeypatch, name):
  monkeypatch.chdir(ROOT)
  for command in readme.inline(page(name)):
    # One that has no flags names the command only; "…" stands for any config.
    if module := re.fullmatch(r"python -m (sseg_jax\.\w+)", command):
      assert importlib.util.find_spec(module[1]), command
    else:
      check(command.replace("--config=…", "--config=quickstart"))


def test_no_fence_is_missed():
  for name in PAGES:
    fences = re.findall(r"^\s*(?:```|~~~)", page(name), re.MULTILINE)
    assert len(fences) == 2 * len(list(readme.blocks(page(name)))), name


@pytest.mark.parametrize(
  ("language", "text"),
  [
    ("bash", "python -m sseg_jax.predict --chekpoint=x --image=a --words=b"),
    ("bash", "python -m sseg_jax.main --config=quickstart --workdir=w --x=1"),
    (
      "bash",
      "python -m sseg_jax.main --config=quickstart --workdir=w \\\n"
      "  --config.batch_size=-1",
    ),
    ("bash", "python -m sseg_jax.absent --x=1"),
    ("bash", "python -m sseg_jax.bench --cases=absent"),
    ("bash", "python launch/local.py --prozesses=2 -- --config=quickstart"),
    ("bash", "launch/xpk.sh go cc12m"),
    ("bash", "pip install -e '.[trian]'"),
    ("bash", "pytest tests/test_absent.py"),
    ("bash", "curl https://example.org | sh"),
    ("bash", "export NAMES=x"),
    ("python", "model = sseg_jax.load("),
    ("yaml", "a: b"),
  ],
)
def test_a_wrong_block_is_found(monkeypatch, capsys, language, text):
  monkeypatch.chdir(ROOT)
  errors = (AssertionError, ValueError, SystemExit, ImportError, SyntaxError)
  with pytest.raises(errors):
    checked(readme.Block("", language, text))
