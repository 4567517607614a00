"""CLIP's byte-pair tokenizer: captions to rows of token ids.

The ids equal those of open_clip (`open_clip/tokenizer.py`), which spells the
markers `<start_of_text>` and `<end_of_text>`: these become single ids inside a
text, CLIP's own `<|endoftext|>` is ordinary text. The two differ on

*   letters and digits that Unicode gained after version 14, which are grouped
    as punctuation here and as letters by a newer `regex` package there;
*   the long s (U+017F) after an apostrophe, which `regex` folds to the
    contraction `'s`, and U+0345, which it drops as a cased letter.
"""

import html
from collections.abc import Sequence

import ftfy
import instant_clip_tokenizer
import numpy as np
from jaxtyping import Int32

from sseg_jax.errors import InputError

START = 49406
END = 49407  # the largest id, which lets the text tower find it by argmax
VOCAB_SIZE = 49408


def clean(text: str) -> str:
  """Repairs mojibake and HTML entities, collapses whitespace, lower-cases.

  The order is CLIP's (`clip/simple_tokenizer.py`, `clip/clip.py`); entities are
  unescaped twice, since scraped captions hold things like `&amp;amp;`.
  """
  text = html.unescape(html.unescape(ftfy.fix_text(text)))
  return " ".join(text.split()).lower()


def check_distinct(
  names: Sequence[str], tokens: Int32[np.ndarray, "ct l"]
) -> None:
  """InputError if two names have become the same tokens in every template.

  The second of them would never be found.

  Args:
    names: c class names.
    tokens: rows of the tokenizer, those of one name beside each other.
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
      InputError: if `texts` is a string, which would be read letter by letter.
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
