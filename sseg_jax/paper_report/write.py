"""Keeps the runs of a report, and writes both of its files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sseg_jax import files
from sseg_jax.errors import InputError
from sseg_jax.paper_report import page, tables
from sseg_jax.paper_report.gathered import Gathered
from sseg_jax.runtime import provenance

JSON, HTML = "report.json", "report.html"
_FORMAT = "sseg_jax report 1"


def prepare(folder: Path) -> list[dict[str, Any]]:
  """Makes the folder and returns the runs that a report there has already.

  InputError if there is a `report.json` that is none of these.
  """
  files.make_folder("report", folder)
  path = folder / JSON
  if not path.exists():
    return []
  found = files.read_json(path)
  found = found if isinstance(found, dict) else {}
  runs = found.get("runs")
  if not isinstance(runs, list) or found.get("format") != _FORMAT:
    raise InputError(
      f"{path}: is not a report of this version; give another folder, or remove"
      " it"
    )
  return runs


def write(
  folder: Path,
  before: list[dict[str, Any]],
  results: Mapping[str, dict[str, Any]],
  gathered: Mapping[str, Gathered],
) -> None:
  """Writes `report.json` and `report.html`.

  Args:
    folder: what `prepare` made.
    before: what it returned. A run of the same system, weights, protocol and
      benchmark is replaced.
    results: of `scores.score_all`.
    gathered: what was gathered of each benchmark.
  """
  origin = {
    "versions": provenance.versions(),
    "commit": provenance.git_commit(),
  }
  new = [
    {**gathered[name].as_json(result), **origin}
    for name, result in results.items()
  ]
  replaced = {_key(run) for run in new}
  runs = [run for run in before if _key(run) not in replaced] + new
  report = {
    "format": _FORMAT,
    "paper": {
      "tables": [
        {
          "title": table.title,
          "benchmarks": table.benchmarks,
          "rows": [row._asdict() for row in table.rows],
        }
        for table in tables.TABLES
      ],
      "oracle": tables.ORACLE,
    },
    "runs": runs,
  }
  files.write_text(folder / JSON, json.dumps(report) + "\n")
  files.write_text(folder / HTML, page.page(report))


def _key(run: Mapping[str, Any]) -> tuple:
  result = run["result"]
  names = ("system", "checkpoint", "step", "weights", "protocol", "benchmark")
  return tuple(result.get(name) for name in names)
