"""The notebook: it runs from top to bottom, and is stored without outputs."""

import base64
import io
import json
import os
import pathlib
import re
import shlex
import sys
import tomllib
import types

import numpy as np
import pytest
from PIL import Image
from test_evaluate import save_checkpoint

from sseg_jax import config_check, main
from sseg_jax.data import shapes

ROOT = pathlib.Path(__file__).parents[1]
PATH = ROOT / "launch" / "evaluate_colab.ipynb"
NOTEBOOK = json.loads(PATH.read_text(encoding="utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def sources(kind="code"):
  cells = [c for c in NOTEBOOK["cells"] if c["cell_type"] == kind]
  return ["".join(cell["source"]) for cell in cells]


def replaced(settings, values):
  """The cell of settings with other values, each of which has to be there."""
  for name, value in values.items():
    settings, count = re.subn(
      rf"^{name} = .*?(?=  # @param)",
      f"{name} = {value!r}",
      settings,
      flags=re.M,
    )
    assert count == 1, name
  return settings


def test_outputs_are_not_stored():
  for cell in NOTEBOOK["cells"]:
    if cell["cell_type"] == "code":
      stored = cell["outputs"], cell["execution_count"]
      assert stored == ([], None), "clear all outputs before you save it"
    assert cell["metadata"] == {}, "remove what a program for notebooks added"
  assert "widgets" not in NOTEBOOK["metadata"]


def test_cells_are_short_and_settings_are_form_fields():
  settings, *others = sources()
  assert all(len(source.splitlines()) <= 12 for source in others)
  assert all(source.count("\n") <= 6 for source in sources("markdown"))
  for line in settings.splitlines():
    assert line.startswith("# @") or re.search(
      r'  # @param {type:"\w+"}$', line
    )
  assert not [s for s in others if re.search(r"^\s*(def|class) ", s, re.M)]


def test_it_opens_from_the_repository_s_address():
  address = PROJECT["project"]["urls"]["Repository"]
  opened = address.replace(
    "https://github.com/", "https://colab.research.google.com/github/"
  )
  opened += f"/blob/main/{PATH.relative_to(ROOT)}"
  assert f"]({opened})" in sources("markdown")[0]
  assert f"]({opened})" in (ROOT / "README.md").read_text(encoding="utf-8")
  assert f'"{address}"' in sources()[0]


def test_the_package_is_installed_in_colab_alone_and_leaves_jax():
  (cell,) = [source for source in sources() if "%pip" in source]
  before, _, install = cell.partition("%pip")
  assert before.endswith(
    'if "google.colab" in sys.modules:\n  JAX = version("jax")\n  '
  )
  what, jax = shlex.split(install)[-2:]
  assert jax == "jax=={JAX}"
  name, extras = re.fullmatch(r"([\w-]+)\[(.*)\] @ git\+{REPO}", what).groups()
  assert name == PROJECT["project"]["name"]
  known = PROJECT["project"]["optional-dependencies"]
  assert set(extras.split(",")) <= known.keys()


def test_the_quickstart_is_trained_by_a_command_that_exists():
  (cell,) = [source for source in sources() if "sseg_jax.main" in source]
  assert cell.startswith("if not CHECKPOINT:\n")
  (line,) = re.findall(r"!{sys.executable} -m sseg_jax.main (.*)", cell)
  where = re.search('CHECKPOINT = "(.*)"', cell)[1]
  flags, config = main.parse(shlex.split(line.replace("{CHECKPOINT}", where)))
  assert flags.workdir == where and config.data.source == "shapes"
  config_check.check(config)


def test_drive_and_an_upload_are_asked_for_in_colab_alone(monkeypatch):
  asked = []
  colab = types.ModuleType("google.colab")
  colab.drive = types.SimpleNamespace(mount=asked.append)
  colab.files = types.SimpleNamespace(upload=lambda: {"mine.jpg": b""})
  (drive,) = [source for source in sources() if "drive.mount" in source]
  (picture,) = [source for source in sources() if "files.upload" in source]
  names = {"sys": sys, "CHECKPOINT": "/content/drive/MyDrive/run", "OUT": "out"}
  exec(drive, dict(names))
  assert asked == []
  monkeypatch.setitem(sys.modules, "google.colab", colab)
  exec(drive, {**names, "CHECKPOINT": "org/name"})
  assert asked == []
  exec(drive, dict(names))
  assert asked == ["/content/drive"]
  model = types.SimpleNamespace(segment=lambda image, *_, **__: image)
  for given, wanted in {"upload": "mine.jpg", "a.png": "a.png"}.items():
    names = {"model": model, "IMAGE": given, "WORDS": "", "BACKGROUND": True}
    exec(picture, names)
    assert names["result"] == wanted


@pytest.fixture
def run(tmp_path, tiny_config):
  """Runs the notebook, with cells added, on small files."""
  nbformat = pytest.importorskip("nbformat")
  nbclient = pytest.importorskip("nbclient")
  pytest.importorskip("matplotlib")
  tiny_config.pseudo_masks.generator = "pixels"
  # With this seed few scores are so near to each other that rounding decides,
  # which an export would be refused for.
  save_checkpoint(tmp_path / "run", tiny_config, seed=3)
  shapes.write_things(tmp_path / "mine", train_size=2, val_size=3)
  Image.fromarray(shapes.render("hard", "val", 0).image).save(
    tmp_path / "picture.png"
  )

  def run(values, *added):
    notebook = nbformat.read(PATH, 4)
    settings = next(c for c in notebook.cells if c.cell_type == "code")
    settings.source = replaced(settings.source, values)
    notebook.cells += [
      nbformat.v4.new_code_cell(source, metadata={"tags": ["raises-exception"]})
      for source in added
    ]
    os.makedirs(tmp_path / "here", exist_ok=True)
    places = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    nbclient.NotebookClient(
      notebook,
      timeout=300,
      resources={"metadata": {"path": str(tmp_path / "here")}},
    ).execute(env=os.environ | {"PYTHONPATH": os.pathsep.join(places)})
    return [c for c in notebook.cells if c.cell_type == "code"]

  return run


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(run, tmp_path):
  cells = run(
    {
      "CHECKPOINT": "../run",
      "IMAGE": "../picture.png",
      "WORDS": "star, big ball, 猫",
      "BACKGROUND": True,
      "BENCHMARK": "../mine",
      "MAX_IMAGES": 2,
      "FORMATS": "safetensors",
      "OUT": "out",
    },
    'model.segment("absent.png", WORDS)',
  )
  shown = {}
  for cell in cells:
    for output in cell.outputs:
      text = output.get("text", "") or output.get("data", {}).get("text/plain")
      shown.setdefault(cell.source, []).append(text or "")
      if png := output.get("data", {}).get("image/png"):
        with Image.open(io.BytesIO(base64.b64decode(png))) as picture:
          pixels = np.asarray(picture.convert("RGB"))
        assert min(pixels.shape[:2]) > 90 and pixels.std() > 10
        shown[cell.source][-1] = "picture"
  pictures = [text for texts in shown.values() for text in texts]
  assert pictures.count("picture") == 7
  text = "\n".join(pictures)
  assert "../run, step 3" in text
  assert "mine: 3 pictures, 12 classes" in text
  assert "chosen on 2 pictures of train" in text
  assert "largest difference" in text
  assert "100.00% of the labels are equal" in text
  result = json.loads((tmp_path / "here/out/scores/result.json").read_text())
  assert result["mine"]["images"] == 2
  # A mistake is told in one line.
  (error,) = cells[-1].outputs
  assert error.ename == "InputError"
  assert error.traceback[0].startswith("error: absent.png: ")
  assert len(error.traceback) == 1
