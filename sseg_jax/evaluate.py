"""Scores a checkpoint, or generators of pseudo-masks, on benchmarks.

This is the command; `--help` shows its flags. `checkpoint_scores.py` scores a
checkpoint, `benchmarks/table1.py` scores generators (`--oracle`).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from sseg_jax import command_line, files, prompts, synonyms
from sseg_jax.errors import InputError, reported
from sseg_jax.inference import protocols

_EXAMPLES = (
  "--checkpoint=runs/photos \\\n    --benchmarks=voc,coco --data_root=DATA"
  " --out=runs/photos/scores",
  "--oracle --generators=pixels,dino \\\n    --benchmarks=voc --data_root=DATA"
  " --out=table1",
)


def _parser() -> argparse.ArgumentParser:
  parser = command_line.Parser(
    "evaluate",
    "Scores a checkpoint on benchmarks. With --oracle it scores generators of"
    " pseudo-masks instead: the mIoU that is reached if each mask gets the"
    " label of most of its pixels (Table 1).",
    _EXAMPLES,
  )
  add = parser.add_argument
  add(
    "--benchmarks",
    help="comma-separated: voc, voc20, context, context59, coco, coco80 (below"
    " --data_root), KIND=PATH, or [NAME=]FOLDER with images/, labels/ and"
    " classes.txt; with --oracle voc by default",
  )
  add("--data_root", default=".", help="holds VOCdevkit/ and coco/")
  add("--split", default="val", help="of VOC, Context and COCO")
  add(
    "--image_size",
    type=int,
    help="short side and window, by default the checkpoint's; with --oracle"
    " both sides, by default 448",
  )
  add("--max_images", type=int, default=0, help="of each benchmark; 0: all")
  add("--out", type=files.path, help="folder for result.json and pictures")
  add(
    "--pictures",
    type=int,
    help="pictures of each benchmark that are drawn to --out; by default 8,"
    " with --oracle 6",
  )
  add(
    "--protocol",
    metavar="NAME",
    help="fixes resize, windows, prompts, class names, thresholds and the"
    f" background rule: {', '.join(protocols.PROTOCOLS)}; by default what the"
    f" checkpoint's config says, reported as '{protocols.OWN}'",
  )
  add("--json", action="store_true", help="print the result as JSON")
  _add_flags_of_scores(parser.add_argument_group("scores of a checkpoint"))
  _add_flags_of_oracle(parser.add_argument_group("scores of generators"))
  return parser


def _add_flags_of_scores(group: argparse._ArgumentGroup) -> None:
  add = group.add_argument
  add(
    "--checkpoint",
    help="work directory, a step's or an exported folder, org/name",
  )
  add(
    "--classes",
    help="prompt with these names: a file with one a line, in label order, or"
    f" one of {', '.join(prompts.CLASS_NAMES)}",
  )
  add(
    "--background_threshold",
    type=float,
    metavar="T",
    help="pixels whose best score is below are background; default: the one"
    " stored with the checkpoint, else one chosen on the training split",
  )
  add(
    "--choose_threshold_split",
    metavar="SPLIT",
    help="choose the threshold anew, on this split, e.g. train; never on the"
    " pictures that are scored",
  )
  add(
    "--threshold_images",
    type=int,
    metavar="N",
    help="pictures that a threshold is chosen on; default: the checkpoint's",
  )
  command_line.add_templates_and_combiner(group)
  add(
    "--synonyms",
    choices=synonyms.SYNONYMS,
    help="words that stand for the classes besides their names; default: the"
    " checkpoint's",
  )
  add("--per_class", action="store_true", help="print IoU of each class")


def _add_flags_of_oracle(group: argparse._ArgumentGroup) -> None:
  from sseg_jax.benchmarks.table1_rows import GROUPS, ROWS

  add = group.add_argument
  add("--oracle", action="store_true", help="scores generators")
  add(
    "--generators",
    metavar="NAMES",
    help=f"comma-separated: {', '.join(ROWS)}; or a group of these:"
    f" {', '.join(GROUPS)}; by default table",
  )
  add(
    "--weights",
    help="file or published name; dino=A,mae=B for several networks",
  )
  add("--position_rule", help="of the networks: dino, size, …")
  add("--k", type=int, help="masks a picture, by default 8")
  add(
    "--keep_ratio",
    action="store_true",
    help="--image_size is the short side, and pictures keep their ratio",
  )
  add(
    "--seeds",
    type=int,
    help="how many seeds of K-means, whose mean is reported; by default 1",
  )
  add("--batch_size", type=int, help="pictures segmented at once, by default 8")
  add("--time_size", type=int, help="side of timed pictures, by default 224")
  add(
    "--time_batch",
    type=int,
    help="pictures timed at once, by default 128; 0 measures no time",
  )
  add("--dtype", help="of the networks: float32 (default) or bfloat16")


# Flags that only one of the two kinds of scores has.
_OF_A_CHECKPOINT = (
  *("checkpoint", "classes", "background_threshold", "choose_threshold_split"),
  *("threshold_images", "templates", "combiner", "per_class", "synonyms"),
)
_OF_ORACLE = (
  *("generators", "weights", "position_rule", "k", "keep_ratio", "seeds"),
  *("batch_size", "time_size", "time_batch", "dtype"),
)


def _check(flags: argparse.Namespace) -> None:
  """Raises InputError for flags of the other kind, and for missing ones."""
  others = _OF_A_CHECKPOINT if flags.oracle else _OF_ORACLE
  wrong = [f"--{n}" for n in others if getattr(flags, n) not in (None, False)]
  if wrong:
    raise InputError(
      f"{', '.join(wrong)}: "
      + (
        "belongs to scores of a checkpoint, not to --oracle"
        if flags.oracle
        else "belongs to --oracle; add that, or leave this out"
      )
    )
  if flags.oracle:
    if flags.protocol:
      raise InputError("--protocol: belongs to scores, not to --oracle")
    return
  for name in ("checkpoint", "benchmarks"):
    if getattr(flags, name) is None:
      raise InputError(f"--{name} is missing; see --help for what to give")


def _given(flags: argparse.Namespace, *names: str) -> dict[str, Any]:
  """Returns the flags that were given; the others keep their defaults."""
  return {
    name: value for name in names if (value := getattr(flags, name)) is not None
  }


@reported
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command."""
  flags = _parser().parse_args(argv)
  _check(flags)
  return _oracle(flags) if flags.oracle else _checkpoint(flags)


