"""Whatever people hand to inference: a result, or one line about it.

The suite tries a few examples. `SSEG_FUZZ=1000 pytest -s
tests/test_inference_fuzz.py` tries some 3,000 others and prints counts by kind.
"""

import os
import pathlib
import subprocess
import sys

import fuzz
import hostile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sseg_jax.errors import InputError
from sseg_jax.images import given as given_
from sseg_jax.inference import words as words_

ROOT = pathlib.Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("unchecked_types", "tally")


# ------------------------------------------------------------------- pictures


@st.composite
def arrays(draw):
  shape = draw(
    st.sampled_from(
      [(5, 7), (5, 7, 3), (5, 7, 4), (5, 7, 1), (3, 5, 7), (5,), (), (0, 4)]
      + [(5, 7, 2), (5, 7, 0), (1, 5, 7, 3), (2**26, 2**20), (2**20, 2**20, 3)]
      + [(1, 70_000, 3), (70_000, 1), (1, 1, 1)]
    )
  )
  dtype = draw(
    st.sampled_from("u1 u2 >u2 u4 u8 i1 i2 >i4 i8 f2 f4 >f8 g ?".split())
    | st.sampled_from("c8 c16 M8[s] m8[s] U3 S3 O V4".split())
  )
  value = draw(st.sampled_from([0, 1, 200, 255, 256, 65_535, -1]))
  value = draw(st.sampled_from([value, value, 0.5, np.nan, np.inf, 1e30]))
  with np.errstate(all="ignore"):
    try:
      one = np.array(value).astype(dtype)
    except (TypeError, ValueError, OverflowError):
      one = np.zeros((), dtype)
  array = np.broadcast_to(one, shape)  # takes no memory
  if array.size < 10**6 and draw(st.booleans()):
    array = np.flip(array.copy(), 0) if array.ndim else array.copy()
  return array


class _Raises:
  def __array__(self, *_, **__):
    raise RuntimeError("no\narray")


pictures = st.one_of(
  hostile.encoded(),
  hostile.encoded().map(bytearray),
  arrays(),
  st.builds(
    Image.new, st.sampled_from(hostile.MODES), st.sampled_from(hostile.SIZES)
  ),
  st.sampled_from([None, _Raises(), object(), [], [[]], [[1], [1, 2]], {}])
  | st.sampled_from([Image.new("RGB", (0, 5)), range(5), iter([1]), 3, 1e9])
  | st.sampled_from(
    ["", ".", "..", "/dev/zero", "/dev/null", "a\0b", "~", "~x/"]
  )
  | st.sampled_from(
    ["http://", "http://127.0.0.1:9/a", "HTTPS://[", "ftp://x/a"]
  )
  | st.sampled_from(["file:///etc/passwd", "\ud800", "x" * 5000, "a\nb.png"])
  | st.sampled_from([pathlib.Path("no"), b"", b"\x89PNG\r\n\x1a\n", bytes(99)]),
  st.binary(max_size=60),
)


@pytest.mark.slow
@fuzz.some(150, 1)
@given(picture=pictures)
def test_pictures(sandbox, picture):
  with sandbox.watched():
    found = hostile.handed("pictures", lambda: given_.pixels(picture))
  if found is not None:
    assert found.ndim == 3 and found.shape[2] == 3 and found.dtype == np.uint8
    assert found.size


# ---------------------------------------------------------------------- words

_words = st.one_of(
  hostile.letters,
  st.lists(hostile.word, max_size=6).map(",".join),
  st.lists(hostile.word | hostile.junk, max_size=5),
  st.lists(hostile.word, max_size=5).map(tuple),
  st.dictionaries(
    hostile.word,
    hostile.word
    | hostile.junk
    | st.lists(hostile.word | hostile.junk, max_size=4),
    max_size=4,
  ),
  st.dictionaries(st.integers(0, 3) | st.none(), hostile.word, max_size=2),
  st.sampled_from(
    [None, 3, b"cat", {1, 2}, iter("ab"), np.array(["a"]), [["a"]], object()]
    + [[b"cat"], {"a": b"cat"}, {"a": None}, {"a": {"b": "c"}}]
    + [[f"w{i}" for i in range(10_000)], [f"w{i}" for i in range(200_000)]]
    + [{f"n{i}": [f"a{i}", f"b{i}"] for i in range(1000)}]
    + [",".join(map(str, range(300_000))), ["x" * 20_000_000], "," * 10**6]
  ),
)


