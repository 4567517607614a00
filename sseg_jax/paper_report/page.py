"""The report as one HTML file that needs no other."""

from collections.abc import Mapping, Sequence
from typing import Any

from sseg_jax import html_page
from sseg_jax.html_page import Html, element
from sseg_jax.inference import protocols
from sseg_jax.paper_report import generators
from sseg_jax.paper_report.tables import TABLES, Table

_NOT_RUN = element("span", "not run", kind="none")

# Heading, and what stands below it.
_Section = tuple[str, str]


def page(report: Mapping[str, Any]) -> str:
  """Returns the page of a report; see `paper_report.write`."""
  runs = report["runs"]
  names = list(dict.fromkeys(run["result"]["protocol"] for run in runs))
  sections: list[_Section] = [
    (
      "",
      element(
        "p",
        "mIoU in percent: the figure that the paper prints (arXiv 2401.12217),"
        " and beside it what was run here. Scores of different protocols cannot"
        " be compared, so each protocol has tables of its own.",
      ),
    )
  ]
  for name in names:
    own = [run for run in runs if run["result"]["protocol"] == name]
    sections.append((f"Protocol {name}", _protocol(own)))
  if not names:
    sections.append(("Systems", _protocol(())))
  masks = generators.section(report["oracle"])
  sections += [("Pseudo-masks", masks), *map(_run, runs)]
  return html_page.page("Scores beside the paper's", sections)


def _protocol(runs: Sequence[Mapping[str, Any]]) -> str:
  lines = dict.fromkeys(
    protocols.Protocol(**run["result"]["protocol_settings"]).line()
    for run in runs
  )
  parts = [html_page.paragraphs(lines, kind="note")]
  parts += [_table(table, runs) for table in TABLES]
  others = [
    run["result"]
    for run in runs
    if not any(
      run["result"]["benchmark"] in table.benchmarks and row.made(run["result"])
      for table in TABLES
      for row in table.rows
    )
  ]
  if others:
    head = ("other benchmarks and systems", "system", "mIoU", "pictures")
    rows = [
      (r["benchmark"], r["system"], _number(r["mIoU"]), r["images"])
      for r in others
    ]
    parts.append(html_page.table(head, rows))
  return "\n".join(parts)


def _table(table: Table, runs: Sequence[Mapping[str, Any]]) -> Html:
  rows = []
  for row in table.rows:
    cells: list[object] = [row.name]
    for benchmark, printed in zip(table.benchmarks, row.printed, strict=True):
      found = [
        run["result"]
        for run in runs
        if run["result"]["benchmark"] == benchmark and row.made(run["result"])
      ]
      ran = [
        html_page.joined(
          (element("b", _number(r["mIoU"])), f" ({r['images']})")
        )
        for r in found
      ]
      cells += [
        "-" if printed is None else f"{printed:.1f}",
        Html("<br>".join(ran)) or _NOT_RUN,
      ]
    rows.append(cells)
  head = [table.title]
  for benchmark in table.benchmarks:
    head += [f"{benchmark}, paper", "here (pictures)"]
  return html_page.table(head, rows)


def _run(run: Mapping[str, Any]) -> _Section:
  result, pictures = run["result"], run["pictures"]
  place = result.get("checkpoint") or result.get("weights") or ""
  facts = {
    "system": result["system"],
    "read from": place,
    "step": result.get("step"),
    "SHA-256 of the weights": result.get("weights_sha256"),
    "protocol": result["protocol"],
    "split": result["split"],
    "pictures": result["images"],
    "mIoU": result["mIoU"],
    "pixel accuracy": result["pixel_accuracy"],
    "background threshold": result["threshold"],
    "threshold from": result["threshold_source"],
    "templates": ", ".join(result["templates"][:3])
    + (", …" if result["templates"][3:] else ""),
    "synonyms": result["synonyms"],
    "pictures a second": result["images_per_second"],
    "commit": run["commit"] or "not a checkout",
    "versions": ", ".join(f"{k} {v}" for k, v in run["versions"].items()),
  }
  rows = [
    (name, element("code", value))
    for name, value in facts.items()
    if value is not None
  ]
  parts = [
    html_page.table(("run", ""), rows),
    *(
      element("p", html_page.image(pictures[key], name))
      for key, name in _CURVES.items()
      if pictures[key]
    ),
  ]
  if run["confused"]:
    mistakes = [(a, b, f"{share:.1f}") for a, b, share in run["confused"]]
    head = ("label", "most often mistaken for", "% of its pixels")
    parts.append(html_page.table(head, mistakes))
  for kind in ("best", "worst"):
    figures = [
      (p["id"], [f"mIoU {p['mIoU']:.1f}"], [p["picture"]] * bool(p["picture"]))
      for p in pictures[kind]
    ]
    title = f"{kind.capitalize()} pictures: picture, truth, prediction"
    parts += [element("h3", title), html_page.sheet(figures, wide=True)]
  title = f"{result['system']} on {result['benchmark']}"
  return f"{title}, protocol {result['protocol']}", "\n".join(parts)


_CURVES = {
  "iou": "IoU of each class",
  "curve": "mIoU against the background threshold",
  "confusion": "confusion matrix",
}


def _number(value: float | None) -> str:
  return "-" if value is None else f"{value:.2f}"
