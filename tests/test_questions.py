"""Twenty-one questions of a newcomer, and the file whose name answers each.

A question is answered if the file exists and defines the symbol. Who moves a
symbol changes the line here, and asks whether the new file's name still answers
the question.
"""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "sseg_jax"

QUESTIONS = (
  ("Where does a training run begin and end?", "train.py", "train"),
  ("What happens in one step?", "train_step.py", "train_step"),
  (
    "Where is the background threshold chosen?",
    "inference/background.py",
    "choose",
  ),
  (
    "Which pixels are background?",
    "inference/background.py",
    "apply_threshold",
  ),
  ("Where is SIGTERM handled?", "runtime/preemption.py", "Stop"),
  ("What if a host dies?", "runtime/multihost.py", "Peers"),
  (
    "What keeps a second run out of a work directory?",
    "runtime/lease.py",
    "Lease",
  ),
  (
    "Where is a damaged checkpoint found?",
    "checkpoints/integrity.py",
    "damage",
  ),
  ("How are checkpoints saved?", "checkpoints/checkpoint.py", "Checkpoints"),
  ("Where do I add a baseline?", "baselines/__init__.py", "BASELINES"),
  ("Where do I add a benchmark?", "benchmarks/__init__.py", "KINDS"),
  ("Where do I add a backbone?", "models/backbones.py", "BACKBONES"),
  (
    "What is a query embedded from?",
    "models/query_embedding.py",
    "QueryEmbedding",
  ),
  ("How are pictures read?", "images/reader.py", "read_image"),
  ("Which formats of captions are known?", "data/sources/kinds.py", "READERS"),
  ("Which picture comes in which batch?", "data/order.py", "LaneOrder"),
  ("Where is a field's range checked?", "config_check.py", "RULES"),
  ("How are masks matched to queries?", "matching.py", "match"),
  (
    "How does a large picture get its windows?",
    "inference/sliding_window.py",
    "Layout",
  ),
  (
    "What does a press of the page's button do?",
    "page/handlers.py",
    "Handlers",
  ),
  ("Which variants does the ablation have?", "study/rows.py", "ROWS"),
)


@pytest.mark.parametrize(("question", "file", "symbol"), QUESTIONS)
def test_a_file_name_answers(question, file, symbol):
  tree = ast.parse((PACKAGE / file).read_text())
  defined = set()
  for node in tree.body:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      defined.add(node.name)
    elif isinstance(node, ast.Assign):
      defined |= {t.id for t in node.targets if isinstance(t, ast.Name)}
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
      defined.add(node.target.id)
  assert symbol in defined, question
