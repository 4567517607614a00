"""Turns published downloads of benchmarks into the layout the readers take.

    python -m sseg_jax.prepare_benchmark voc --source=VOCaug --out=VOCdevkit

The work is in `benchmarks/downloads.py`.
"""

import argparse
import sys
from collections.abc import Sequence

from sseg_jax import command_line, files
from sseg_jax.errors import InputError, reported

_SOURCES = {
  "voc": "SBD's folder with cls/*.mat, train.txt and val.txt; writes trainaug"
  " into --out, a VOCdevkit that has VOC2012",
  "context": "trainval_merged.json or its folder; writes VOC2010's"
  " SegmentationClassContext and lists into --out, a VOCdevkit",
  "coco": "the folder with stuffthingmaps/ or annotations/instances_*.json;"
  " where it has both, their difference is measured",
  "coco_stuff": "the folder with stuffthingmaps/",
  "cityscapes": "the folder with gtFine/ and its labelIds",
}


def _parser() -> argparse.ArgumentParser:
  parser = command_line.Parser(
    "prepare_benchmark",
    "Writes the label maps and lists that `evaluate` reads, from the files that"
    " a data set's authors publish. Nothing is downloaded, and no picture is"
    " copied. An interrupted call is continued by the same call.",
    (
      "voc --source=VOCaug \\\n    --out=DATA/VOCdevkit",
      "coco --source=downloads/coco \\\n    --out=DATA/coco",
    ),
  )
  sources = "; ".join(f"{name}: {text}" for name, text in _SOURCES.items())
  add = parser.add_argument
  add("name", choices=_SOURCES, help="the benchmark")
  add("--source", type=files.path, required=True, help=sources)
  add(
    "--out",
    type=files.path,
    required=True,
    help="folder of the benchmark, below evaluate's --data_root; its pictures"
    " belong there as well",
  )
  add(
    "--compared",
    type=int,
    default=500,
    metavar="N",
    help="pictures of coco that the two sources are compared on; 0 for all;"
    " default: %(default)s",
  )
  return parser


@reported
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command."""
  flags = _parser().parse_args(argv)
  from sseg_jax.benchmarks import downloads  # loads JAX

  if flags.compared < 0:
    raise InputError(f"--compared={flags.compared}: give 0 for all, or more")
  if not flags.source.exists():
    raise InputError(f"--source={flags.source}: is not there")
  for line in downloads.prepare(
    flags.name, flags.source, flags.out, compared=flags.compared
  ):
    print(line)
  return 0


if __name__ == "__main__":
  sys.exit(main())
