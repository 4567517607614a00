"""The table of `sseg_jax.ablations`, from the result.json of its runs alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sseg_jax.data.shapes import GROUNDS, KINDS, THINGS

_GROUPS = {"things": THINGS, "grounds": GROUNDS}


def scores(result: Mapping[str, Any]) -> dict[str, float]:
  """Returns the scores of one result.json that the table shows.

  `KIND mIoU`, `KIND things` and `KIND grounds` for each benchmark of the
  embedded data set, `image_to_text R@1`, `text_to_image R@1`, `ms per step`.
  Things and grounds are means over those of their classes that occur.
  """
  found: dict[str, float | None] = {}
  for kind in KINDS:
    benchmark = result.get("benchmarks", {}).get(kind)
    if benchmark is None:
      continue
    found[f"{kind} mIoU"] = benchmark["mIoU"]
    for group, names in _GROUPS.items():
      ious = [benchmark["per_class"].get(name) for name in names]
      ious = [iou for iou in ious if iou is not None]
      found[f"{kind} {group}"] = sum(ious) / len(ious) if ious else None
  for way in ("image_to_text", "text_to_image"):
    found[f"{way} R@1"] = result.get("retrieval", {}).get(f"{way}_R@1")
  found["ms per step"] = result.get("final", {}).get("ms_per_step")
  return {name: x for name, x in found.items() if x is not None}


def summarize(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Returns mean, min and max of each score over the runs of one row."""
  each = [scores(result) for result in results]
  names = dict.fromkeys(name for one in each for name in one)
  summary: dict[str, Any] = {
    "seeds": [result["seed"] for result in results],
    "steps": sorted({result["steps"] for result in results}),
    "scores": {},
  }
  for name in names:
    values = [one[name] for one in each if name in one]
    summary["scores"][name] = {
      "mean": sum(values) / len(values),
      "min": min(values),
      "max": max(values),
      "runs": len(values),
    }
  return summary


def markdown(
  rows: Mapping[str, Mapping[str, Any]], left_out: Mapping[str, str]
) -> str:
  """Returns the table, means with ranges where there are several runs."""
  columns = [f"{kind} {what}" for kind in KINDS for what in ("mIoU", "things")]
  columns += ["image_to_text R@1", "text_to_image R@1", "ms per step"]
  lines = [
    "| " + " | ".join(["row", "runs", *columns]) + " |",
    "| --- |" + " ---: |" * (len(columns) + 1),
  ]
  for name, row in rows.items():
    cells = [_cell(row["scores"].get(column)) for column in columns]
    count = str(len(row["seeds"]))
    lines.append("| " + " | ".join([name, count, *cells]) + " |")
  text = "\n".join(lines) + "\n"
  text += (
    "\nMean over seeds, in brackets the lowest and the highest. `things` is the"
    f" mean IoU of {len(THINGS)} of the {len(THINGS + GROUNDS)} classes.\n"
  )
  for name, reason in left_out.items():
    text += f"\nNot run: `{name}` {reason}.\n"
  return text


def write(
  out: Path,
  results: Mapping[str, Sequence[Mapping[str, Any]]],
  left_out: Mapping[str, str],
) -> dict[str, Any]:
  """Writes OUT/table.md and OUT/table.json, and returns what the latter holds.

  Args:
    out: folder; it is made if it does not exist.
    results: row -> its result.json files that exist, in the order of the rows.
    left_out: reasons of rows that were not run.
  """
  rows = {name: summarize(found) for name, found in results.items()}
  table = {"rows": rows, "left_out": dict(left_out)}
  out.mkdir(parents=True, exist_ok=True)
  (out / "table.md").write_text(markdown(rows, left_out))
  (out / "table.json").write_text(json.dumps(table, indent=2) + "\n")
  return table


def _cell(score: Mapping[str, Any] | None) -> str:
  if score is None:
    return "-"
  if score["runs"] == 1:
    return f"{score['mean']:.1f}"
  return f"{score['mean']:.1f} ({score['min']:.1f}–{score['max']:.1f})"
