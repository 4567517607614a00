"""CLIP's byte-pair tokenizer: captions to rows of token ids.

The merges are CLIP's own list, kept in `clip_merges/`; the package
`tokenizers` applies them. The ids equal those of open_clip
(`open_clip/tokenizer.py`), which spells the markers `<start_of_text>` and
`<end_of_text>`: these become single ids inside a text, CLIP's own
`<|endoftext|>` is ordinary text. The two differ on

*   letters and digits of newer versions of Unicode, which are grouped as
    punctuation here and as letters by a newer `regex` package there;
*   U+0345, which `regex` drops as a cased letter without case.
"""

import functools
import gzip
import html
from collections.abc import Sequence
from importlib import resources

import ftfy
import numpy as np
import tokenizers
from jaxtyping import Int32
from tokenizers import models, pre_tokenizers, processors

from sseg_jax.errors import InputError

START = 49406
END = 49407  # the largest id, so the text tower finds it by argmax
VOCAB_SIZE = 49408
# The markers as they may stand in a text.
_MARKERS = {"<start_of_text>": START, "<end_of_text>": END}
# What becomes a row of pieces, of which merges make ids: markers, contractions,
# words, single digits, and the rest without blanks (open_clip's pattern). The
# long s is an s where capitals and small letters are not told apart.
_PIECES = (
  r"<start_of_text>|<end_of_text>|'[s\u017f]|'t|'re|'ve|'m|'ll|'d"
  r"|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
)


def clean(text: str) -> str:
  """Returns a text as CLIP reads it.

  Wrongly decoded characters are repaired, HTML entities are replaced, runs of
  blanks become one space, and capitals become small letters, in CLIP's order
  (`clip/simple_tokenizer.py`, `clip/clip.py`). Entities are replaced twice,
  because captions from web pages contain texts like `&amp;amp;`.
  """
  text = html.unescape(html.unescape(ftfy.fix_text(text)))
  return " ".join(text.split()).lower()


@functools.cache
def _bpe() -> tokenizers.Tokenizer:
  """Builds the pieces and merges, once; safe to use from several threads."""
  file = resources.files("sseg_jax") / "clip_merges" / "merges.txt.gz"
  text = gzip.decompress(file.read_bytes()).decode()
  merges: list[tuple[str, str]] = []
  for line in text.splitlines():
    first, second = line.split(" ")
    merges.append((first, second))
  # A letter for each byte: the printable ones stand for themselves, the others
  # for the letters from U+0100 on. Ids count in this order.
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  letters = [chr(byte) for byte in printable]
  letters += [chr(256 + i) for i in range(256 - len(printable))]
  names = letters + [f"{letter}</w>" for letter in letters]
  names += [first + second for first, second in merges]
  bpe = tokenizers.Tokenizer(
    models.BPE(
      vocab={name: i for i, name in enumerate(names)},
      merges=merges,
      end_of_word_suffix="</w>",
    )
  )
  bpe.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(tokenizers.Regex(_PIECES), "removed", invert=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  return bpe


def vocabulary() -> dict[str, int]:
  """Returns the id of each token; "</w>" marks the end of a word.

  The markers of start and end are not in it. A token has one letter for each
  byte of its UTF-8.
  """
  return _bpe().get_vocab()


def as_json(context_length: int) -> str:
  """Returns the tokenizer as a file of the `tokenizers` package.

  Its `encode` gives rows as `Tokenizer`'s, for a text that `clean` returned.
  """
  bpe = tokenizers.Tokenizer.from_str(_bpe().to_str())
  bpe.add_special_tokens([*_MARKERS])  # the next two ids
  bpe.post_processor = processors.TemplateProcessing(
    single=" $A ".join(_MARKERS), special_tokens=[*_MARKERS.items()]
  )
  bpe.enable_truncation(context_length)
  bpe.enable_padding(length=context_length, pad_id=0, pad_token="!")
  return bpe.to_str()


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

  def encode(self, text: str) -> list[int]:
    """Returns the ids of one text, without `START`, `END` and padding."""
    text, bpe = clean(text), _bpe()
    if not any(marker in text for marker in _MARKERS):
      return bpe.encode(text, add_special_tokens=False).ids
    ids: list[int] = []
    for piece, _ in bpe.pre_tokenizer.pre_tokenize_str(text):
      if piece in _MARKERS:
        ids.append(_MARKERS[piece])
      else:
        ids += [token.id for token in bpe.model.tokenize(piece)]
    return ids

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