def _checkpoint(flags: argparse.Namespace) -> int:
  # Imported here, because these load JAX.
  from sseg_jax import benchmarks, checkpoint_scores
  from sseg_jax.benchmarks import report

  settings = checkpoint_scores.Settings(
    class_names=benchmarks.class_list(flags.classes) if flags.classes else None,
    **_given(
      flags,
      *("data_root", "split", "background_threshold", "max_images", "out"),
      *("choose_threshold_split", "threshold_images", "templates"),
      *("combiner", "image_size", "pictures", "synonyms", "protocol"),
    ),
  )
  results = checkpoint_scores.run(
    flags.checkpoint, benchmarks.parse_specs(flags.benchmarks), settings
  )
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
  rows = table1_rows.choose(
    "table" if flags.generators is None else flags.generators
  )
  specs = "voc" if flags.benchmarks is None else flags.benchmarks
  opened = [
    benchmarks.open_benchmark(spec, flags.data_root, split=flags.split)
    for spec in benchmarks.parse_specs(specs)
  ]
  if flags.out:
    files.make_folder("out", flags.out)
  results = table1.run(
    rows,
    opened,
    settings,
    fields={
      "k": 8 if flags.k is None else flags.k,
      "position_rule": flags.position_rule or "",
    },
    weights=table1.parse_weights(flags.weights or "", rows),
    out=flags.out,
  )
  print(json.dumps(results) if flags.json else table1.table(results))
  return 0


if __name__ == "__main__":
  sys.exit(main())
