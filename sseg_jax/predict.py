"""Segments pictures with words.

`python -m sseg_jax.predict --checkpoint=DIR --image=cat.jpg --words="cat, sky"`
"""

import argparse
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sseg_jax import default_config, prompts
from sseg_jax.errors import InputError, reported
from sseg_jax.inference import background

_WINDOW_STEP = 32  # `windows.PAD`, which would load JAX
# Formats in which the overlay can be written: those with 24-bit colours.
_WRITTEN = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
_LONGEST_STEM = 200  # bytes; with its endings a name may have 255


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m sseg_jax.predict",
    description="Gives each pixel of a picture one of your words.",
  )
  add = parser.add_argument
  add(
    "--checkpoint",
    required=True,
    type=os.path.expanduser,
    help="work directory or a step's folder",
  )
  add(
    "--image",
    required=True,
    nargs="+",
    action="extend",
    type=_path,
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
    type=os.path.expanduser,
    default=".",
    help="folder for the results, or for one picture a file such as result.png;"
    " default: here",
  )
  add(
    "--templates", choices=prompts.TEMPLATES, help="default: the checkpoint's"
  )
  add("--combiner", choices=default_config.COMBINERS)
  add("--image_size", type=int, help="short side at which the picture is seen")
  add("--json", action="store_true", help="print the result as JSON")
  return parser


def _path(text: str) -> Path:
  return Path(os.path.expanduser(text))


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
  outputs = _outputs(flags.image, flags.out)
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
  for index, image in itertools.chain([first], images):
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
  print(f"note: {message}", file=sys.stderr)


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
  print(f"error: {error}", file=sys.stderr)
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


def _outputs(
  images: Sequence[Path], out: str | os.PathLike
) -> list[tuple[Path, Path]]:
  """Chooses overlay and label paths for each picture, and makes the folder.

  No path is one of the pictures, and none is given twice. A file that is there
  already is replaced only if it was named by the user or written by this
  package; otherwise a number is added to the new name, and that is told.
  """
  is_file = _is_file_name(out)
  given = Path(out)
  inputs = {_identity(image) for image in images} - {None}
  if is_file:
    if len(images) > 1:
      raise InputError(
        f"out={out} is one file for {len(images)} pictures; give a folder"
      )
    if given.suffix.lower() not in _WRITTEN:
      raise InputError(
        f"out={out}: results are not written as {given.suffix}; use one of"
        f" {', '.join(_WRITTEN)}"
      )
    if _identity(given) in inputs:
      raise InputError(f"out={out} is the picture itself; give another name")
  folder = given.parent if is_file else given
  taken = {_key(given)} if is_file else set()
  pairs = []
  for image in images:
    stem = _short(given.stem if is_file else image.stem)
    kinds = ("labels",) if is_file else ("overlay", "labels")
    paths = _free(folder, stem, kinds, inputs, taken)
    taken |= {_key(path) for path in paths}
    pairs.append((given, paths[0]) if is_file else (paths[0], paths[1]))
  _make_folder(folder)
  return pairs


def _is_file_name(out: str | os.PathLike) -> bool:
  """Whether --out is meant as a picture's name, not as a folder's."""
  from PIL import Image

  text = os.fspath(out)
  if os.path.isdir(text) or text.endswith(("/", os.sep)):
    return False
  suffix = os.path.splitext(text)[1].lower()
  others = (".heic", ".heif", ".svg")
  return suffix in others or suffix in Image.registered_extensions()


def _identity(path: Path) -> tuple[int, int] | None:
  """Identifies a file independently of its name."""
  try:
    status = path.stat()
  except (OSError, ValueError):
    return None
  return status.st_dev, status.st_ino


def _key(path: Path) -> str:
  # Some file systems do not tell capital letters from small ones.
  return os.path.abspath(path).casefold()


def _short(stem: str) -> str:
  while len(os.fsencode(stem)) > _LONGEST_STEM:
    stem = stem[:-1]
  return stem


def _free(
  folder: Path,
  stem: str,
  kinds: Sequence[str],
  inputs: set,
  taken: set[str],
) -> list[Path]:
  """Returns the first of `stem`, `stem_2`, … whose files may be written."""
  from sseg_jax.images import drawing

  told = False
  for number in itertools.count(1):
    name = stem if number == 1 else f"{stem}_{number}"
    paths = [folder / f"{name}_{kind}.png" for kind in kinds]
    if any(_key(path) in taken for path in paths):
      continue
    foreign = [
      path
      for path in paths
      if os.path.lexists(path)
      and (_identity(path) in inputs or not drawing.is_ours(path))
    ]
    if not foreign:
      if told:
        names = ", ".join(path.name for path in paths)
        _say(f"writing {names} instead")
      return paths
    if not told:
      _say(f"{foreign[0]} is no result of this program: it stays as it is")
      told = True
  raise AssertionError("unreachable")


def _make_folder(path: Path) -> None:
  try:
    path.mkdir(parents=True, exist_ok=True)
  except (OSError, ValueError) as error:
    reason = getattr(error, "strerror", None) or error
    raise InputError(
      f"out={path}: cannot make this folder ({reason}); give another"
    ) from error
  if not os.access(path, os.W_OK | os.X_OK):
    raise InputError(
      f"out={path}: nothing may be written there; give another folder"
    )


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
