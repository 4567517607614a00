"""How a step scales with the number of chips."""

import copy
import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sseg_jax import files
from sseg_jax.errors import InputError
from sseg_jax.plan import page
from sseg_jax.plan.chips import Chip, Topology, squarest
from sseg_jax.runtime.progress_bar import progress_bar

LARGEST = 2**14


def parse(text: str) -> list[int]:
  """Returns the powers of two in a range such as "8..1024".

  Raises:
    InputError: if `text` is no range, or holds no power of two.
  """
  match = re.fullmatch(r"(\d+)\.\.(\d+)", text)
  if not match:
    raise InputError(f"sweep={text!r}: give two numbers of chips, e.g. 8..256")
  low, high = int(match[1]), int(match[2])
  counts = [2**i for i in range(LARGEST.bit_length()) if low <= 2**i <= high]
  if not counts:
    raise InputError(
      f"sweep={text!r}: there is no power of two up to {LARGEST} in it"
    )
  return counts


def run(
  chip: Chip,
  counts: Sequence[int],
  batch_size: int,
  per_chip: int | None,
  plan: Callable[[Topology, int], Mapping[str, Any]],
) -> list[dict[str, Any]]:
  """Plans for each number of chips; a row says why if that is impossible.

  Args:
    chip: the kind of chip.
    counts: numbers of chips.
    batch_size: of the first curve, for every number of chips.
    per_chip: the second curve has a batch of so many pictures on each chip;
      None leaves that curve out.
    plan: function from topology and batch size to what `report.make` returns;
      it may raise InputError.

  Returns:
    One row for each curve and number, in order.
  """
  curves: list[tuple[str, Callable[[int], int]]] = [
    (f"batch {batch_size}", lambda _: batch_size)
  ]
  if per_chip:
    curves.append((f"{per_chip} a chip", lambda n: per_chip * n))
  rows = []
  with progress_bar(len(curves) * len(counts), "plans") as bar:
    for curve, batch in curves:
      for n in counts:
        bar.set_description(f"{n} chips, {curve}")
        size = batch(n)
        row = {"curve": curve, "chips": n, "batch_size": size}
        rows.append(row | _planned(chip, n, size, plan))
        bar.update()
  return with_efficiency(rows)


def _planned(
  chip: Chip,
  n: int,
  batch_size: int,
  plan: Callable[[Topology, int], Mapping[str, Any]],
) -> dict[str, Any]:
  """Returns a row's topology and plan, or its `problem`."""
  row: dict[str, Any] = {}
  try:
    topology = squarest(chip, n)
    row["topology"] = str(topology)
    made = plan(topology, batch_size)
  except InputError as error:
    return row | {"problem": str(error)}
  return {
    **row,
    "memory": made["memory"]["total"],
    "fits": made["fits"],
    **{key: made["projected"][key] for key in _FIELDS},
  }


def with_batch_size(config: Any, batch_size: int) -> Any:
  """Returns a copy of a config with another batch size and as many epochs.

  Configs that call `follow_batch` change their steps themselves; for the others
  the number of steps and of warm-up steps is changed here.
  """
  pairs = config.total_steps * config.batch_size
  changed = copy.deepcopy(config)
  changed.batch_size = batch_size
  if changed.total_steps == config.total_steps:
    changed.total_steps = max(1, round(pairs / batch_size))
    warmup = config.optim.warmup_steps * config.batch_size // batch_size
    changed.optim.warmup_steps = min(warmup, changed.total_steps - 1)
  return changed


_FIELDS = ("step_s", "bound", "images_per_second", "mfu", "chip_hours")


def with_efficiency(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Adds `efficiency`: images/s of a chip, over those in the first row.

  The first row of the curve that could be planned has efficiency 1.
  """
  first: dict[str, float] = {}
  for row in rows:
    if "images_per_second" in row:
      each = row["images_per_second"] / row["chips"]
      row["efficiency"] = each / first.setdefault(row["curve"], each)
  return rows


def render(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns the curves as a table."""
  head = (
    *("curve", "slice", "batch", "GB", "ms", "bound", "images/s"),
    *("MFU", "efficiency", "chip-hours"),
  )
  cells, problems = [], []
  for row in rows:
    place = row.get("topology", str(row["chips"]))
    if "problem" in row:
      problems.append(f"{row['curve']}, {place}: {row['problem']}")
      continue
    cells.append(
      (
        row["curve"],
        place,
        str(row["batch_size"]),
        f"{row['memory'] / 1e9:.1f}" + ("" if row["fits"] else " (too much)"),
        f"{row['step_s'] * 1e3:.2f}",
        row["bound"],
        f"{row['images_per_second']:,.0f}",
        f"{row['mfu']:.1%}",
        f"{row['efficiency']:.0%}",
        f"{row['chip_hours']:,.0f}",
      )
    )
  return "\n".join([page.PROJECTED, *page.table(head, cells), *problems])


def write(rows: Sequence[Mapping[str, Any]], out: str | pathlib.Path) -> None:
  """Writes OUT/scaling.json and the plot OUT/scaling.png.

  Raises:
    InputError: without matplotlib.
  """
  try:
    import matplotlib
  except ModuleNotFoundError as error:
    raise InputError(
      f"out={out}: the plot needs matplotlib; pip install matplotlib, or leave"
      " out --out"
    ) from error
  matplotlib.use("Agg")
  from matplotlib import pyplot

  folder = files.path(out)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "scaling.json").write_text(json.dumps(list(rows), indent=2) + "\n")
  figure, axes = pyplot.subplots(figsize=(6, 4))
  for curve in dict.fromkeys(row["curve"] for row in rows):
    points = [
      (row["chips"], row["images_per_second"])
      for row in rows
      if row["curve"] == curve and "images_per_second" in row
    ]
    if not points:
      continue
    chips, speeds = zip(*points, strict=True)
    axes.plot(chips, speeds, "o-", label=curve)
    ideal = [speeds[0] * n / chips[0] for n in chips]
    axes.plot(chips, ideal, ":", color="gray", zorder=0)
  axes.set_xscale("log", base=2)
  axes.set_yscale("log", base=2)
  axes.set_xlabel("chips")
  axes.set_ylabel("images/s, projected (dotted: in proportion)")
  if axes.lines:
    axes.legend()
  figure.tight_layout()
  figure.savefig(folder / "scaling.png", dpi=150)
  pyplot.close(figure)
