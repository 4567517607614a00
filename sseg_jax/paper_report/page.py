"""The report as one HTML file that needs no other."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from sseg_jax.inference import protocols
from sseg_jax.paper_report.tables import ORACLE, TABLES, Table

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c2330;max-width:68rem;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{margin-top:2.4rem;border-bottom:1px solid #d8dde6}
table{border-collapse:collapse;margin:.6rem 0 1.4rem}
th,td{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #e6e9ef}
th:first-child,td:first-child{text-align:left}th{background:#f4f6fa}
.none{color:#8a93a3}.run{font-weight:600}.scroll{overflow-x:auto}
img{max-width:100%;height:auto;display:block;margin:.4rem 0}
.pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(22rem,1fr));
gap:.8rem}figure{margin:0}figcaption,.note{color:#5a6475;font-size:.9rem}
code{background:#f4f6fa;padding:0 .2rem;overflow-wrap:anywhere}
"""

_NOT_RUN = '<span class="none">not run</span>'


def page(report: Mapping[str, Any]) -> str:
  """Returns the page of a report; see `paper_report.write`."""
  runs = report["runs"]
  names = list(dict.fromkeys(run["result"]["protocol"] for run in runs))
  parts = [
    "<!doctype html><html lang=en><head><meta charset=utf-8>"
    "<meta name=viewport content='width=device-width,initial-scale=1'>"
    f"<title>Scores beside the paper's</title><style>{_STYLE}</style></head>"
    "<body><h1>Scores beside the paper's</h1>",
    "<p>mIoU in percent: the figure that the paper prints (arXiv 2401.12217),"
    " and beside it what was run here. Scores of different protocols cannot be"
    " compared, so each protocol has tables of its own.</p>",
  ]
  for name in names:
    own = [run for run in runs if run["result"]["protocol"] == name]
    parts.append(_protocol(name, own))
  parts += [_oracle(), *(_run(i, run) for i, run in enumerate(runs, 1))]
  return "\n".join([*parts, "</body></html>\n"])


def _protocol(name: str, runs: Sequence[Mapping[str, Any]]) -> str:
  lines = dict.fromkeys(
    protocols.Protocol(**run["result"]["protocol_settings"]).line()
    for run in runs
  )
  parts = [f"<h2>Protocol {_text(name)}</h2>"]
  parts += [f"<p class=note>{_text(line)}</p>" for line in lines]
  parts += [_table(table, runs) for table in TABLES]
  known = {name for table in TABLES for name in table.benchmarks}
  systems = {row.system for table in TABLES for row in table.rows}
  others = [
    run
    for run in runs
    if run["result"]["benchmark"] not in known
    or run["result"]["system"] not in systems
  ]
  if others:
    rows = [
      (
        run["result"]["benchmark"],
        run["result"]["system"],
        _number(run["result"]["mIoU"]),
        str(run["result"]["images"]),
      )
      for run in others
    ]
    head = ("other benchmarks and systems", "system", "mIoU", "pictures")
    parts.append(_html_table(head, rows))
  return "\n".join(parts)


def _table(table: Table, runs: Sequence[Mapping[str, Any]]) -> str:
  rows = []
  for row in table.rows:
    cells = [_text(row.name)]
    for benchmark, printed in zip(table.benchmarks, row.printed, strict=True):
      found = [
        run["result"]
        for run in runs
        if run["result"]["benchmark"] == benchmark
        and row.system
        and run["result"]["system"] == row.system
      ]
      ran = [
        f"<span class=run>{_number(r['mIoU'])}</span> ({r['images']})"
        for r in found
      ]
      cells += [
        "-" if printed is None else f"{printed:.1f}",
        "<br>".join(ran) or _NOT_RUN,
      ]
    rows.append(cells)
  head = [table.title]
  for benchmark in table.benchmarks:
    head += [f"{benchmark}, paper", "here (pictures)"]
  return _html_table(head, rows, ready=True)


def _oracle() -> str:
  rows = [
    (name, f"{voc:.1f}", f"{context:.1f}", f"{seconds:.3f}")
    for name, voc, context, seconds in ORACLE
  ]
  head = (
    "Table 1: pseudo-masks with oracle labels",
    "voc, paper",
    "context, paper",
    "seconds a picture, paper",
  )
  return (
    "<h2>Pseudo-masks</h2>"
    + _html_table(head, rows)
    + "<p class=note>Not run in a report: <code>evaluate --oracle</code> scores"
    " these on this machine.</p>"
  )


def _run(number: int, run: Mapping[str, Any]) -> str:
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
    (_text(k), f"<code>{_text(v)}</code>")
    for k, v in facts.items()
    if v is not None
  ]
  title = f"{result['system']} on {result['benchmark']}"
  parts = [
    f"<h2 id=run{number}>{_text(title)}, protocol"
    f" {_text(result['protocol'])}</h2>",
    _html_table(("run", ""), rows, ready=True),
    _picture(pictures["iou"], "IoU of each class"),
    _picture(pictures["curve"], "mIoU against the background threshold"),
    _picture(pictures["confusion"], "confusion matrix"),
  ]
  if run["confused"]:
    mistakes = [(a, b, f"{share:.1f}") for a, b, share in run["confused"]]
    head = ("label", "most often mistaken for", "% of its pixels")
    parts.append(_html_table(head, mistakes))
  for kind in ("best", "worst"):
    figures = [
      f"<figure>{_picture(p['picture'], p['id'])}<figcaption>"
      f"{_text(p['id'])}: mIoU {p['mIoU']:.1f}</figcaption></figure>"
      for p in pictures[kind]
    ]
    parts.append(
      f"<h3>{kind.capitalize()} pictures: picture, truth, prediction</h3>"
      f"<div class=pictures>{''.join(figures)}</div>"
    )
  return "\n".join(parts)


def _html_table(
  head: Sequence[str], rows: Sequence[Sequence[str]], *, ready: bool = False
) -> str:
  """Returns a table; `ready` says that its cells are HTML already."""
  show = str if ready else _text
  lines = ["".join(f"<th>{_text(cell)}</th>" for cell in head)]
  lines += ["".join(f"<td>{show(cell)}</td>" for cell in row) for row in rows]
  body = "".join(f"<tr>{line}</tr>" for line in lines)
  return f"<div class=scroll><table>{body}</table></div>"


def _picture(uri: str, name: str) -> str:
  return f"<img src='{uri}' alt='{_text(name)}'>" if uri else ""


def _number(value: float | None) -> str:
  return "-" if value is None else f"{value:.2f}"


def _text(value: Any) -> str:
  return html.escape(str(value))
