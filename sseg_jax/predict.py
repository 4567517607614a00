"""Segments pictures with words.

`python -m sseg_jax.predict --checkpoint=DIR --image=cat.jpg --words="cat, sky"`
"""

import argparse
import csv
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from sseg_jax import command_line, files
from sseg_jax.errors import InputError, reported
from sseg_jax.images import input_files, result_files
from sseg_jax.inference import background, words
from sseg_jax.runtime import progress_bar

_WINDOW_STEP = 32  # `sliding_window.PAD`, which would load JAX
_LARGEST_SIZE = 4096  # `sliding_window.LARGEST_SIZE`, likewise
_FEW = 3  # pictures that need no progress bar
_TABLE = "image,threshold,"  # how the first line of areas.csv starts


def _parser() -> argparse.ArgumentParser:
  parser = command_line.Parser(
    "predict",
    "Gives each pixel of a picture one of your words. Writes the picture with"
    " its masks and a legend, and the label map as a PNG; prints the share of"
    " each word.",
    (
      '--checkpoint=runs/quickstart --image=cat.jpg \\\n    --words="cat, sky"',
      "--checkpoint=org/name --image photos 'more/*.jpg' \\\n"
      "    --words_file=words.txt --out=results --heatmaps",
    ),
  )
  command_line.add_checkpoint(parser)
  add = parser.add_argument
  add(
    "--image",
    required=True,
    nargs="+",
    action="extend",
    help="one or more files, folders, or patterns such as 'photos/**/*.jpg'",
  )
  named = parser.add_mutually_exclusive_group()
  named.add_argument(
    "--words",
    help='comma-separated, e.g. "cat, sky"; default: the list of a network that'
    " knows a fixed list of classes",
  )
  named.add_argument(
    "--words_file",
    help="text file with one word a line; further words of a line, after"
    " commas, are synonyms of the first",
  )
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
  add(
    "--heatmaps",
    action="store_true",
    help="write a picture of each word's scores as well",
  )
  command_line.add_templates_and_combiner(parser)
  add("--image_size", type=int, help="short side at which the picture is seen")
  add(
    "--json",
    action="store_true",
    help="print one JSON object a line for each picture",
  )
  add(
    "--no_compile_cache",
    action="store_true",
    help="do not keep compiled programs in ~/.cache/sseg_jax (or below"
    " XDG_CACHE_HOME) for the next call",
  )
  return parser


