"""Scores a checkpoint, another system or generators of pseudo-masks.

This is the command; its flags are in `evaluate_flags.py`.
`checkpoint_scores.py` scores a checkpoint, `system_scores.py` another system
(`--system`), `benchmarks/table1.py` generators (`--oracle`).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from sseg_jax import baselines, evaluate_flags, files
from sseg_jax.errors import reported

_parser = evaluate_flags.parser  # every command has one


def _given(flags: argparse.Namespace, *names: str) -> dict[str, Any]:
  """Returns the flags that were given; the others keep their defaults."""
  return {
    name: value for name in names if (value := getattr(flags, name)) is not None
  }


@reported
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command."""
  flags = _parser().parse_args(argv)
  evaluate_flags.check(flags)
  if flags.words_report:
    from sseg_jax.learned import report  # loads JAX

    print(report.run(flags.checkpoint, flags.out) / report.NAMES[1])
    return 0
  return _oracle(flags) if flags.oracle else _scores(flags)


def _scores(flags: argparse.Namespace) -> int:
  # Imported here, because these load JAX.
  from sseg_jax import benchmarks, checkpoint_scores, system_scores
  from sseg_jax.baselines import trained
  from sseg_jax.baselines.options import Options
  from sseg_jax.benchmarks import report, unfinished
  from sseg_jax.paper_report import gathered, write

  seen: dict[str, gathered.Gathered] = {}

  def observer(benchmark: Any) -> gathered.Gathered:
    return seen.setdefault(
      benchmark.name, gathered.Gathered(benchmark, flags.max_images)
    )

  before = write.prepare(flags.report) if flags.report else None
  place = flags.out or flags.report
  kept = place / "unfinished" if place else None
  settings = checkpoint_scores.Settings(
    unfinished=kept,
    observer=observer if flags.report else None,
    class_names=benchmarks.class_list(flags.classes) if flags.classes else None,
    **_given(
      flags,
      *("data_root", "split", "background_threshold", "max_images", "out"),
      *("choose_threshold_split", "threshold_images", "templates"),
      *("combiner", "image_size", "pictures", "synonyms", "protocol", "pamr"),
      *("flip", "scales", "refine"),
    ),
  )
  specs = benchmarks.parse_specs(flags.benchmarks)
  if trained.is_trained(flags.system):
    results = checkpoint_scores.run(
      flags.checkpoint, specs, settings, flags.system or ""
    )
  else:
    names = baselines.OPTIONS.get(flags.system, ())
    results = system_scores.run(
      flags.system, specs, settings, Options(**_given(flags, *names))
    )
  if before is not None:
    write.write(flags.report, before, results, seen)
  if kept:
    unfinished.remove(kept, list(results))
  if flags.json:
    print(json.dumps(results))
  else:
    print(report.summary(results))
    if flags.per_class:
      print("\n" + report.per_class(results))
  return 0


def _oracle(flags: argparse.Namespace) -> int:
  from sseg_jax import benchmarks
  from sseg_jax.benchmarks import table1, table1_rows
  from sseg_jax.paper_report import generators, write

  pictures = 6 if flags.pictures is None else flags.pictures
  settings = table1.Settings(
    square=not flags.keep_ratio,
    pictures=pictures if flags.out else 0,
    **_given(
      flags,
      *("image_size", "seeds", "max_images", "batch_size", "time_size"),
      *("time_batch", "dtype"),
    ),
  )
  names = "table" if flags.generators is None else flags.generators
  weights = flags.weights or ""
  rows = table1_rows.choose(names, weights)
  specs = "voc" if flags.benchmarks is None else flags.benchmarks
  opened = [
    benchmarks.open_benchmark(spec, flags.data_root, split=flags.split)
    for spec in benchmarks.parse_specs(specs)
  ]
  if flags.out:
    files.make_folder("out", flags.out)
  kept = write.prepare(flags.report) if flags.report else None

  def finished(row: str, found: dict[str, Any]) -> None:
    nonlocal kept
    if kept is not None:
      new = generators.entries(row, found, opened, settings)
      kept = write.write_oracle(flags.report, kept, new)

  results = table1.run(
    rows,
    opened,
    settings,
    fields={
      "k": 8 if flags.k is None else flags.k,
      "position_rule": flags.position_rule or "",
    },
    weights=table1.parse_weights(weights, rows),
    out=flags.out,
    finished=finished,
  )
  print(json.dumps(results) if flags.json else table1.table(results))
  missing = table1_rows.NEEDS_FOLDER
  if missing not in rows and "table" in names:
    print(
      f"the row {missing} was left out: it needs --weights={missing}=FOLDER, a"
      " folder that transformers saved (GroupViTModel)",
      file=sys.stderr,
    )
  return 0


if __name__ == "__main__":
  sys.exit(main())
