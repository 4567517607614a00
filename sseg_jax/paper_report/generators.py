"""Table 1 in a report: generators of pseudo-masks beside the paper's."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from sseg_jax import html_page
from sseg_jax.benchmarks import table1
from sseg_jax.benchmarks.sample import Benchmark
from sseg_jax.benchmarks.table1_rows import PAPER
from sseg_jax.html_page import Html, element
from sseg_jax.pseudo_masks.tokens import USUAL_WEIGHTS
from sseg_jax.runtime import provenance

TITLE = "Table 1: pseudo-masks with oracle labels"
# What the paper calls its rows.
NAMES = {
  "spectral": "spectral clustering of pixels",
  "pixels": "K-means of pixels",
  "imagenet_vit": "K-means of an ImageNet ViT",
  "groupvit": "GroupViT's groups",
  "dino": "K-means of DINO (the paper's)",
}
_BENCHMARKS = ("voc", "context")  # of the paper's table
# Settings that change scores; results that differ in one have tables of their
# own.
_SETTINGS = ("image_size", "square", "seeds", "max_images", "dtype")
_NOT_RUN = element("span", "not run", kind="none")


def entries(
  row: str,
  found: Mapping[str, Any],
  opened: Sequence[Benchmark],
  settings: table1.Settings,
) -> list[dict[str, Any]]:
  """Returns what a report keeps of a row, a dictionary for each benchmark.

  Args:
    row: a key of `table1_rows.ROWS`.
    found: what `table1.run` has of it.
    opened: the benchmarks that were scored.
    settings: how they were scored.
  """
  fields = found["fields"]
  weights = fields["weights"] or USUAL_WEIGHTS.get(fields["generator"], "")
  chosen = {name: getattr(settings, name) for name in _SETTINGS}
  return [
    {
      "row": row,
      "fields": {**fields, "weights": weights},
      "settings": {**chosen, "k": fields["k"]},
      "result": {**found["benchmarks"][one.name], "split": one.split},
      "seconds_per_image": found["seconds_per_image"],
      "timed": {
        "image_size": settings.time_size,
        "batch_size": settings.time_batch,
        "device": jax.devices()[0].device_kind,
      },
      "versions": provenance.versions(),
      "commit": provenance.git_commit(),
    }
    for one in opened
  ]


def key(entry: Mapping[str, Any]) -> tuple:
  """What a report has only one result of."""
  result = entry["result"]
  return (*_line(entry), *(result[name] for name in ("benchmark", "split")))


def section(found: Sequence[Mapping[str, Any]]) -> Html:
  """Returns the part of the page that has Table 1, once for all settings.

  Args:
    found: dictionaries of `entries`.
  """
  groups: dict[str, list[Mapping[str, Any]]] = {}
  for entry in found:
    groups.setdefault(_text(entry["settings"]), []).append(entry)
  note = (
    "Each mask has the label of most of its pixels; the paper does not say how"
    " its own figures were made. ",
    element("code", "evaluate --oracle --report=DIR"),
    " adds scores of this machine.",
  )
  parts = [element("p", *note, kind="note")]
  for own in groups.values():
    lines = (_how(own[0]["settings"]), _from(own))
    parts += [html_page.paragraphs(lines, kind="note"), _table(own)]
  if not groups:
    parts.append(_table(()))
  return Html("\n".join(parts))


def _how(settings: Mapping[str, Any]) -> str:
  size, most = settings["image_size"], settings["max_images"]
  sides = (
    f"{size}x{size} pixels" if settings["square"] else f"short side {size}"
  )
  seeds = settings["seeds"]
  return (
    f"Run here: {sides}; at most {settings['k']} masks a picture;"
    f" {seeds} seed{'s' * (seeds > 1)} of K-means; {settings['dtype']};"
    f" {f'{most} pictures of each benchmark' if most else 'all pictures'}"
  )


def _from(found: Iterable[Mapping[str, Any]]) -> str:
  commits = dict.fromkeys(e["commit"] or "not a checkout" for e in found)
  return f"commit: {', '.join(commits)}"


def _table(found: Sequence[Mapping[str, Any]]) -> Html:
  others = dict.fromkeys(
    name
    for entry in found
    if (name := entry["result"]["benchmark"]) not in _BENCHMARKS
  )
  benchmarks = (*_BENCHMARKS, *others)
  rows = []
  for row in dict.fromkeys((*PAPER, *(e["row"] for e in found))):
    # A row has a line for each of its weights.
    lines: dict[tuple, list[Mapping[str, Any]]] = {}
    for entry in found:
      if entry["row"] == row:
        lines.setdefault(_line(entry), []).append(entry)
    for own in lines.values() or [[]]:
      rows.append(_cells(row, own, benchmarks))
  head = [TITLE, "weights"]
  for name in benchmarks:
    head += [f"{name}, paper"] * (name in _BENCHMARKS)
    head.append(f"{name}, here (pictures)")
  return html_page.table([*head, "seconds a picture, paper", "here"], rows)


def _cells(
  row: str, found: Sequence[Mapping[str, Any]], benchmarks: Sequence[str]
) -> list[object]:
  cells: list[object] = [NAMES.get(row, row), _weights(found)]
  for name in benchmarks:
    if name in _BENCHMARKS:
      cells.append(_printed(row, name, ".1f"))
    scores = [
      _score(entry["result"])
      for entry in found
      if entry["result"]["benchmark"] == name
    ]
    cells.append(_several(scores))
  times = [
    f"{entry['seconds_per_image']:.4f} ({timed['device']},"
    f" {timed['batch_size']} of {timed['image_size']} pixels)"
    for entry in found
    if entry["seconds_per_image"] is not None and (timed := entry["timed"])
  ]
  # Each of a row's benchmarks has the time of its call; the last is the newest.
  return [*cells, _printed(row, "seconds", ".3f"), _several(times[-1:])]


def _score(result: Mapping[str, Any]) -> Html:
  value, seeds = result["mIoU"], result["mIoU_seeds"]
  if value is None:  # no pixel has a label
    return Html("-")
  text = f"{value:.2f}"
  if len(seeds) > 1:
    text += f" [{min(seeds):.2f}-{max(seeds):.2f}]"
  pictures = f"{result['images']}"
  if result["split"]:
    pictures += f", {result['split']}"
  return html_page.joined((element("b", text), f" ({pictures})"))


def _printed(row: str, name: str, form: str) -> str:
  value = PAPER.get(row, {}).get(name)
  return "-" if value is None else format(value, form)


def _several(cells: Sequence[object]) -> Html:
  return Html("<br>".join(map(html_page.shown, cells))) or _NOT_RUN


def _weights(found: Sequence[Mapping[str, Any]]) -> str:
  if not found:
    return ""
  fields = found[0]["fields"]
  rule = fields.get("position_rule")
  return fields["weights"] + (f", position_rule={rule}" if rule else "")


def _line(entry: Mapping[str, Any]) -> tuple:
  """What makes a line of a table: generator, fields and settings."""
  return entry["row"], _text(entry["fields"]), _text(entry["settings"])


def _text(values: Mapping[str, Any]) -> str:
  return json.dumps(values, sort_keys=True)
