"""Turns captioned pictures, of a folder or the web, into records: the command.

    python -m sseg_jax.prepare --source=FOLDER --out=FOLDER --val_size=1000

Writes OUT/train and, with --val_size, OUT/val, and prints what was kept, what
was left out, and why; OUT/report.html shows it. The work is in
`data/preparation.py`. With --recipe it first says how the pictures of a
published list of URLs are fetched (`data/recipes.py`). With --benchmark it
writes a benchmark's pictures with their label maps
(`benchmarks/labelled_records.py`). With --add_pseudo_masks the command stores
pseudo-masks in finished records instead; that work is in
`pseudo_masks/caching.py`.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from sseg_jax.data import recipes
from sseg_jax.data.beam_jobs import RUNNERS
from sseg_jax.data.options import DUPLICATES, Options
from sseg_jax.data.preparation import Report, prepare
from sseg_jax.data.recipes import RECIPES
from sseg_jax.data.sources.streams import READERS
from sseg_jax.errors import InputError, reported

__all__ = ["Options", "Report", "main", "prepare"]

_EPILOG = """\
examples:
  A folder with captions.jsonl, captions.csv or one .txt beside each picture:
    python -m sseg_jax.prepare --source=~/photos --out=records --val_size=200

  COCO, whose pictures are found by the names in the annotations:
    python -m sseg_jax.prepare --source=coco --out=records --image_size=256 \\
      --captions=annotations/captions_train2017.json

  Webdataset's tars, img2dataset's output, Hugging Face's Parquet files, or a
  TFDS data set:
    python -m sseg_jax.prepare --source='cc3m/{0000..0575}.tar' --out=records
    python -m sseg_jax.prepare --source=tfds:coco_captions@val --out=records

  Pseudo-masks for records that are finished:
    python -m sseg_jax.prepare --add_pseudo_masks --records=records/train \\
      --out=cached/train --config=configs/photos.py

  Pictures and label maps of a benchmark, to train with task="supervised":
    python -m sseg_jax.prepare --benchmark=voc --data_root=DATA \\
      --split=train --out=records/voc_train

