"""Segments pictures with words: the command. `inference/api.py` is its core."""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sseg_jax import command_line, files, prompts
from sseg_jax.errors import InputError, reported
from sseg_jax.images import result_files
from sseg_jax.inference import background
from sseg_jax.runtime import progress_bar

_FEW = 3  # pictures that need no progress bar
_WINDOW_STEP = 32  # `sliding_window.PAD`, which would load JAX


def _parser() -> argparse.ArgumentParser:
  parser = command_line.Parser(
    "predict",
    "Gives each pixel of a picture one of your words. Writes the picture with"
    " its masks and a legend, and the label map as a PNG; prints the share of"
    " each word.",
    (
      '--checkpoint=runs/photos --image=cat.jpg \\\n    --words="cat, sky,'
      ' grass"',
      "--checkpoint=runs/photos --image photos/*.jpg \\\n"
      '    --words="cat, dog" --no_background --out=masks',
    ),
  )
  add = parser.add_argument
  add(
    "--checkpoint",
    required=True,
    type=files.expand,
    help="work directory or a step's folder",
  )
  add(
    "--image",
    required=True,
    nargs="+",
    action="extend",
    type=files.path,
    help="one or more files",
  )
  add("--words", required=True, help='comma-separated, e.g. "cat, sky"')
  rule = parser.add_mutually_exclusive_group()
  rule.add_argument(
    "--background_threshold",
    type=float,
    metavar="T",
    help="pixels whose best score is below are background; default: the one"
    " stored with the checkpoint, else one that fits the number of words",
  )
  rule.add_argument(
    "--no_background", action="store_true", help="every pixel gets a word"
  )
  add(
    "--out",
    type=files.expand,
    default=".",
    help="folder for the results, or for one picture a file such as result.png;"
    " default: here",
  )
  command_line.add_templates_and_combiner(parser)
  add("--image_size", type=int, help="short side at which the picture is seen")
  add("--json", action="store_true", help="print the result as JSON")
  return parser


@reported
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; the exit code is 1 if some of the pictures failed."""
  flags = _parser().parse_args(argv)
  has_background = not flags.no_background
  # Flags are checked before JAX is loaded, so that errors appear early.
  words = prompts.parse_words(flags.words, background=has_background)
  background.check_flag(flags.background_threshold)
  size = flags.image_size
  if size is not None and (size < _WINDOW_STEP or size % _WINDOW_STEP):
    raise InputError(
      f"image_size={size} is not a multiple of {_WINDOW_STEP}; use"
      f" {max(1, round(size / _WINDOW_STEP)) * _WINDOW_STEP}"
    )
  outputs = result_files.choose(flags.image, flags.out)
  if len(words) + has_background > 255:
    _say(
      f"{len(words)} words do not fit the 8 bits of a palette: labels are"
      " written as grey PNGs of 16 bits, without colours"
    )
  results: list[dict] = []
  images = _read(flags.image, results)
  first = next(images, None)
  if first is None:
    return _end(results, flags.json)
  if has_background and len(words) == 1:
    _say(
      "a single word is compared with no other and takes every pixel; add words"
      " for what else is in the picture"
    )

  from sseg_jax.images import drawing
  from sseg_jax.inference import api

  model = api.load(
    flags.checkpoint,
    templates=flags.templates,
    combiner=flags.combiner,
    image_size=size,
  )
  model.class_set(words, background=has_background)
  for index, image in progress_bar.tracked(
    itertools.chain([first], images),
    "pictures",
    total=len(flags.image),
    show=len(flags.image) > _FEW,
  ):
    path, (overlay_path, labels_path) = flags.image[index], outputs[index]
    try:
      found = model.segment(
        image, words, flags.background_threshold, background=has_background
      )
      colours = drawing.palette(len(found.names), has_background=has_background)
      picture = drawing.annotated(
        image,
        found.labels,
        found.names,
        colours,
        has_background=has_background,
      )
      drawing.save(overlay_path, picture)
      drawing.save_labels(labels_path, found.labels, colours)
    except InputError as error:
      _fail(results, path, error)
      continue
    results.append(
      {
        "image": str(path),
        "overlay": str(overlay_path),
        "labels": str(labels_path),
        "threshold": found.threshold,
        "threshold_source": found.threshold_source,
        "areas": found.areas,
      }
    )
    if not flags.json:
      _print(path, found, overlay_path, labels_path)
  return _end(results, flags.json)


def _say(message: str) -> None:
  progress_bar.print_above(f"note: {message}")


def _read(
  paths: Sequence[Path], results: list[dict]
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields index and pixels of each picture; reports and skips bad ones.

  One after the other: memory does not grow with the number of pictures.
  """
  from sseg_jax.images import reader

  for index, path in enumerate(paths):
    try:
      image = reader.read_image(path)
    except InputError as error:
      _fail(results, path, error)
      continue
    yield index, image
    del image


def _fail(results: list[dict], path: Path, error: InputError) -> None:
  progress_bar.print_above(f"error: {error}")
  results.append({"image": str(path), "error": str(error)})


def _end(results: Sequence[dict], as_json: bool) -> int:
  failed = sum("error" in result for result in results)
  if as_json:
    print(json.dumps(results))
  if failed and len(results) > 1:
    print(f"error: {failed} of {len(results)} pictures failed", file=sys.stderr)
  if not failed:
    return 0
  return 2 if failed == len(results) else 1


def _print(path: Path, found, overlay_path: Path, labels_path: Path) -> None:
  rule = (
    "no background"
    if found.threshold is None
    else f"background threshold {found.threshold:.3g},"
    f" from {found.threshold_source}"
  )
  lines = [f"{path} ({rule})"]
  for index, name in enumerate(found.names):
    lines.append(f"  {index:3d}  {100 * found.areas[name]:6.2f} %  {name}")
  lines.append(f"  overlay {overlay_path}, labels {labels_path}")
  progress_bar.print_above("\n".join(lines), sys.stdout)


if __name__ == "__main__":
  sys.exit(main())
