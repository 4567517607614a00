"""CLIP's byte-pair tokenizer: captions to rows of token ids.

The ids equal those of open_clip (`open_clip/tokenizer.py`). As there, the
markers `<start_of_text>` and `<end_of_text>` inside a text become single ids,
and CLIP's own `<|endoftext|>` is ordinary text. The ids differ from open_clip's
for

*   letters and digits that Unicode added after version 14: this tokenizer takes
    them for punctuation, and open_clip, with a newer `regex` package, for
    letters;
*   the long s (U+017F) after an apostrophe: open_clip reads it as `'s`;
*   the character U+0345: open_clip drops it.
"""

import html
from collections.abc import Sequence

import ftfy
import instant_clip_tokenizer
import numpy as np
from jaxtyping import Int32

from sseg_jax.errors import InputError

START = 49406
END = 49407  # the largest id, so the text tower finds it by argmax
VOCAB_SIZE = 49408


def clean(text: str) -> str:
  """Returns a text as CLIP reads it.

  Wrongly decoded characters are repaired, HTML entities are replaced, runs of
  blanks become one space, and capitals become small letters, in CLIP's order
  (`clip/simple_tokenizer.py`, `clip/clip.py`). Entities are replaced twice,
  because captions from web pages contain texts like `&amp;amp;`.
  """
  text = html.unescape(html.unescape(ftfy.fix_text(text)))
  return " ".join(text.split()).lower()


def check_distinct(
  names: Sequence[str], tokens: Int32[np.ndarray, "ct l"]
) -> None:
  """Raises InputError if two names have the same tokens in every template.

  Their scores would be equal, so the second name would never be predicted.

  Args:
    names: c class names.
    tokens: rows of the tokenizer; the t rows of a name follow each other.
  """
  rows = tokens.reshape(len(names), -1)
  first: dict[bytes, str] = {}
  for name, row in zip(names, rows, strict=True):
    other = first.setdefault(row.tobytes(), name)
    if other is not name:
      raise InputError(
        f"the names {other!r} and {name!r} are the same to the text tower,"
        f" which reads {tokens.shape[1]} tokens at most, without capitals;"
        " shorten them so that they differ, or leave one out"
      )


class Tokenizer:
  """Turns texts into `[START, ids…, END, 0…]` rows of one length.

  Args:
    context_length: length of a row. A longer text is cut to it and its last id
      becomes `END`, as GroupViT does (CLIP itself raises).

  Raises:
    InputError: if `context_length` leaves no room for `START` and `END`.
  """

  def __init__(self, context_length: int = 77):
    if context_length < 2:
      raise InputError(
        f"text.context_length is {context_length}; give at least 2, the room"
        " for the start and end tokens"
      )
    self.context_length = context_length
    self._bpe = instant_clip_tokenizer.Tokenizer()

  def encode(self, text: str) -> list[int]:
    """Returns the ids of one text, without `START`, `END` and padding."""
    return self._bpe.encode(clean(text))

  def __call__(self, texts: Sequence[str]) -> Int32[np.ndarray, "b l"]:
    """Returns one row of ids per text, zero padded or truncated.

    Raises:
      InputError: if `texts` is a string: each letter would become a text.
    """
    if isinstance(texts, str):
      raise InputError(
        f"the tokenizer got the string {texts!r}; give a list of texts"
      )
    rows = np.zeros((len(texts), self.context_length), np.int32)
    for row, text in zip(rows, texts, strict=True):
      ids = self.encode(text)[: self.context_length - 2]
      row[: len(ids) + 2] = [START, *ids, END]
    return rows