@reported
def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; the exit code is 1 if some of the pictures failed."""
  flags = _parser().parse_args(argv)
  has_background = not flags.no_background
  # Flags are checked before JAX is loaded, so that errors appear early.
  given: words.Words | None = flags.words
  if flags.words_file is not None:
    given = words.read(flags.words_file)
  model = None
  if given is None:
    model = _load(flags)
    given = _known(model)
  named = words.parse(given, background=has_background)
  background.check_flag(flags.background_threshold)
  _check_size(flags.image_size)

  paths = input_files.expand(flags.image)
  heatmaps = named.names if flags.heatmaps else ()
  outputs = result_files.choose(paths, flags.out, heatmaps)
  names = [*(["background"] if has_background else []), *named.names]
  report = _Report(flags.json, len(paths), flags.out, names)
  show = len(paths) > _FEW
  with (
    report,
    progress_bar.progress_bar(len(paths), "pictures", show=show) as bar,
  ):
    images = _read(paths, report, bar)
    first = next(images, None)
    if first is None:
      return report.end()
    _note_count(len(named.names), has_background)
    model = model or _load(flags)
    class_set = model.class_set(given, background=has_background)
    for word in model.truncated(class_set):
      _note(f"{word!r} is too long: the model does not read its end")
    for index, image in itertools.chain([first], images):
      path, output = paths[index], outputs[index]
      try:
        found = model.segment(
          image, given, flags.background_threshold, background=has_background
        )
        _write(found, output)
      except InputError as error:
        report.fail(path, error)
      else:
        report.add(path, output, found)
      bar.update()
  return report.end()


def _check_size(size: int | None) -> None:
  if size is not None and (size < _WINDOW_STEP or size % _WINDOW_STEP):
    raise InputError(
      f"image_size={size} is not a multiple of {_WINDOW_STEP}; use"
      f" {max(1, round(size / _WINDOW_STEP)) * _WINDOW_STEP}"
    )
  if size is not None and size > _LARGEST_SIZE:
    raise InputError(
      f"image_size={size} is more than {_LARGEST_SIZE}; give less"
    )


def _note_count(count: int, has_background: bool) -> None:
  if count + has_background > 255:
    _note(
      f"{count} words do not fit the 8 bits of a palette: labels are written as"
      " grey PNGs of 16 bits, without colours"
    )
  if has_background and count == 1:
    _note(
      "a single word is compared with no other and takes every pixel; add words"
      " for what else is in the picture"
    )


def _load(flags: argparse.Namespace) -> Any:
  """Loads the model, and JAX with it."""
  from sseg_jax.inference import api
  from sseg_jax.runtime import compile_cache

  if not flags.no_compile_cache:
    compile_cache.use()
  return api.load(
    flags.checkpoint,
    templates=flags.templates,
    combiner=flags.combiner,
    image_size=flags.image_size,
    revision=flags.revision,
  )


def _known(model: Any) -> tuple[str, ...]:
  """Returns the classes of a network that knows a fixed list of them."""
  if not model.segmenter.known:
    raise InputError(
      'words is missing: this network takes any words; give --words="cat, sky"'
      " or --words_file"
    )
  return model.segmenter.known


def _note(message: str) -> None:
  progress_bar.print_above(f"note: {message}")


def _read(
  paths: Sequence[Path], report: "_Report", bar: Any
) -> Iterator[tuple[int, np.ndarray]]:
  """Yields index and pixels of each picture; reports and skips bad ones.

  One after the other: memory does not grow with the number of pictures.
  """
  from sseg_jax.images import reader

  for index, path in enumerate(paths):
    try:
      image = reader.read_image(path)
    except InputError as error:
      report.fail(path, error)
      bar.update()
      continue
    yield index, image
    del image


def _write(found: Any, output: Any) -> None:
  """Writes the files of one picture."""
  from sseg_jax.images import writer

  found.save(output.overlay)
  found.save_labels(output.labels)
  for word, path in zip(found.words, output.heatmaps, strict=False):
    writer.save(path, np.asarray(found.heatmap(word)))


class _Report:
  """Prints what was found, and writes `areas.csv` for several pictures."""

  def __init__(
    self,
    as_json: bool,
    count: int,
    out: str,
    names: Sequence[str],
  ):
    self._as_json = as_json
    self._count = count
    self._failed = 0
    self._out = out
    self._names = names
    self._file: IO[str] | None = None

  def __enter__(self) -> "_Report":
    return self

  def __exit__(self, *error) -> None:
    if self._file:
      self._file.close()

  def _row(self, values: Sequence[Any]) -> None:
    """Adds a row to the table, which is made with its first row."""
    if self._count < 2:
      return
    rows = [values]
    if self._file is None:
      path = result_files.table(self._out, _TABLE)
      try:
        # A file's name that is no text is written as the bytes that it is.
        self._file = path.open(
          "w", encoding="utf-8", errors="surrogateescape", newline=""
        )
      except OSError as error:
        raise InputError(
          f"{path}: cannot be written ({error.strerror}); give another --out"
        ) from error
      rows.insert(0, ["image", "threshold", *self._names, "error"])
    csv.writer(self._file).writerows(rows)
    self._file.flush()

  def add(self, path: Path, output: Any, found: Any) -> None:
    """Takes a picture that was segmented."""
    areas = [f"{found.areas[name]:.6f}" for name in self._names]
    self._row([path, found.threshold, *areas, ""])
    if not self._as_json:
      _say("\n".join(_lines(path, output, found)))
      return
    result = {
      "image": str(path),
      "overlay": str(output.overlay),
      "labels": str(output.labels),
      "threshold": found.threshold,
      "threshold_source": found.threshold_source,
      "areas": found.areas,
    }
    if output.heatmaps:
      files = map(str, output.heatmaps)
      result["heatmaps"] = dict(zip(found.words, files, strict=True))
    _say(json.dumps(result))

  def fail(self, path: Path, error: InputError) -> None:
    """Takes a picture that could not be segmented."""
    self._failed += 1
    text = " ".join(str(error).split())
    progress_bar.print_above(f"error: {text}")
    self._row([path, "", *[""] * len(self._names), text])
    if self._as_json:
      _say(json.dumps({"image": str(path), "error": text}))

  def end(self) -> int:
    """Sums up; returns the exit code."""
    if self._failed and self._count > 1:
      print(
        f"error: {self._failed} of {self._count} pictures failed",
        file=sys.stderr,
      )
    if self._file and not self._as_json:
      _say(f"shares of all pictures: {self._file.name}")
    if not self._failed:
      return 0
    return 2 if self._failed == self._count else 1


def _say(text: str) -> None:
  progress_bar.print_above(text, sys.stdout)


def _lines(path: Path, output: Any, found: Any) -> Iterator[str]:
  rule = (
    "no background"
    if found.threshold is None
    else f"background threshold {found.threshold:.3g},"
    f" from {found.threshold_source}"
  )
  yield f"{path} ({rule})"
  for index, name in enumerate(found.names):
    yield f"  {index:3d}  {100 * found.areas[name]:6.2f} %  {name}"
  yield f"  overlay {output.overlay}, labels {output.labels}"


if __name__ == "__main__":
  sys.exit(main())
