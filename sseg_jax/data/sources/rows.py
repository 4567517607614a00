"""What every reader of captions yields, and how captions are cleaned."""

import ast
import codecs
import dataclasses
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sseg_jax.errors import InputError

# What pandas reads as a missing value, and what others write for one.
_MISSING = frozenset(
  "#n/a #na -nan <na> n/a na nan none null (null) undefined".split()
)
# Control characters that are no white space to `str.split`.
_CONTROLS = {code: " " for code in (*range(1, 32), *range(127, 160))}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclasses.dataclass(frozen=True)
class Row:
  """One entry of a file of captions.

  Attributes:
    where: the place for messages: the file's name and the line.
    name: the picture as the entry names it; "" where `reason` says why.
    captions: clean, none empty; possibly none at all.
    left_out: one reason for each caption of the entry that cannot be used.
    source: URL or other origin, where stated.
    license: where stated.
    reason: why the whole entry is rejected; "" where it is not.
    detail: more about a rejection for a message, such as the fields found.
  """

  where: str
  name: str = ""
  captions: tuple[str, ...] = ()
  left_out: tuple[str, ...] = ()
  source: str = ""
  license: str = ""
  reason: str = ""
  detail: str = ""


def shown(text: object, limit: int = 120) -> str:
  """Returns any text as one printable line of at most `limit` characters."""
  characters = str(text)
  if len(characters) > limit:
    characters = characters[: limit - 1] + "…"
  return "".join(
    c if c.isprintable() else c.encode("unicode_escape").decode()
    for c in characters
  )


def few(names: Sequence[str]) -> str:
  """Returns the first names for a message."""
  return ", ".join(map(shown, names[:3])) + (", …" if len(names) > 3 else "")


def encodable(value: object) -> str:
  """Returns text that UTF-8 can encode; "" for a missing value."""
  if value is None or value != value:  # NaN is not equal to itself
    return ""
  return str(value).encode("utf-8", "backslashreplace").decode()


def is_url(text: str) -> bool:
  """Whether a cell is the address of a picture elsewhere."""
  scheme, colon, _ = text.strip()[:16].lower().partition("://")
  return bool(colon) and scheme.isalnum() and scheme != "file"


def clean(value: object) -> tuple[str, str]:
  """Returns a caption with single spaces and "", or "" and the reason.

  The reason is `no_caption` (null, NaN or a word for them), `empty_caption`,
  `caption_not_text`, `not_utf8` (bytes that are not UTF-8, or NUL) or
  `not_unicode` (half of a surrogate pair: an emoji that was cut).
  """
  if value is None or value != value:
    return "", "no_caption"
  if not isinstance(value, str):
    return "", "caption_not_text"
  if not value.isascii():
    try:
      value.encode()
    except UnicodeEncodeError:
      # `surrogateescape` puts these in the place of single bytes.
      escaped = any("\udc80" <= c <= "\udcff" for c in value)
      return "", "not_utf8" if escaped else "not_unicode"
  if "\0" in value:
    return "", "not_utf8"
  text = " ".join(value.translate(_CONTROLS).split())
  if not text:
    return "", "empty_caption"
  if text.lower() in _MISSING:
    return "", "no_caption"
  return text, ""


def clean_all(
  values: Iterable[object],
) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Returns the clean captions, and a reason for each of the others."""
  pairs = [clean(value) for value in values]
  return (
    tuple(text for text, reason in pairs if not reason),
    tuple(reason for _, reason in pairs if reason),
  )


def listed(text: str) -> list[object]:
  """Returns the strings of a cell that holds a list, else only the cell.

  Lists are written by `json`, or by pandas as Python writes them.
  """
  text = text.strip()
  if text.startswith("[") and text.endswith("]") and len(text) < 100_000:
    for parse in (json.loads, ast.literal_eval):
      try:
        with warnings.catch_warnings():
          warnings.simplefilter("ignore")  # of odd backslashes
          found = parse(text)
      except (ValueError, SyntaxError, RecursionError, MemoryError):
        continue
      if isinstance(found, list) and any(isinstance(c, str) for c in found):
        return found
  return [text]


def lines(path: Path) -> Iterator[tuple[int, str]]:
  r"""Yields the lines of a text file, numbered from 1, with their ends.

  UTF-8 with or without a byte order mark, or UTF-16 with one. A byte that is
  not UTF-8 becomes a surrogate (`surrogateescape`), which `clean` rejects.

  Raises:
    InputError: the file cannot be read, or is no text.
  """
  try:
    with path.open("rb") as file:
      head = file.read(4096)
    utf16 = head.startswith(_UTF16)
    if not utf16 and head.count(b"\0") > len(head) // 5:
      raise InputError(
        f"{shown(path)} is not UTF-8 text (it holds NUL bytes); save it as"
        " UTF-8"
      )
    with path.open(
      encoding="utf-16" if utf16 else "utf-8-sig",
      errors="replace" if utf16 else "surrogateescape",
      newline="",
    ) as file:
      for number, line in enumerate(file, 1):
        # No escapes exist for UTF-16; its damaged characters are marked alike.
        yield number, line.replace("\ufffd", "\udcff") if utf16 else line
  except OSError as error:
    raise InputError(
      f"{shown(path)} cannot be read ({error.strerror or error})"
    ) from error


def split_lines(text: str) -> list[str]:
  """Returns the lines as text editors number them."""
  return re.split(r"\r\n|\r|\n", text)
