"""Writes a checkpoint as files that segment pictures without this package.

This is the command; `exporting/formats.py` is the registry of what it writes.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence

from sseg_jax import command_line, files
from sseg_jax.errors import InputError, reported

_EXAMPLES = (
  "--checkpoint=runs/quickstart --out=exported",
  "--checkpoint=runs/photos --out=exported \\\n    --format=onnx,safetensors"
  ' --words="cat, sky"',
)


def _parser() -> argparse.ArgumentParser:
  parser = command_line.Parser(
    "export",
    "Writes a checkpoint as files that need nothing of this package, and"
    " compares each with it before it says done.",
    _EXAMPLES,
  )
  add = parser.add_argument
  add("--checkpoint", required=True, help="work directory or a step's folder")
  add(
    "--out",
    required=True,
    type=files.path,
    help="folder to make; each format gets a folder in it",
  )
  add(
    "--format",
    help="safetensors, stablehlo, onnx, savedmodel, with commas; default: all"
    " that this machine can write",
  )
  add(
    "--to",
    choices=("transformers",),
    help="instead of a format: the image tower for that package's MaskFormer",
  )
  add("--words", help="comma-separated; what run.py takes if it is given none")
  command_line.add_templates_and_combiner(parser)
  add("--image_size", type=int, help="side of the windows that files take")
  add(
    "--images",
    nargs="+",
    type=files.path,
    help="pictures to verify with; default: three that are drawn",
  )
  add(
    "--push",
    metavar="ORG/NAME",
    help="upload what was written to this repository of Hugging Face's hub",
  )
  add("--json", action="store_true", help="print the results as JSON")
  return parser


@reported
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; the exit code is 1 if a format could not be written."""
  flags = _parser().parse_args(argv)
  if flags.to and flags.format:
    raise InputError(
      f"format={flags.format} does not go with --to={flags.to}; give one"
    )
  # The code above starts fast; the imports below load JAX.
  from sseg_jax.exporting import formats, push, source, write
  from sseg_jax.inference import sources

  if flags.push:
    push.check(flags.push)
  names, lacking = [flags.to], list[str]()
  if not flags.to:
    names, lacking = formats.chosen(flags.format)
  made = source.make(
    sources.read(flags.checkpoint),
    words=flags.words,
    templates=flags.templates,
    combiner=flags.combiner,
    image_size=flags.image_size,
  )
  write.prepare(flags.out, names)
  tell = _quiet if flags.json else print
  write_all = write.transformers_alone if flags.to else write.write_all
  written, failed = write_all(made, names, flags.out, flags.images, tell)
  for kind, lines in (("error", failed), ("note", lacking)):
    for line in lines:
      print(f"{kind}: {line}", file=sys.stderr)
  address = None
  if flags.push and written:
    address = push.push(flags.out, [w.name for w in written], flags.push)
    tell(f"uploaded to {address}")
  if flags.json:
    results = [dataclasses.asdict(w) | {"path": str(w.path)} for w in written]
    report = {"written": results, "failed": failed, "not_here": lacking}
    print(json.dumps(report | {"address": address}))
  return 1 if failed else 0


def _quiet(line: str) -> None:
  """Takes a line and prints nothing: with --json, JSON alone is printed."""


if __name__ == "__main__":
  sys.exit(main())
