"""Writes words.json and words.html: what a run has learned of each word.

Training does it at its end, `evaluate --words_report` at any time.
"""

import json
from pathlib import Path
from typing import Any

from absl import logging
from etils import epath

from sseg_jax import files
from sseg_jax.errors import InputError
from sseg_jax.inference import pairs, rarity, sources
from sseg_jax.inference.segmenter import SSegSegmenter
from sseg_jax.learned import counts as counts_
from sseg_jax.learned import page
from sseg_jax.learned.held_out import HeldOut

NAMES = ("words.json", "words.html")
_SCORED = 2000  # words, the most frequent ones in held-out captions
_LISTED = 5000  # words of the page
_STRIPS = 150  # words with regions
_ENOUGH = 20  # captions of a word with regions
_REGIONS = 6  # of a word


def write(
  folder: Any,
  counts: dict[str, Any],
  held_out: HeldOut | None = None,
  segmenter: SSegSegmenter | None = None,
) -> dict[str, Any]:
  """Writes both files to a folder, and returns the content of words.json.

  Args:
    folder: exists; of `pathlib` or `epath`.
    counts: from `counts.count`.
    held_out: what the network saw in the held-out pairs of `config.data.val`,
      whose captions are read; None for no scores.
    segmenter: the network, unless `held_out` is None.
  """
  words = list(counts["words"])
  with_word: dict[str, int] = {}
  scores: dict[str, float] = {}
  strips: dict[str, Any] = {}
  pictures = 0
  if held_out is not None and segmenter is not None and len(held_out):
    pictures = len(held_out)
    numbers = held_out.numbers()
    with_word = {w: numbers[w] for w in words if w in numbers}
    scores = held_out.ranked(segmenter, list(with_word)[:_SCORED])
    frequent = [w for w in words if counts["words"][w] >= _ENOUGH]
    strips = held_out.best_regions(segmenter, frequent[:_STRIPS], _REGIONS)
  report = {
    "captions": counts["captions"],
    "records": counts["records"],
    "of": counts["of"],
    "pictures": pictures,
    "cropped": held_out.cropped if held_out is not None else 0,
    "scored": len(scores),
    "enough": _ENOUGH,
    "words": {
      word: {
        "count": counts["words"][word],
        "held_out": with_word.get(word, 0),
        "score": scores.get(word),
      }
      for word in words
    },
  }
  text = json.dumps(report, indent=1)
  files.write_text(folder / NAMES[0], text + "\n")
  # Other letters as references, since the file system's encoding is not known.
  html = page.page(report, strips, _LISTED).encode("ascii", "xmlcharrefreplace")
  files.write_text(folder / NAMES[1], html.decode("ascii"))
  return report


def of_run(
  folder: epath.Path,
  config: Any,
  metadata: dict[str, Any],
  held_out: HeldOut,
  segmenter: SSegSegmenter | None,
) -> None:
  """Writes the report of a run that has ended, to its work directory.

  If that fails, the error is logged: the run's result is written already.

  Args:
    folder: work directory.
    config: of the run.
    metadata: of its checkpoints; without counts, nothing is written.
    held_out: took the pairs of the last evaluation.
    segmenter: the network; None if nothing was evaluated.
  """
  if rarity.NAME not in metadata:
    return
  try:
    if len(held_out):
      held_out.read_captions(config.data.val)
    write(folder, metadata[rarity.NAME], held_out, segmenter)
  except Exception as error:
    logging.warning("no report of words (%s: %s)", type(error).__name__, error)


def run(path: str, out: Path | None) -> Path:
  """Writes the report of a checkpoint, as the command asks.

  Args:
    path: see `sources.read`.
    out: a folder; None for `path`, if that is a work directory.

  Returns:
    The folder.

  Raises:
    InputError: if `out` is None and `path` is no work directory; if the
      checkpoint has no counts and the records of its training are not there; or
      if its held-out records are gone.
  """
  if out is None:
    out = Path(files.expand(path))
    if not (out / "checkpoints").is_dir():
      raise InputError(
        f"checkpoint={path} is not a work directory; say with --out where the"
        " report of words is written"
      )
  loaded = sources.read(path)
  config = loaded.config
  if config.task != "sseg":
    raise InputError(
      f"checkpoint={path}: was trained without captions (task={config.task!r});"
      " it knows no words"
    )
  files.make_folder("out", out)
  counts = loaded.metadata.get(rarity.NAME)
  if not counts:
    folders = [f.strip() for f in config.data.train.split(",") if f.strip()]
    counts = counts_.count(folders)
  if not config.data.val:
    write(out, counts)
    return out
  segmenter = SSegSegmenter(loaded.params, loaded.model_state, config)
  held_out = HeldOut(config)
  pairs.of_records(segmenter, config.data.val, held_out)
  held_out.read_captions(config.data.val)
  write(out, counts, held_out, segmenter)
  return out
