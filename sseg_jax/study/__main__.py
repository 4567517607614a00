"""Tables of photos: forms of the loss, a linear probe, numbers of photos.

With --figure it draws a figure of the paper instead: 3, 8 and 9
(`side_by_side.py`), 11 and 12 (`figures.py`).

The region features are in the records, and what the eye sees in scored photos
is kept in `OUT/seen`, so that no transformer runs twice.
"""

import argparse
import functools
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sseg_jax import command_line, config_files, files
from sseg_jax.errors import InputError, reported

_PHOTOS = (150, 300, 600, 1200, 2384)
# Form of the contrastive loss, and whether `loss.region_words` is kept.
_FORMS = (
  ("global", False),
  ("caption_attends", False),
  ("words", False),
  ("words", True),
)
TABLES = ("curve", "probe", "forms")


def _parser() -> argparse.ArgumentParser:
  parser = command_line.Parser(
    "study",
    "Makes tables of photos with stored region features: curve (mIoU over the"
    " number of photos), probe (a linear probe of the same features), forms (of"
    " the contrastive loss, with features of one layer and of two). Rows that"
    " are finished are kept: the same command, started again, continues. With"
    " --figure, draws a figure of the paper as PNGs.",
    (
      "--figure=12 --runs=4096=runs/a,8192=runs/b \\\n    --out=figures",
      "--figure=3 --runs=S-Seg=runs/a,S-Seg+=runs/b \\\n"
      "    --benchmarks=voc,coco --data_root=DATA --out=figures",
      "--figure=9 --systems=clip=CLIP,sseg=runs/a \\\n"
      "    --image=cat.jpg --words='cat, sofa' --out=figures",
      "--records=regions/train --data_root=DATA \\\n    --out=runs/tables",
      "--records=regions/train --data_root=DATA \\\n    --out=runs/tables"
      " --tables=probe --seeds=0",
    ),
  )
  add = parser.add_argument
  add(
    "--config",
    default="photos",
    help="name or file of the config, default: %(default)s",
  )
  add("--records", help="folder of records with features")
  add("--data_root", help="holds VOCdevkit/ and coco/")
  add("--out", required=True, type=files.path, help="folder of the tables")
  add(
    "--figure",
    type=int,
    choices=(3, 8, 9, 11, 12),
    help="3: what runs find where all classes of each of --benchmarks are"
    " queries; 8: pseudo-masks with the label of most of their pixels; 9:"
    " --systems beside each other; 11: regions that the teacher missed and the"
    " student finds, of one run and the first of --benchmarks; 12: mIoU over"
    " training pairs",
  )
  add(
    "--runs",
    default="",
    help="of --figure: for 3 [TITLE=]WORKDIR,… (or other checkpoints), for 8"
    " and 11 a work directory, for 12 PAIRS=WORKDIR,…",
  )
  _add_flags_of_pictures(parser.add_argument_group("figures 3, 8 and 9"))
  add("--tables", default="curve,probe,forms", help="default: %(default)s")
  add("--seeds", default="0,1,2", help="default: %(default)s")
  add("--benchmarks", default="voc20", help="default: %(default)s")
  add("--splits", default="train,val", help="scored as one; %(default)s")
  add(
    "--features",
    default="tokens,tokens+values:9",
    help="of the table forms and of the probe; default: %(default)s",
  )
  add(
    "--set",
    action="append",
    default=[],
    metavar="FIELD=VALUE",
    help="changes a field of the config; may be repeated",
  )
  return parser


def _add_flags_of_pictures(group: argparse._ArgumentGroup) -> None:
  add = group.add_argument
  add(
    "--systems",
    default="",
    help="of --figure=9: SYSTEM=PLACE,… with the systems of `evaluate`: sseg,"
    " b2, linear_probe and maskformer with a checkpoint, predictions with a"
    " folder, others with weights",
  )
  add("--protocol", help="of 3 and 9: as `evaluate` has it")
  add(
    "--pictures",
    type=int,
    default=4,
    help="of each benchmark, spread over it; default: %(default)s",
  )
  add("--image", help="of 9: one picture instead of --benchmarks")
  add("--words", help="of 9: the classes of --image, as 'cat, sofa'")
  add(
    "--no_background",
    action="store_true",
    help="of 9: every pixel of --image gets one of the words",
  )


