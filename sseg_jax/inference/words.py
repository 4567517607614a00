"""Words as a caller gives them: names, and words that stand for one of them."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from sseg_jax import prompts
from sseg_jax.errors import InputError

# "cat, sky", ["cat", "sky"] or {"cat": ["cat", "kitten"], "sky": "sky"}.
Words: TypeAlias = str | Sequence[str] | Mapping[str, str | Sequence[str]]

_LARGEST_FILE = 2**24  # bytes


@dataclasses.dataclass(frozen=True)
class Named:
  """Names, and the words that stand for each.

  Attributes:
    names: what regions are called.
    synonyms: the words of each name; () where these are the names themselves.
  """

  names: tuple[str, ...]
  synonyms: tuple[tuple[str, ...], ...] = ()


def parse(words: Words, *, background: bool = False) -> Named:
  """Cleans words, as `prompts.parse_words`; InputError for bad ones.

  Args:
    words: a string is split at its commas. A mapping has the names as keys and
      as values the words that stand for them; a name counts as a word only if
      it is among its own.
    background: whether pixels of no word are called "background", which then
      may be no name.
  """
  if not isinstance(words, Mapping):
    if not isinstance(words, str | Sequence):
      raise InputError(
        f"words is of type {type(words).__name__}; give a list of texts, or"
        " one text with commas"
      )
    return Named(prompts.parse_words(words, background=background))
  names = prompts.parse_words(list(words), background=background)
  groups = []
  for name, value in zip(names, words.values(), strict=True):
    if not isinstance(value, str | Sequence):
      raise InputError(
        f"words: the value of {name!r} is {value!r}; give a list of texts"
      )
    try:
      groups.append(prompts.parse_words(value))
    except InputError as error:
      raise InputError(f"{name!r}: {error}") from error
  first: dict[str, str] = {}
  for name, group in zip(names, groups, strict=True):
    for word in group:
      other = first.setdefault(word.lower(), name)
      if other != name:
        raise InputError(
          f"words: {word!r} stands for {other!r} and for {name!r}; leave one"
          " out"
        )
  if all(group == (name,) for name, group in zip(names, groups, strict=True)):
    return Named(names)
  return Named(names, tuple(groups))


def cut(segmenter: Any, class_set: Any) -> tuple[str, ...]:
  """Returns the words of which the text tower does not read the end.

  Args:
    segmenter: an `SSegSegmenter`.
    class_set: the words, as its `ClassSet`.

  Raises:
    InputError: two words have equal tokens, so that one would never be found.
  """
  rows = segmenter.tokens(class_set)  # [c, t, l]
  seen: dict[bytes, str] = {}
  for word, row in zip(class_set.words, rows, strict=True):
    other = seen.setdefault(row.tobytes(), word)
    if other != word:
      raise InputError(
        f"words: {other!r} and {word!r} are the same to this model, which reads"
        f" {rows.shape[-1] - 2} tokens of a prompt; change or shorten one"
      )
  # A row that is full to its end holds all of its prompt, or not.
  return tuple(
    word
    for word, row in zip(class_set.words, rows, strict=True)
    if row[:, -1].any()
    and any(
      segmenter.is_cut(template.replace("{}", word))
      for template in class_set.templates
    )
  )


def read(path: str | os.PathLike) -> Words:
  """Reads a file of words for `parse`: UTF-8, one name a line.

  Further words of a line, after commas, are synonyms of the first, which
  counts as well. Empty lines and lines that start with # are left out.

  Raises:
    InputError: the file cannot be read, is not UTF-8, or a line has an empty
      word or the name of a line before.
  """
  path = Path(os.path.expanduser(path))
  given = f"words_file={path}"
  try:
    with open(path, "rb") as file:
      data = file.read(_LARGEST_FILE + 1)
    text = data.decode("utf-8-sig")
  except OSError as error:
    raise InputError(
      f"{given}: cannot be read ({error.strerror}); give a text file with one"
      " word a line"
    ) from error
  except UnicodeDecodeError as error:
    raise InputError(f"{given}: is not UTF-8 text; save it as UTF-8") from error
  except ValueError as error:  # a NUL in the name
    raise InputError(f"words_file={str(path)!r}: is not a file's name") from (
      error
    )
  if len(data) > _LARGEST_FILE:
    raise InputError(f"{given}: has more than {_LARGEST_FILE} bytes")
  named: dict[str, list[str]] = {}
  for number, line in enumerate(text.splitlines(), 1):
    if not line.strip() or line.lstrip().startswith("#"):
      continue
    words = [" ".join(word.split()) for word in line.split(",")]
    if "" in words:
      raise InputError(
        f"{given}, line {number}: a word is empty; remove a comma"
      )
    if words[0] in named:
      raise InputError(f"{given}, line {number}: {words[0]!r} is there already")
    named[words[0]] = words
  if not named:
    raise InputError(f"{given}: has no words; write one a line")
  return named
