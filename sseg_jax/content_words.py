"""Which tokens of a text stand for words that a picture can show.

The contrastive form "words" compares regions with these tokens one by one. Left
out are punctuation, digits, and words that tell nothing about a picture, such
as articles, prepositions, and "photo".
"""

import functools
import re

import numpy as np
from jaxtyping import Bool

from sseg_jax import tokenizer

# Articles, pronouns, prepositions, conjunctions, auxiliary verbs, numbers, what
# contractions leave behind, and words for the picture itself.
STOP_WORDS = frozenset(
  """
  a an the this that these those some any each every another other others both
  all several many few more most much lots lot no not only very too so such
  i me my we us our you your he him his she her hers it its they them their
  who whom whose which what where when while why how there here
  and or but nor if than then as because
  of on in at with to by for from into onto out off up down over under through
  around behind between among along across above below near next beside about
  against towards toward during after before upon inside outside within without
  is are was were be been being am has have had having do does did doing can
  could will would shall should may might must
  one two three four five six seven eight nine ten
  s t d ll m re ve
  photo photograph picture image photos pictures images
  """.split()
)
_END_OF_WORD = "</w>"
_LETTERS = re.compile(r"[^\W\d_]+")  # the tokenizer's words, as Python has them


def words_of(text: str) -> list[str]:
  """Returns the words of a text that a picture can show, in small letters.

  They stand in the text's order, and may repeat. Singular and plural are two
  words. "A dog's wooden house" gives ["dog", "wooden", "house"].
  """
  found = _LETTERS.findall(tokenizer.clean(text))
  return [word for word in found if word not in STOP_WORDS]


@functools.cache
def content_tokens() -> Bool[np.ndarray, "_"]:
  """Returns for each of the tokenizer's ids whether it is part of such a word.

  A rare word has several tokens, each of which counts.
  """
  content = np.zeros(tokenizer.VOCAB_SIZE, bool)
  for text, number in tokenizer.vocabulary().items():
    word = text.removesuffix(_END_OF_WORD)
    whole = text.endswith(_END_OF_WORD)
    # The vocabulary has a letter for each byte, so that only tokens of ASCII
    # letters and of bytes of other alphabets hold letters.
    content[number] = any(map(str.isalpha, word)) and not (
      whole and word in STOP_WORDS
    )
  content.setflags(write=False)
  return content