@reported
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command."""
  flags = _parser().parse_args(argv)
  if flags.figure in (3, 8, 9):
    from sseg_jax.study import side_by_side  # it loads JAX

    print(json.dumps(side_by_side.draw(flags.figure, flags)))
    return 0
  if flags.figure:
    from sseg_jax.study import figures  # it loads NumPy and Pillow

    print(json.dumps(figures.draw(flags.figure, flags.runs, flags)))
    return 0
  for flag in ("records", "data_root"):
    if not getattr(flags, flag):
      raise InputError(f"{flag} is empty; the tables need --{flag}=FOLDER")
  tables = [name.strip() for name in flags.tables.split(",")]
  for name in tables:
    if name not in TABLES:
      raise InputError(f"tables: {name!r} is none of {', '.join(TABLES)}")
  try:
    seeds = [int(seed) for seed in flags.seeds.split(",")]
  except ValueError as error:
    raise InputError(
      f"seeds={flags.seeds!r}: give whole numbers, e.g. 0,1,2"
    ) from error
  files.make_folder("out", flags.out)
  path = flags.out / "rows.jsonl"
  done = (
    [json.loads(x) for x in path.read_text().splitlines()]
    if path.is_file()
    else []
  )
  rows = _rows(flags, tables, seeds)
  for name, compute in rows:
    if any(row["row"] == name for row in done):
      continue
    row = {"row": name, **compute()}
    done.append(row)
    with path.open("a") as file:
      file.write(json.dumps(row) + "\n")
    print(json.dumps(row), file=sys.stderr, flush=True)
  text = table(done)
  files.write_text(flags.out / "table.md", text)
  print(text, end="")
  return 0


def _rows(
  flags: argparse.Namespace, tables: Sequence[str], seeds: Sequence[int]
) -> Iterator[tuple[list, Callable[[], dict[str, float]]]]:
  """Yields name and seed of each row, and what computes its scores."""
  # Imported here, because these load JAX.
  from sseg_jax import benchmarks
  from sseg_jax.study import photos, seen

  opened = [
    seen.Joined(
      [
        benchmarks.open_benchmark(name, flags.data_root, split=split)
        for split in flags.splits.split(",")
      ]
    )
    for name in benchmarks.parse_specs(flags.benchmarks)
  ]
  config = config_files.overridden(
    config_files.load(flags.config), config_files.parse_settings(flags.set)
  )
  study = photos.Study(config, flags.records, opened, flags.out)
  whole = config.model.teacher_features
  features = flags.features.split(",")
  counts = sorted({min(count, study.count) for count in _PHOTOS})
  cases: dict[str, list[tuple[str, Callable, dict[str, Any]]]] = {
    "curve": [
      (f"{count} photos", study.trained, {"features": whole, "count": count})
      for count in counts
    ],
    "probe": [
      (f"probe, {each}", study.probed, {"features": each})
      for each in dict.fromkeys([*features, whole])
    ],
    "forms": [
      (
        f"{form}{' and region_words' * asked}, {each}",
        study.trained,
        {
          "features": each,
          "loss__contrastive_form": form,
          "loss__region_words": asked * config.loss.region_words,
          # All with one head: "global" has no more.
          "model__proj_heads": 1,
          "model__embed_dim": config.model.embed_dim // config.model.proj_heads,
          "model__proj_hidden": (
            config.model.proj_hidden // config.model.proj_heads
          ),
          # The others embed a caption as a whole, at its last token: a layer
          # must bring the words there.
          "text__layers": config.text.layers if form == "words" else 1,
        },
      )
      for each in features
      for form, asked in _FORMS
      if config.loss.region_words or not asked
    ],
  }
  for kind in tables:
    for seed in seeds:
      for name, compute, arguments in cases[kind]:
        yield [name, seed], functools.partial(compute, seed, **arguments)


def table(rows: Sequence[dict[str, Any]]) -> str:
  """Returns the table: means over seeds, with the lowest and the highest."""
  names = list(dict.fromkeys(row["row"][0] for row in rows))
  scores = list(dict.fromkeys(k for row in rows for k in row if k != "row"))
  lines = [
    "| " + " | ".join(["row", "seeds", *scores]) + " |",
    "| --- |" + " ---: |" * (len(scores) + 1),
  ]
  for name in names:
    mine = [row for row in rows if row["row"][0] == name]
    cells = [name, str(len(mine))]
    for score in scores:
      values = [row[score] for row in mine if score in row]
      cells.append(_cell(values) if values else "-")
    lines.append("| " + " | ".join(cells) + " |")
  return "\n".join(lines) + "\n"


def _cell(values: Sequence[float]) -> str:
  mean = statistics.fmean(values)
  return f"{mean:.1f} ({min(values):.1f}-{max(values):.1f})"


if __name__ == "__main__":
  sys.exit(main())
