"""The tokenizer's ids, rows and errors; parity is in tests/parity."""

import gzip
import hashlib
from concurrent import futures
from importlib import resources

import numpy as np
import pytest

from sseg_jax.errors import InputError
from sseg_jax.tokenizer import (
  END,
  START,
  VOCAB_SIZE,
  Tokenizer,
  check_distinct,
  clean,
)


@pytest.fixture(scope="module")
def tokenizer():
  return Tokenizer()


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("  A\tphoto \n of  a CAT ", "a photo of a cat"),
    ("schÃ¶n", "schön"),  # UTF-8 once read as Latin-1
    ("&amp;amp; &lt;b&gt;", "& <b>"),
    ("", ""),
    ("\u00a0", ""),
  ],
)
def test_clean_repairs_text(text, expected):
  assert clean(text) == expected


@pytest.mark.parametrize(
  ("text", "ids"),
  [
    # The ids of CLIP's published vocabulary.
    ("a photo of a cat", [320, 1125, 539, 320, 2368]),
    ("Cat's", [2368, 568]),
    ("1234", [272, 273, 274, 275]),  # digits stand alone
    ("<start_of_text>", [START]),
    ("<|endoftext|>", [27, 347, 40786, 4160, 91, 285]),
  ],
)
def test_encode_gives_published_ids(tokenizer, text, ids):
  assert tokenizer.encode(text) == ids


def test_row_is_padded_with_zeros(tokenizer):
  rows = tokenizer(["a cat", ""])
  assert rows.dtype == np.int32
  assert rows.shape == (2, 77)
  assert rows[0, :4].tolist() == [START, 320, 2368, END]
  assert rows[1, :2].tolist() == [START, END]
  assert not rows[0, 4:].any()
  assert not rows[1, 2:].any()


@pytest.mark.parametrize("words", [4, 5, 6, 500])
def test_long_text_is_cut_and_still_ends(tokenizer, words):
  row = Tokenizer(context_length=7)(["cat " * words])[0]
  cats = min(words, 5)
  assert row.tolist() == [START, *[2368] * cats, END, *[0] * (5 - cats)]


def test_the_merges_are_whole_and_come_with_their_licence():
  folder = resources.files("sseg_jax") / "clip_merges"
  text = gzip.decompress((folder / "merges.txt.gz").read_bytes())
  digest = hashlib.sha256(text).hexdigest()
  assert digest == (
    "d308b7377a8ceaa9707a21614fe8c831b9196e197b7aeb69833359362907af02"
  )
  assert "MIT License" in (folder / "LICENSE").read_text()


def test_threads_share_the_tokenizer(tokenizer):
  texts = [f"a photo of {i} cats & dogs" for i in range(200)]
  with futures.ThreadPoolExecutor(4) as pool:
    rows = list(pool.map(lambda text: tokenizer.encode(text), texts))
  assert rows == [tokenizer.encode(text) for text in texts]


def test_end_is_the_largest_id():
  assert START < END == VOCAB_SIZE - 1


def test_no_texts_give_no_rows(tokenizer):
  assert tokenizer([]).shape == (0, 77)


def test_a_bare_string_is_refused(tokenizer):
  with pytest.raises(InputError, match="list of texts"):
    tokenizer("a cat")


def test_a_row_must_hold_both_markers():
  assert Tokenizer(context_length=2)(["cat"]).tolist() == [[START, END]]
  with pytest.raises(InputError, match="context_length is 1"):
    Tokenizer(context_length=1)


def test_names_that_become_one_are_told():
  short = Tokenizer(context_length=8)
  names = ("a very long name of a cat", "a very long name of a dog")
  with pytest.raises(InputError, match="cat' and .*dog' are the same .* 8 tok"):
    check_distinct(names, short(names))
  check_distinct(names, Tokenizer(context_length=16)(names))
  # Cut in one template alone, they still differ in the mean.
  same, other = short([names[0], "dog"])
  check_distinct(names, np.stack([same, same, same, other]))
  with pytest.raises(InputError, match="'Cat' and 'cat'"):
    check_distinct(("Cat", "cat"), short(["Cat", "cat"]))
