import pytest

from sseg_jax import prompts
from sseg_jax.errors import InputError


def test_template_counts_and_placeholders():
  counts = {name: len(t) for name, t in prompts.TEMPLATES.items()}
  assert counts == {
    "identity": 1,
    "simple": 1,
    "subset": 7,
    "custom": 9,
    "full": 80,
    "maskclip": 85,
  }
  for templates in prompts.TEMPLATES.values():
    assert len(set(templates)) == len(templates)
    assert all(t.count("{}") == 1 for t in templates)


def test_full_templates_hold_known_ones():
  full = set(prompts.TEMPLATES["full"])
  for template in (
    "graffiti of the {}.",
    "a {} in a video game.",
    "itap of my {}.",
    "a photo of many {}.",
    "a jpeg corrupted photo of the {}.",
    "a photo of a hard to see {}.",
    "a embroidered {}.",
  ):
    assert template in full
  # Both articles went into the sentence.
  assert not [t for t in full if "article" in t]


def test_class_lists():
  names = prompts.CLASS_NAMES
  sizes = {"voc": 20, "voc_original": 20, "context": 59, "coco": 80}
  for name, size in sizes.items():
    assert len(set(names[name])) == size
  assert names["voc"][10] == "table"
  assert names["voc_original"][10] == "diningtable"
  assert names["voc"][14] == "person"
  # Numbers from 1 in the published list: 36 mouse, 47 sky, 59 wood.
  assert names["context"][35] == "mouse"
  assert names["context"][46] == "sky"
  assert names["context_original"][54] == "tvmonitor"
  assert names["coco"][0] == "person" and names["coco"][79] == "toothbrush"


def test_unknown_template_is_named():
  with pytest.raises(InputError, match="'fancy'.*simple"):
    prompts.templates("fancy")


def test_words_are_cleaned():
  assert prompts.parse_words(" cat,  potted   plant ,sky") == (
    "cat",
    "potted plant",
    "sky",
  )
  assert prompts.parse_words(["cat", "dog"]) == ("cat", "dog")


@pytest.mark.parametrize(
  ("words", "message"),
  [
    ("", "empty"),
    (" , ", "empty"),
    ("cat,,dog", "word 2 is empty"),
    ("cat, dog, Cat", "word 3.*'Cat' repeats number 1"),
  ],
)
def test_bad_words(words, message):
  with pytest.raises(InputError, match=message):
    prompts.parse_words(words)


def test_class_list_file(tmp_path):
  path = tmp_path / "classes.txt"
  path.write_text("background\ncat\npotted  plant\n\n")
  assert prompts.read_class_list(path) == ("background", "cat", "potted plant")


@pytest.mark.parametrize(
  ("text", "message"),
  [
    (b"", "is empty"),
    (b"cat\n\ndog\n", ":2: empty line"),
    (b"cat\ndog\ncat\n", ":3: 'cat' repeats number 1"),
    (b"\xff\xfe\x00", "not UTF-8"),
  ],
)
def test_bad_class_list_names_the_line(tmp_path, text, message):
  path = tmp_path / "classes.txt"
  path.write_bytes(text)
  with pytest.raises(InputError, match=f"classes.txt.*{message}|{message}"):
    prompts.read_class_list(path)


def test_missing_class_list(tmp_path):
  with pytest.raises(InputError, match="absent.txt"):
    prompts.read_class_list(tmp_path / "absent.txt")


@pytest.mark.parametrize(
  ("words", "message"),
  [
    ("cat,a\0b", r"word 2, 'a\\x00b', holds U\+0000, which is a control"),
    ("\x1b[31mcat", "U.001B"),
    (["\udcff"], "not UTF-8"),
    ("cat,\u200b", "word 2 is empty"),
    ("cat,\ufeffCAT", "repeats"),
    (["cat", None], "word 2 is None"),
  ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_what_is_no_word(words, message):
  with pytest.raises(InputError, match=message):
    prompts.parse_words(words)


def test_words_of_all_scripts():
  words = ("Katze", "猫", "می‌خواهم", "👩‍🔬")  # two with joiners
  assert prompts.parse_words(",".join(words)) == words
  assert prompts.parse_words("background, sky") == ("background", "sky")
  with pytest.raises(InputError, match="'BackGround'"):
    prompts.parse_words("sky, BackGround", background=True)
