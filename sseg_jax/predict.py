"""Segments pictures with words.

`python -m sseg_jax.predict --checkpoint=DIR --image=cat.jpg --words="cat, sky"`
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from sseg_jax import background, default_config, prompts
from sseg_jax.errors import InputError, reported


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m sseg_jax.predict",
    description="Gives each pixel of a picture one of your words.",
  )
  add = parser.add_argument
  add("--checkpoint", required=True, help="work directory or a step's folder")
  add("--image", required=True, nargs="+", type=Path, help="one or more files")
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
    type=Path,
    default=Path(),
    help="folder for the results, or a .png for one picture; default: here",
  )
  add(
    "--templates", choices=prompts.TEMPLATES, help="default: the checkpoint's"
  )
  add("--combiner", choices=default_config.COMBINERS)
  add("--image_size", type=int, help="short side at which the picture is seen")
  add("--json", action="store_true", help="print the result as JSON")
  return parser


@reported
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command."""
  flags = _parser().parse_args(argv)
  words = prompts.parse_words(flags.words)
  outputs = _outputs(flags.image, flags.out)
  background.check_flag(flags.background_threshold)
  # Pictures are read before JAX is loaded, so that a bad one is told at once.
  from sseg_jax import pictures

  images = [pictures.read_image(path) for path in flags.image]
  from sseg_jax import api, visualize

  model = api.load(
    flags.checkpoint,
    templates=flags.templates,
    combiner=flags.combiner,
    image_size=flags.image_size,
  )
  results = []
  has_background = not flags.no_background
  for path, image, (overlay_path, labels_path) in zip(
    flags.image, images, outputs, strict=True
  ):
    found = model.segment(
      image,
      words,
      flags.background_threshold,
      background=has_background,
    )
    colours = visualize.palette(len(found.names), has_background=has_background)
    picture = visualize.annotated(
      image,
      found.labels,
      found.names,
      colours,
      has_background=has_background,
    )
    visualize.save(overlay_path, picture)
    visualize.save_labels(labels_path, found.labels, colours)
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
  if flags.json:
    print(json.dumps(results))
  return 0


def _outputs(images: Sequence[Path], out: Path) -> list[tuple[Path, Path]]:
  """Overlay and label paths for each picture; never twice the same."""
  if out.suffix.lower() == ".png":
    if len(images) > 1:
      raise InputError(
        f"out={out} is one file for {len(images)} pictures; give a folder"
      )
    if out.resolve() == images[0].resolve():
      raise InputError(f"out={out} is the picture itself; give another name")
    _make_folder(out.parent)
    return [(out, out.with_name(f"{out.stem}_labels.png"))]
  _make_folder(out)
  paths, taken = [], set()
  for image in images:
    stem, number = image.stem, 1
    while stem in taken:
      number += 1
      stem = f"{image.stem}_{number}"
    taken.add(stem)
    paths.append((out / f"{stem}_overlay.png", out / f"{stem}_labels.png"))
  return paths


def _make_folder(path: Path) -> None:
  try:
    path.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise InputError(
      f"out={path}: cannot make this folder ({error.strerror}); give another"
    ) from error


def _print(path: Path, found, overlay_path: Path, labels_path: Path) -> None:
  rule = (
    "no background"
    if found.threshold is None
    else f"background threshold {found.threshold:.3g},"
    f" from {found.threshold_source}"
  )
  print(f"{path} ({rule})")
  for index, name in enumerate(found.names):
    print(f"  {index:3d}  {100 * found.areas[name]:6.2f} %  {name}")
  print(f"  overlay {overlay_path}, labels {labels_path}")


if __name__ == "__main__":
  sys.exit(main())
