"""Tells of words that stood in few captions of the training data, or in none.

The counts are in a checkpoint's metadata; `learned/counts.py` makes them.
Checkpoints of earlier versions have none, and nothing is told.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sseg_jax import content_words
from sseg_jax.errors import InputError
from sseg_jax.runtime import progress_bar

NAME = "word_counts"  # in the metadata
_FEW = 10  # captions; a word that stands in so many is not rare


def check_stored(metadata: Mapping[str, Any]) -> None:
  """Raises InputError unless the stored counts, if there are any, are whole."""
  counts = metadata.get(NAME)
  if counts is None:
    return
  good = isinstance(counts, Mapping) and isinstance(
    counts.get("words"), Mapping
  )
  if not (
    good
    and all(_is_count(counts.get(key)) for key in ("captions", "records", "of"))
    and all(map(_is_count, counts["words"].values()))
  ):
    raise InputError(
      "the stored counts of words are damaged: they must be whole numbers;"
      " load another copy of the checkpoint"
    )


def rare(
  metadata: Mapping[str, Any], words: Iterable[str]
) -> dict[str, tuple[str, int]]:
  """Returns of each rare word or phrase its rarest word and how often that is.

  Words are compared in small letters. A phrase is as rare as the rarest of its
  words that a picture can show (`content_words`); one without any is left out.

  Args:
    metadata: of the checkpoint.
    words: words or phrases as a user gave them.
  """
  if not metadata.get(NAME):
    return {}
  counts = metadata[NAME]["words"]
  found = {}
  for text in words:
    numbers = {w: counts.get(w, 0) for w in content_words.words_of(text)}
    if numbers:
      rarest = min(numbers, key=numbers.__getitem__)
      if numbers[rarest] < _FEW:
        found[text] = rarest, numbers[rarest]
  return found


def line(metadata: Mapping[str, Any], words: Iterable[str]) -> str | None:
  """Returns one line about the rare ones among words; None if none is rare."""
  found = rare(metadata, words)
  if not found:
    return None
  counts = metadata[NAME]
  number = f"{counts['captions']:,}"
  where = f"the {number} captions of training"
  if counts["records"] < counts["of"]:
    where = f"{number} captions of training, a sample"
  never, seldom = [], []
  for text, (word, times) in found.items():
    name = f"{word!r}" if word == text.lower() else f"{word!r} (in {text!r})"
    if times:
      seldom.append(f"{name} in {times}")
    else:
      never.append(name)
  parts = []
  if never:
    parts.append(f"never seen: {', '.join(never)}")
  if seldom:
    parts.append(f"seldom seen: {', '.join(seldom)}")
  return f"{'; '.join(parts)}; counted in {where}"


class Teller:
  """Prints a line on standard error about rare words, about each once."""

  def __init__(self, metadata: Mapping[str, Any]):
    """Has told of no word yet; `metadata` is the checkpoint's."""
    self._metadata = metadata
    self._told: set[str] = set()

  def __call__(self, words: Iterable[str]) -> None:
    """Tells of those that are rare and were not told of before."""
    new = [word for word in words if word not in self._told]
    self._told.update(new)
    if text := line(self._metadata, new):
      progress_bar.print_above(f"note: {text}")


def _is_count(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool) and value >= 0
