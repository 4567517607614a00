"""The one-way order of imports, read off the syntax trees."""

import ast
import graphlib
import importlib.util
import pathlib
import subprocess
import sys

import pytest

import sseg_jax

PACKAGE = pathlib.Path(__file__).parents[1] / "sseg_jax"

# A row may import the rows below it, never those above; modules of one row may
# import each other as long as they make no circle.
ORDER = (
  {
    "main",
    "predict",
    "export",
    "plan",
    "prepare",
    "demo",
    "bench",
    "ablations",
    "curves",
    "inspect_records",
    "prepare_benchmark",
  },
  {"study", "page"},
  {"exporting"},
  {"self_training"},
  {"train"},
  {"evaluator"},
  {"evaluate", "evaluate_flags"},
  {
    *("checkpoint_scores", "system_scores"),
    *("figures", "learned", "paper_report"),
  },
  {"scores", "score_settings", "score_thresholds"},
  {"evaluation"},
  {
    "config_check",
    "metrics",
    "benchmarks",
    "baselines",
  },
  {"train_step"},
  {"tasks"},
  {"inference"},
  {
    "losses",
    "contrastive",
    "region_words",
    "word_bags",
    "matching",
    "pseudo_masks",
    "optim",
    "accumulation",
  },
  {"models"},
  {"checkpoints", "data", "content_words"},
  {
    "sharding",
    "tokenizer",
    "prompts",
    "scene_classes",
    "synonyms",
    "default_config",
    "batch_fields",
    "html_page",
    "evaluate_fields",
    "self_training_fields",
    "stored_config",
    "images",
    "runtime",
    "command_line",
    "config_files",
    "field_rules",
    "files",
  },
  {"errors"},
)
# These cannot be imported without it.
_WITH_GRADIO = ("page.layout", "page.parts", "page.server")
# What `data` may import.
_FOR_DATA = (
  *("tokenizer", "images", "files", "html_page", "runtime", "errors"),
)
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}


def _modules() -> dict[str, pathlib.Path]:
  """Dotted name below the package -> file; "" is the package itself."""
  modules = {}
  for path in sorted(PACKAGE.rglob("*.py")):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    modules[".".join(p for p in parts if p != "__init__")] = path
  return modules


def _imports(tree: ast.AST, module: str, is_package: bool) -> set[str]:
  """Everything the tree imports, anywhere in it, as absolute dotted names."""
  found = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ""
      if node.level:
        parts = ["sseg_jax", *filter(None, module.split("."))]
        parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
        base = ".".join([*parts, *filter(None, [node.module])])
      found |= {f"{base}.{alias.name}" for alias in node.names}
  return found


def _violations(module: str, imports: set[str]) -> list[str]:
  top = module.split(".")[0]
  wrong = []
  for name in sorted(imports):
    parts = name.split(".")
    if parts[0] == "configs":
      wrong.append(f"{module} imports {name}: nothing may import configs")
    if parts[0] != "sseg_jax" or len(parts) < 2 or parts[1] == top:
      continue
    target = parts[1]
    if target not in RANK:
      continue  # a name of the package itself, as __version__
    if RANK[target] < RANK.get(top, -1):
      wrong.append(f"{module} imports {name}, which stands above it")
    if top == "data" and target not in _FOR_DATA:
      wrong.append(
        f"{module} imports {name}: data imports only {', '.join(_FOR_DATA)}"
      )
  return wrong


def test_every_module_has_a_place_in_the_order():
  tops = {name.split(".")[0] for name in _modules()} - {""}
  assert tops <= RANK.keys(), f"give {tops - RANK.keys()} a place in ORDER"


def test_imports_go_one_way():
  wrong = []
  for module, path in _modules().items():
    if not module:
      continue  # the package's door: it imports `api` when asked for `load`
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wrong += _violations(
      module, _imports(tree, module, path.name == "__init__.py")
    )
  assert not wrong, "\n".join(wrong)


def test_no_circles():
  graph: dict[str, set[str]] = {}
  for module, path in _modules().items():
    top = module.split(".")[0]
    if not top:
      continue
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = _imports(tree, module, path.name == "__init__.py")
    targets = {n.split(".")[1] for n in names if n.startswith("sseg_jax.")}
    graph.setdefault(top, set()).update((targets & RANK.keys()) - {top})
  graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_the_check_sees_what_it_should():
  source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
  from sseg_jax import train
def f():
  from ..data import records
  import sseg_jax.inference.segmenter
  import configs.quickstart
  from sseg_jax import errors, __version__
"""
  imports = _imports(ast.parse(source), "models.sseg", is_package=False)
  assert "sseg_jax.data.records" in imports
  wrong = "\n".join(_violations("models.sseg", imports))
  assert wrong.count("\n") == 2
  for name in ("train", "segmenter", "configs.quickstart"):
    assert name in wrong
  only = _violations("data.pipeline", {"sseg_jax.sharding.make_mesh"})
  assert len(only) == 1 and "only tokenizer" in only[0]


@pytest.mark.slow
def test_no_tensorflow_outside_data():
  names = [
    ".".join(["sseg_jax", name]).rstrip(".")
    for name in _modules()
    if name.split(".")[0] != "data"
    and (name not in _WITH_GRADIO or importlib.util.find_spec("gradio"))
  ]
  code = (
    "import importlib, sys\n"
    f"for name in {names}:\n"
    "  importlib.import_module(name)\n"
    "  assert 'tensorflow' not in sys.modules, name\n"
  )
  subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)


def test_importing_the_package_imports_no_jax():
  code = "import sys, sseg_jax; assert 'jax' not in sys.modules"
  subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)


def test_modules_that_moved_are_found_by_their_old_names():
  for old, new in sseg_jax._MOVED.items():
    with pytest.warns(DeprecationWarning, match=f"sseg_jax.{new} now"):
      module = getattr(sseg_jax, old)
    assert module.__name__ == f"sseg_jax.{new}"
