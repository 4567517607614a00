"""Prints the plan of a step as a page of text."""

from collections.abc import Mapping, Sequence
from typing import Any

PROJECTED = (
  "projected, not measured: compiled ahead of time, no such chip was used"
)


def render(report: Mapping[str, Any]) -> str:
  """Returns the plan as a page of text."""
  mesh = " x ".join(f"{k} {v}" for k, v in report["mesh"].items())
  lines = [
    f"{report['topology'] or report['device']}: {report['chips']} chips, mesh"
    f" {mesh}, batch {report['batch_size']}"
    f" ({report['per_chip']:g} a chip), {report['image_size']} px"
  ]
  if report["measured"] is None:
    lines.append(PROJECTED)
  lines += ["", *_memory(report), "", *_parts(report), "", *_network(report)]
  if report["projected"]:
    lines += ["", *_projection(report)]
    if report["slices"] > 1:
      lines.append(
        f"the network between the {report['slices']} slices is taken to be as"
        " fast as the one inside them, which it is not"
      )
  if report["measured"]:
    lines += ["", *_measured(report)]
  for key, unit in (("bytes", "GB"), ("flops", "GFLOP")):
    lines += ["", f"instructions with the most {key} ({unit} a chip a step)"]
    for work in report["top"][key]:
      times = f" x{work['times']}" if work["times"] > 1 else ""
      lines.append(
        f"  {work[key] / 1e9:9.3f}  {work['part']}: {work['name']}{times}"
        f"  {work['op_name']}".rstrip()
      )
  lines += ["", "largest arrays that are made (MB a chip)"]
  for array in report["largest_arrays"]:
    size = f"{array['bytes'] / 1e6:9.2f}"
    lines.append(f"  {size}  {array['part']}: {array['shape']}")
  return "\n".join(lines)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
  """Aligns columns, the first to the left and the others to the right."""
  widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
  return [
    "  ".join(
      cell.rjust(width) if i else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in (head, *rows)
  ]


def _memory(report: Mapping[str, Any]) -> list[str]:
  rows = [
    (f"  {kind}" if kind in _ARGUMENTS else kind, f"{value / 1e9:.3f}")
    for kind, value in report["memory"].items()
    if value or kind == "total"
  ]
  lines = table(("memory a chip", "GB"), rows)
  if "fits" in report:
    verdict = "fits" if report["fits"] else "DOES NOT FIT"
    size = report["chip"]["hbm_bytes"] / 1e9
    lines[-1] += f"  of {size:.1f}: {verdict}"
  return lines


_ARGUMENTS = (
  "parameters",
  "optimizer",
  "statistics",
  "frozen",
  "batch",
  "padding",
)


def _parts(report: Mapping[str, Any]) -> list[str]:
  counts, moved = report["flops"], report["hbm_bytes_by_part"]
  names = {part for count in counts.values() for part in count} | moved.keys()
  order = sorted(
    names, key=lambda n: (-counts["compiled"].get(n, 0), -moved.get(n, 0))
  )

  def cell(value: float | None) -> str:
    return "" if not value else f"{value / 1e9:.3f}"

  rows = [
    (
      name,
      *(cell(counts[kind].get(name)) for kind in _COUNTS),
      cell(moved.get(name)),
    )
    for name in order
  ]
  totals = [sum(counts[kind].values()) for kind in _COUNTS]
  rows.append(("total", *map(cell, (*totals, report["hbm_bytes"]))))
  head = ("a chip a step", "closed form", "traced", "compiled GFLOP", "HBM GB")
  lines = table(head, rows)
  for text in report["differences"]:
    lines.append(f"differs by over 5 %: {text}")
  if report["loops_of_unknown_length"]:
    lines.append(
      f"{report['loops_of_unknown_length']} loops whose length depends on data"
      " are counted once"
    )
  if report["kernels_not_counted"]:
    lines.append(
      f"{report['kernels_not_counted']} custom kernels: bytes are counted,"
      " operations are not"
    )
  return lines


_COUNTS = ("closed_form", "traced", "compiled")


def _network(report: Mapping[str, Any]) -> list[str]:
  rows = [
    (kind, str(c["count"]), f"{c['bytes'] / 1e6:.2f}", f"{c['sent'] / 1e6:.2f}")
    for kind, c in report["collectives"].items()
  ]
  if not rows:
    return ["no collectives"]
  return table(("collective", "count", "MB", "MB sent"), rows)


def _projection(report: Mapping[str, Any]) -> list[str]:
  p = report["projected"]
  rows = [
    (name, f"{seconds * 1e3:.3f}", "<- binds" if name == p["bound"] else "")
    for name, seconds in p["limits_s"].items()
  ]
  estimate = report["compiler_estimate_s"]
  own = "not usable" if estimate is None else f"{estimate * 1e3:.3f} ms"
  return [
    *table(("projected limit", "ms", ""), rows),
    f"roofline {p['step_s'] * 1e3:.3f} ms a step: {p['mfu']:.1%} MFU,"
    f" {p['images_per_second']:,.0f} images/s",
    f"instruction by instruction {p['in_turn_s'] * 1e3:.3f} ms:"
    f" {p['in_turn_mfu']:.1%} MFU (nothing overlaps, collectives apart)",
    f"the compiler's own estimate: {own}",
    f"{report['total_steps']} steps at the roofline: {p['hours']:,.1f} hours,"
    f" {p['chip_hours']:,.0f} chip-hours",
  ]


def _measured(report: Mapping[str, Any]) -> list[str]:
  m = report["measured"]
  times = ", ".join(f"{s * 1e3:.1f}" for s in m["steps_s"])
  speed = f"{report['model_flops'] / m['step_s'] / 1e9:,.1f} GFLOP/s a device"
  if m.get("mfu"):
    speed += f", {m['mfu']:.1%} MFU"
  return [
    f"measured here: {m['step_s'] * 1e3:.1f} ms a step (of {times}),"
    f" {m['images_per_second']:,.1f} images/s, {speed}",
    f"{report['total_steps']} steps at that speed: {m['hours']:,.2f} hours",
  ]
