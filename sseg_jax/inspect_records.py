"""Shows what a folder of records holds: a page of pictures and statistics.

    python -m sseg_jax.inspect_records records/train

The work is in `data/inspection.py`.
"""

import argparse
import sys
from collections.abc import Sequence

from sseg_jax import command_line, files
from sseg_jax.data import inspection
from sseg_jax.errors import InputError, reported


def _parser() -> argparse.ArgumentParser:
  parser = command_line.Parser(
    "inspect_records",
    "Writes a page with pictures, captions and stored masks of a folder of"
    " records, and statistics. The page needs no other file.",
    (
      "records/train",
      "gs://BUCKET/records/cc12m \\\n    --out=cc12m.html --pictures=200",
    ),
  )
  add = parser.add_argument
  add("records", type=files.expand, help="folder that `prepare` wrote")
  add(
    "--out",
    type=files.path,
    default=files.path("records.html"),
    help="the page; default: %(default)s",
  )
  add(
    "--pictures",
    type=int,
    default=48,
    help="number of records that are shown; default: %(default)s",
  )
  add(
    "--scan",
    type=int,
    default=2000,
    help="most records that the statistics are made of; default: %(default)s",
  )
  return parser


@reported
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command."""
  flags = _parser().parse_args(argv)
  for name in ("pictures", "scan"):
    if (value := getattr(flags, name)) < 1:
      raise InputError(f"--{name}={value}: must be at least 1")
  page, found = inspection.inspect(
    flags.records, pictures=flags.pictures, scan=flags.scan
  )
  try:
    flags.out.write_text(page, encoding="utf-8")
  except OSError as error:
    raise files.unwritable("--out", flags.out, error) from error
  print(found)
  print(f"page: {flags.out}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