Captions and pictures that cannot be used are left out, counted and named.
"""

# Flags that only one job has, or that not all have.
_FOR_SOURCE = (
  "source", "kind", "captions", "val_size", "shard_size", "quality", "min_size",
  "max_aspect", "min_words", "max_words", "duplicates", "exclude_pictures",
  "limit", "seed", "workers", "overwrite", "runner", "runner_options",
)  # fmt: skip
_FOR_RECIPE = ("run", "img2dataset")
_FOR_BENCHMARK = ("benchmark", "data_root", "split")
# Flags of sources that a benchmark has as well.
_ALSO_FOR_BENCHMARK = ("shard_size", "quality", "overwrite")
_NOT_FOR_BENCHMARK = (
  *(name for name in _FOR_SOURCE if name not in _ALSO_FOR_BENCHMARK),
  "image_size", "recipe", *_FOR_RECIPE,
)  # fmt: skip
_FOR_PSEUDO_MASKS = (
  "records", "config", "set", "first_id", "batch_size", "process_index",
  "process_count", "features", "region_views",
)  # fmt: skip


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m sseg_jax.prepare",
    description="Turns captioned pictures into records.\nWith --benchmark, a"
    " benchmark with its label maps. With --add_pseudo_masks,"
    "\nstores pseudo-masks in finished records.",
    epilog=_EPILOG,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    # A flag that is not given is absent from the result.
    argument_default=argparse.SUPPRESS,
  )
  add = parser.add_argument
  add("--out", required=True, help="folder for the records")
  add(
    "--image_size",
    type=int,
    help="from a source: larger pictures are shrunk until their short side has"
    " this many pixels; default 0 keeps every size. For pseudo-masks: side at"
    " which pictures are clustered; default 0 takes the config's",
  )
  add("--json", action="store_true", help="print the report as JSON")

  add = parser.add_argument_group("from a source of captions").add_argument
  add(
    "--source",
    help="folder of pictures and captions; tars, Parquet files or the output of"
    " img2dataset: a folder, or names with * or {0000..0575}; tfds:NAME@SPLIT",
  )
  add(
    "--kind",
    help=f"of the source: {', '.join(READERS)}; default auto looks at it",
  )
  add(
    "--captions",
    help="of a folder of pictures: a file, in this folder or in the source:"
    " .jsonl, .json (also COCO's), .tsv or .csv; default auto looks for"
    " captions.* and metadata.*, then for the only .tsv, then for one .txt"
    " beside each picture. Of other sources: the field or column; default auto"
    " looks for caption, text, …",
  )
  add("--val_size", type=int, help="number of held-out pictures; default 0")
  add("--shard_size", type=int, help="records in a file; default 1000")
  add("--quality", type=int, help="of the JPEGs, 1 to 95; default 95")
  add("--min_size", type=int, help="least short side; default 0")
  add(
    "--max_aspect",
    type=float,
    help="largest ratio of the sides; default 0 takes all",
  )
  add("--min_words", type=int, help="least words of a caption; default 0")
  add("--max_words", type=int, help="most words; default 0 takes all")
  add(
    "--duplicates",
    help=f"{', '.join(DUPLICATES)}: exact leaves out pictures of the same bytes"
    " as an earlier one, near also those the same to the eye; default keep",
  )
  add(
    "--exclude_pictures",
    metavar="FOLDERS",
    help="folders of evaluation pictures, separated by commas; what is the same"
    " to the eye is left out",
  )
  add("--limit", type=int, help="most pictures; default 0 takes all")
  add("--seed", type=int, help="chooses the held-out pictures; default 0")
  add(
    "--workers",
    type=int,
    help="processes that convert pictures; 0 uses this one; default: one a"
    " core",
  )
  add(
    "--runner",
    help=f"of Apache Beam: {', '.join(RUNNERS)}; default: processes of this"
    " machine, which give the same records",
  )
  add("--runner_options", help="flags of that runner, in quotes")
  add("--overwrite", action="store_true", help="replace finished records")

  add = parser.add_argument_group("from a published list").add_argument
  add(
    "--recipe",
    help=f"{', '.join(RECIPES)}: prints the commands that fetch the pictures of"
    " the list --source to OUT/fetched and make records of them",
  )
  add("--run", action="store_true", help="run them")
  add("--img2dataset", help="the program; default img2dataset")

  add = parser.add_argument_group("from a benchmark").add_argument
  add(
    "--benchmark",
    metavar="NAME",
    help="write the pictures and label maps of a benchmark: voc, context, coco"
    " (below --data_root), KIND=PATH, or [NAME=]FOLDER with images/, labels/"
    " and classes.txt",
  )
  add("--data_root", help="holds VOCdevkit/ and coco/")
  add("--split", help="of the benchmark; default train")

  add = parser.add_argument_group("pseudo-masks").add_argument
  add(
    "--add_pseudo_masks",
    action="store_true",
    help="store pseudo-masks in finished records",
  )
  add(
    "--add_region_features",
    dest="features",
    action="store_true",
    help="store features of regions too, for a config whose model.backbone is"
    " teacher: training then runs no vision transformer",
  )
  add(
    "--region_views",
    type=int,
    metavar="N",
    help="store features of N views, of which a step takes one: 1 (default) the"
    " whole picture, 2 the same mirrored too, more also crops. The pass takes N"
    " times as long",
  )
  add("--records", help="finished folder of records")
  add("--config", help="config file of the training run")
  add(
    "--set",
    action="append",
    metavar="FIELD=VALUE",
    help="overrides a field of the config, e.g."
    " pseudo_masks.weights=vit.safetensors; may be repeated",
  )
  add(
    "--first_id",
    type=int,
    help="number of records in the folders before this one; default 0",
  )
  add("--batch_size", type=int, help="pictures at once; default 32")
  add("--process_index", type=int, help="number of this process; default 0")
  add("--process_count", type=int, help="processes that share the work")
  return parser


def _check(args: dict[str, Any], wanted: str, needed: tuple, foreign: tuple):
  """Refuses a job that lacks a flag or has a flag of the other job."""
  for name in needed:
    if name not in args:
      raise InputError(f"--{name} is missing; {wanted} needs it")
  for name in foreign:
    if name in args:
      raise InputError(
        f"--{name}={args[name]} has no meaning for {wanted}; leave it out"
      )


def _follow(
  recipe: str,
  quiet: bool,
  source: str,
  out: str,
  run: bool = False,
  img2dataset: str = "img2dataset",
  **rest: Any,
) -> dict[str, Any]:
  """Prints the commands of a recipe, or fetches its pictures.

  Returns:
    Arguments of `prepare` for the pictures; {} if nothing is to be run.
  """
  processes = rest.get("workers") or os.cpu_count() or 1
  steps = recipes.commands(recipe, source, out, processes, img2dataset, rest)
  if not quiet:
    print(recipes.described(recipe, steps), flush=True)
  if not run:
    return {}
  recipes.fetch(recipe, source, out, steps[1])
  limit = recipes.get(recipe).limit
  fetched = {"source": f"{out.rstrip('/')}/fetched/pictures", "out": out}
  return {"duplicates": "exact", "limit": limit} | rest | fetched


@reported
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command."""
  args = vars(_parser().parse_args(argv))
  as_json = args.pop("json", False)
  report: Any
  if args.pop("add_pseudo_masks", False):
    foreign: tuple[str, ...] = (
      *(*_FOR_SOURCE, "recipe"),
      *(*_FOR_RECIPE, *_FOR_BENCHMARK),
    )
    _check(args, "--add_pseudo_masks", ("records", "config"), foreign)
    # Imports JAX, which the other job does not need.
    from sseg_jax import config_check
    from sseg_jax.pseudo_masks import caching

    report = caching.run(**args, check=config_check.check, progress=not as_json)
  elif "benchmark" in args:
    foreign = (*_NOT_FOR_BENCHMARK, *_FOR_PSEUDO_MASKS)
    _check(args, "--benchmark", (), foreign)
    from sseg_jax.benchmarks import labelled_records

    report = labelled_records.write(
      args.pop("benchmark"), **args, progress=not as_json
    )
  else:
    wanted = "a source of captions (without --add_pseudo_masks)"
    foreign = (*_FOR_PSEUDO_MASKS, "data_root", "split")
    _check(args, wanted, ("source",), foreign)
    recipe = args.pop("recipe", "")
    if recipe:
      args = _follow(recipe, as_json, **args)
      if not args:
        return 0
    else:
      _check(args, wanted, (), _FOR_RECIPE)
    args.setdefault("workers", os.cpu_count() or 1)
    report = prepare(**args, progress=not as_json)
  text = json.dumps(dataclasses.asdict(report)) if as_json else str(report)
  # A name may hold letters that this terminal's encoding lacks.
  encoding = sys.stdout.encoding or "utf-8"
  print(text.encode(encoding, "backslashreplace").decode(encoding))
  return 0


if __name__ == "__main__":
  sys.exit(main())