@fuzz.some(150, 1)
@given(words=_words, background=st.booleans())
def test_words(sandbox, words, background):
  def parse():
    return words_.parse(words, background=background)

  found = hostile.handed("words", parse, 20)
  if found is not None:
    assert len({name.lower() for name in found.names}) == len(found.names)
    assert all(name.strip() for name in found.names)
    if found.synonyms:
      assert all(all(group) for group in found.synonyms)


@pytest.mark.slow
@fuzz.some(60, 0.3)
@given(
  text=st.lists(hostile.word, max_size=6).map("\n".join)
  | hostile.letters
  | st.sampled_from(["x\n" * 10**5, "a" * 2**24, "a," * 2**20, "\0" * 2**25]),
  encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-7"]),
  name=st.sampled_from(["w.txt"] * 6 + ["absent", ".", "/dev/zero", "a\0"]),
)
def test_files_of_words(sandbox, text, encoding, name):
  data = text.encode(
    encoding, "surrogatepass" if "f-7" not in encoding else "ignore"
  )
  pathlib.Path("w.txt").write_bytes(data)
  with sandbox.watched():
    found = hostile.handed("files of words", lambda: words_.read(name), 20)
    if found is not None:
      hostile.handed("files of words", lambda: words_.parse(found), 20)


@pytest.mark.slow
@fuzz.some(10, 0.15)
@given(
  size=st.sampled_from(hostile.SIZES),
  mode=st.sampled_from(hostile.MODES),
  words=hostile.often(
    st.sampled_from(
      ["cat, sky", ["קָט", "🐈‍⬛"], {"a": ["b", "c"], "d": "e"}]
      + [[f"w{i}" for i in range(1000)]]
    ),
    _words,
  ),
  threshold=hostile.often(st.sampled_from([None, 0.5, 0, 1e9]), hostile.junk),
  background=st.booleans(),
)
def test_whole_results(
  stored_model, sandbox, size, mode, words, threshold, background
):
  picture = (
    Image.new("RGB", size, (200, 30, 90)).convert(mode)
    if (mode in ("L", "P", "RGB", "CMYK"))
    else Image.new(mode, size)
  )

  def segment():
    return stored_model.segment(
      picture, words, threshold, background=background
    )

  found = hostile.handed("whole results", segment, 60)
  if found is not None:
    hostile.check_result(found, size[::-1])


@pytest.mark.slow
def test_bombs():
  done = subprocess.run(
    [sys.executable, ROOT / "tests" / "bombs.py"],
    capture_output=True,
    text=True,
    timeout=120,
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
  )
  lines = done.stdout.splitlines()
  assert done.returncode == 0 and not done.stderr, done.stderr + done.stdout
  assert len(lines) == 18
  assert int(lines[-1].split()[1]) < 2500, lines  # MB


# ---------------------------------------------- what the fuzz found, one by one


@pytest.mark.parametrize(
  ("picture", "message"),
  [
    (np.broadcast_to(np.uint8(0), (2**20, 2**20, 3)), "more than 268435456"),
    ("/dev/zero", "/dev/zero: is a device"),
    ("a\nb.png", "a b.png: no such picture"),
    ("n" * 9000, "nnn … nnn"),
  ],
)
def test_pictures_that_were_no_line(sandbox, picture, message):
  with hostile.bounded(5), pytest.raises(InputError, match=message) as raised:
    given_.pixels(picture)
  hostile.check_line(str(raised.value))


def test_both_byte_orders_are_the_same_picture():
  values = np.arange(12, dtype=np.uint16).reshape(3, 4) * 20
  found = [given_.pixels(values.astype(order + "u2")) for order in "<>"]
  np.testing.assert_array_equal(*found)
  assert found[0].max() == 1  # 220 of 65,535


def test_too_many_or_too_long_words():
  with pytest.raises(InputError, match="70000 words, more than the 65535"):
    words_.parse([f"w{i}" for i in range(70_000)])
  with pytest.raises(InputError, match="word 2 has 10001 letters"):
    words_.parse(["a", "x" * 10_001])


@pytest.mark.slow
@pytest.mark.parametrize("threshold", ["", [1], 10**400, -1, 1j, np.nan])
def test_thresholds_that_are_none(stored_model, threshold):
  picture = np.zeros((32, 32, 3), np.uint8)
  with pytest.raises(InputError, match="give a score of 0 or more"):
    stored_model.segment(picture, "cat, sky", threshold)
