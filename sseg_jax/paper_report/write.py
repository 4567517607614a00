"""Keeps the scores of a report, and writes both of its files."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sseg_jax import files
from sseg_jax.benchmarks import table1_rows
from sseg_jax.errors import InputError
from sseg_jax.paper_report import generators, page, tables
from sseg_jax.paper_report.gathered import Gathered
from sseg_jax.runtime import provenance

JSON, HTML = "report.json", "report.html"
_FORMAT = "sseg_jax report 1"


class Report(NamedTuple):
  """What a report has.

  Attributes:
    runs: of systems, see `Gathered.as_json`, each with versions and commit.
    oracle: of generators of pseudo-masks, see `generators.entries`.
  """

  runs: list[dict[str, Any]]
  oracle: list[dict[str, Any]]


def prepare(folder: Path) -> Report:
  """Makes the folder and returns what a report there has already.

  InputError if there is a `report.json` that is none of these.
  """
  files.make_folder("report", folder)
  path = folder / JSON
  if not path.exists():
    return Report([], [])
  found = files.read_json(path)
  found = found if isinstance(found, dict) else {}
  # Reports from before there was Table 1 have no list of it.
  parts = [found.get("runs"), found.get("oracle", [])]
  lists = [part for part in parts if isinstance(part, list)]
  if len(lists) < len(parts) or found.get("format") != _FORMAT:
    raise InputError(
      f"{path}: is not a report of this version; give another folder, or remove"
      " it"
    )
  return Report(*lists)


def write(
  folder: Path,
  before: Report,
  results: Mapping[str, dict[str, Any]],
  gathered: Mapping[str, Gathered],
) -> None:
  """Adds scores of systems to `report.json` and `report.html`.

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
  _save(folder, before._replace(runs=_joined(before.runs, new, _key)))


def write_oracle(
  folder: Path, before: Report, new: list[dict[str, Any]]
) -> Report:
  """Adds scores of generators of pseudo-masks to both files.

  Args:
    folder: what `prepare` made.
    before: what it, or this function, returned. A score of the same generator
      with the same weights and settings, on the same benchmark, is replaced.
    new: of `generators.entries`.

  Returns:
    What the report has now.
  """
  joined = _joined(before.oracle, new, generators.key)
  report = before._replace(oracle=joined)
  _save(folder, report)
  return report


def _joined(
  before: list[dict[str, Any]],
  new: list[dict[str, Any]],
  key: Callable[[Mapping[str, Any]], tuple],
) -> list[dict[str, Any]]:
  replaced = {key(one) for one in new}
  return [one for one in before if key(one) not in replaced] + new


def _save(folder: Path, found: Report) -> None:
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
      "oracle": table1_rows.PAPER,
    },
    **found._asdict(),
  }
  files.write_text(folder / JSON, json.dumps(report) + "\n")
  files.write_text(folder / HTML, page.page(report))


def _key(run: Mapping[str, Any]) -> tuple:
  result = run["result"]
  names = ("system", "checkpoint", "step", "weights", "protocol", "benchmark")
  return tuple(result.get(name) for name in names)
