"""The tokenizer against open_clip's, on hard strings and real captions."""

import importlib.util
import json
import pathlib
import random
import unicodedata

import numpy as np
import pytest

from sseg_jax.tokenizer import Tokenizer

ROOT = pathlib.Path(__file__).parents[2]
CAPTIONS = ROOT.parent / "shared/data/coco_captions/captions.jsonl"

HARD = [
  "",
  " ",
  "\t a\n\nb\r\n c \x0b\x0c d",
  "I'm you're he'd she'll we've it's don't",
  "I'M YOU'RE HE'D SHE'LL WE'VE IT'S DON'T",
  "it’s ‘quoted’ “twice” …",
  "'s 't ''s 'x '",
  "1234 3.14 1,000 ½ ² Ⅷ ٣ １２ 𝟙",
  "<start_of_text> <end_of_text> <END_OF_TEXT>a",
  "<|startoftext|> <|endoftext|>",
  "&amp;amp; &lt;b&gt; &#39; &#x1F600; &nbsp; &bogus; &amp",
  "schÃ¶n â€œquoteâ€\x9d l’humanitÃ© Ã¢â‚¬Å“",
  "e\u0301 é ß İ I ı Ω ς Σ ǅ ﬁ ﷺ 𝒜",
  "日本語 한국어 مرحبا שלום हिन्दी ไทย Кириллица",
  "cat日本cat한국1मcat",
  "😀👩‍👩‍👧‍👦🏳️‍🌈 a😀b 👍🏽",
  "\x00\x1b[31mred\x1b[0m \x85 \u2028 \u200b \ufeff \ud800 \U0010ffff",
  'http://x.y/z?a=b&c=d #tag @me a_b --- !!! \\ " ` _ ~',
  "a" * 3000,
  "word " * 500,
  "!" * 500,
]


@pytest.fixture(scope="module")
def tokenizer():
  return Tokenizer()


@pytest.fixture(scope="module")
def reference():
  pytest.importorskip("torch")
  package = importlib.util.find_spec("open_clip")
  if package is None:
    pytest.skip("open_clip_torch is not installed")
  # The file alone: the package would import torchvision.
  path = pathlib.Path(package.origin).with_name("tokenizer.py")
  spec = importlib.util.spec_from_file_location("open_clip_tokenizer", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.SimpleTokenizer()


@pytest.mark.parametrize("text", HARD, ids=range(len(HARD)))
def test_hard_strings(tokenizer, reference, text):
  np.testing.assert_array_equal(tokenizer([text]), reference([text]).numpy())


def hard_strings(count):
  """Strings of letters of all scripts, signs, markers and broken text."""
  rng = random.Random(0)

  def piece():
    if rng.random() < 0.5:
      return rng.choice(HARD[:-3])
    char = chr(rng.randrange(0x2000 if rng.random() < 0.7 else 0x20000))
    # The documented differences: newer letters, and U+0345.
    if unicodedata.category(char) == "Cn" or char == "\u0345":
      return ""
    return char

  return [
    rng.choice(("", " ")).join(piece() for _ in range(rng.randrange(1, 8)))
    for _ in range(count)
  ]


@pytest.mark.slow
def test_five_thousand_hard_strings(tokenizer, reference):
  for text in hard_strings(5000):
    assert tokenizer.encode(text) == reference.encode(text), repr(text)


def test_markers_within_a_text(tokenizer, reference):
  for text in (
    "a<start_of_text>b",
    "!<start_of_text>",  # signs in front take the < with them
    "<end_of_text><start_of_text>'s 12",
  ):
    assert tokenizer.encode(text) == reference.encode(text)


def test_documented_difference(tokenizer, reference):
  assert tokenizer.encode("\u0345") == [137, 483]
  assert reference.encode("\u0345") == []


@pytest.mark.slow
def test_real_captions(tokenizer, reference):
  if not CAPTIONS.exists():
    pytest.skip(f"{CAPTIONS} is missing")
  lines = CAPTIONS.read_text(encoding="utf-8").splitlines()
  texts = [text for line in lines for text in json.loads(line)["captions"]]
  assert len(texts) == 12_926
  np.testing.assert_array_equal(tokenizer(texts), reference(texts).numpy())
