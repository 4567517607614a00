"""Words and their synonyms as a caller gives them."""

import numpy as np
import pytest

from sseg_jax.errors import InputError
from sseg_jax.inference import words
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.inference.words import Named


@pytest.mark.parametrize(
  ("given", "named"),
  [
    ("cat,  potted  plant", Named(("cat", "potted plant"))),
    (["cat", "dog"], Named(("cat", "dog"))),
    ({"cat": "cat", "dog": ["dog"]}, Named(("cat", "dog"))),
    (
      {"sofa": ["sofa", "couch"], "pet": "cat, dog", "sky": ["sky"]},
      Named(
        ("sofa", "pet", "sky"), (("sofa", "couch"), ("cat", "dog"), ("sky",))
      ),
    ),
  ],
)
def test_words_and_synonyms(given, named):
  assert words.parse(given) == named


@pytest.mark.parametrize(
  ("given", "message"),
  [
    (3, "words is of type int"),
    (["cat", 3], "word 2 is 3, not a text"),
    ({}, "words is empty"),
    ({"cat": []}, "'cat': words is empty"),
    ({"cat": 3}, "the value of 'cat' is 3"),
    ({"cat": ["a", ""]}, "'cat': .*word 2 is empty"),
    ({"a": ["cat", "x"], "b": ["Cat"]}, "'Cat' stands for 'a' and for 'b'"),
    ({"Background": ["sky"]}, "the name of pixels that fit no word"),
  ],
)
def test_bad_words_are_told(given, message, unchecked_types):
  with pytest.raises(InputError, match=message):
    words.parse(given, background=True)


def test_a_file_of_words(tmp_path):
  file = tmp_path / "words.txt"
  file.write_text("\ufeffcat\n\n# pets\nsofa, couch\n  é  a \n", "utf-8")
  assert words.read(file) == {
    "cat": ["cat"],
    "sofa": ["sofa", "couch"],
    "é a": ["é a"],
  }
  for text, message in (
    ("a\na\n", "line 2: 'a' is there already"),
    ("a,,b\n", "line 1: a word is empty"),
    ("# a\n", "has no words"),
  ):
    file.write_text(text)
    with pytest.raises(InputError, match=message):
      words.read(file)
  file.write_bytes(b"\xff\xfea")
  with pytest.raises(InputError, match="is not UTF-8"):
    words.read(file)
  with pytest.raises(InputError, match="cannot be read"):
    words.read(tmp_path / "absent.txt")


def test_members_point_at_the_words_of_a_name():
  plain = ClassSet(("a", "b"))
  assert plain.words == ("a", "b") and plain.members() is None
  several = ClassSet(("a", "b"), ("{}",), (("a",), ("b", "c", "d")))
  assert several.words == ("a", "b", "c", "d")
  assert several.prompts == ["a", "b", "c", "d"]
  np.testing.assert_array_equal(several.members(), [[0, 0, 0], [1, 2, 3]])
  with pytest.raises(InputError, match="1 lists of synonyms for 2 names"):
    ClassSet(("a", "b"), ("{}",), (("a",),))
