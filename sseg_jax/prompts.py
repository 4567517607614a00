"""Prompt templates, class-name lists and the reader of class-list files.

This module needs neither JAX nor TensorFlow. Names and templates are those of
the published protocols, because another name of a class changes every score.
"""

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from sseg_jax import scene_classes
from sseg_jax.errors import InputError

# With background 16 bits, as in the largest label map (`images.writer`).
MOST_WORDS = 2**16 - 1
_LONGEST_WORD = 10_000  # letters; the text tower reads some hundred

_PHOTO_OF_ADJECTIVE = (
  "clean",
  "cool",
  "dirty",
  "hard to see",
  "large",
  "nice",
  "small",
  "weird",
)
_ADJECTIVE_PHOTO = (
  "bad",
  "black and white",
  "blurry",
  "bright",
  "close-up",
  "cropped",
  "dark",
  "good",
  "jpeg corrupted",
  "low resolution",
  "pixelated",
)
_DEPICTION = (
  "a doodle",
  "a drawing",
  "a painting",
  "a rendering",
  "a rendition",
  "a sculpture",
  "a sketch",
  "a tattoo",
  "art",
  "graffiti",
)
_MATERIAL = ("cartoon", "embroidered", "origami", "plastic", "plushie", "toy")


def _full() -> tuple[str, ...]:
  """CLIP's 80 ImageNet templates (CLIP, Prompt_Engineering notebook).

  They are 38 phrases with both articles and four more; the order does not
  matter, because embeddings are averaged over templates.
  """
  phrases = [
    f"a photo of {{article}} {word} {{}}." for word in _PHOTO_OF_ADJECTIVE
  ]
  phrases += [
    f"a {word} photo of {{article}} {{}}." for word in _ADJECTIVE_PHOTO
  ]
  phrases += [f"{kind} of {{article}} {{}}." for kind in _DEPICTION]
  phrases += [f"{{article}} {word} {{}}." for word in _MATERIAL]
  phrases += [
    "a photo of {article} {}.",
    "itap of {article} {}.",
    "{article} {} in a video game.",
  ]
  both = [
    phrase.replace("{article}", article)
    for phrase in phrases
    for article in ("a", "the")
  ]
  single = [
    "a photo of many {}.",
    "a photo of my {}.",
    "a photo of one {}.",
    "itap of my {}.",
  ]
  return tuple(both + single)


# GroupViT, datasets/imagenet_template.py.
_SUBSET = (
  "itap of a {}.",
  "a bad photo of a {}.",
  "a origami {}.",
  "a photo of the large {}.",
  "a {} in a video game.",
  "art of the {}.",
  "a photo of the small {}.",
)

TEMPLATES: dict[str, tuple[str, ...]] = {
  "identity": ("{}",),
  "simple": ("a photo of a {}.",),
  "subset": _SUBSET,
  # TCL, datasets/templates.py: the seven and two plurals.
  "custom": (*_SUBSET, "a photo of many {}.", "a photo of {}s."),
  "full": _full(),
  # MaskCLIP, tools/maskclip_utils/prompt_engineering.py: CLIP's 80 and five of
  # scenes.
  "maskclip": (
    *_full(),
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
  ),
}

# fmt: off
_VOC_ORIGINAL = (
  "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat",
  "chair", "cow", "diningtable", "dog", "horse", "motorbike", "person",
  "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
_CONTEXT = (
  "airplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat",
  "book", "bottle", "building", "bus", "cabinet", "car", "cat", "ceiling",
  "chair", "cloth", "computer", "cow", "cup", "curtain", "dog", "door",
  "fence", "floor", "flower", "food", "grass", "ground", "horse", "keyboard",
  "light", "motorbike", "mountain", "mouse", "person", "plate", "platform",
  "plant", "road", "rock", "sheep", "shelves", "sidewalk", "sign", "sky",
  "snow", "sofa", "table", "track", "train", "tree", "truck", "monitor",
  "wall", "water", "window", "wood",
)
_COCO = (
  "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train",
  "truck", "boat", "traffic light", "fire hydrant", "stop sign",
  "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
  "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag",
  "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
  "baseball bat", "baseball glove", "skateboard", "surfboard",
  "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon",
  "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot",
  "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant",
  "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote",
  "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
  "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
  "hair drier", "toothbrush",
)
# fmt: on


def _renamed(names: Sequence[str], renames: dict[str, str]) -> tuple[str, ...]:
  return tuple(renames.get(name, name) for name in names)


# If the first line of a class list is one of these names, label 0 is the
# background. The last two names are those that labelme writes.
BACKGROUND = ("background", "bg", "_background_", "__background__")

# "voc", "context" and "coco" are spelt as GroupViT, OVSegmentor and SegCLIP
# prompt with them (GroupViT, segmentation/datasets). The "_original" lists are
# mmsegmentation's, which TCL uses. No list contains the background.
CLASS_NAMES: dict[str, tuple[str, ...]] = {
  "voc": _renamed(
    _VOC_ORIGINAL,
    {"diningtable": "table", "pottedplant": "plant", "tvmonitor": "monitor"},
  ),
  "voc_original": _VOC_ORIGINAL,
  # MaskCLIP, tools/maskclip_utils/prompt_engineering.py.
  "voc_maskclip": _renamed(
    _VOC_ORIGINAL,
    {
      "aeroplane": "airplane",
      "diningtable": "dining table",
      "pottedplant": "potted plant",
      "tvmonitor": "tv monitor",
    },
  ),
  "context_maskclip": _renamed(
    _CONTEXT, {"plant": "potted plant", "monitor": "tv monitor"}
  ),
  "context": _CONTEXT,
  "context_original": _renamed(
    _CONTEXT,
    {"airplane": "aeroplane", "plant": "pottedplant", "monitor": "tvmonitor"},
  ),
  "coco": _COCO,
  "ade20k": scene_classes.ADE20K,
  "cityscapes": scene_classes.CITYSCAPES,
  "coco_stuff": (*_COCO, *scene_classes.STUFF),
}


def templates(name: str) -> tuple[str, ...]:
  """Returns the templates called `name`; InputError names the known ones."""
  if name not in TEMPLATES:
    raise InputError(
      f"templates={name!r} is unknown; use one of {', '.join(TEMPLATES)}"
    )
  return TEMPLATES[name]


def parse_words(
  words: str | Sequence[str], *, background: bool = False
) -> tuple[str, ...]:
  """Cleans class names; a string is split at its commas.

  Blanks around a word, repeated blanks, and invisible marks around a word are
  removed. With `background`, pixels that fit no word are called "background".

  Raises:
    InputError: a word is empty, occurs twice (capitals do not count), contains
      characters that are not text, has more than 10,000 of them, or is
      "background" with `background`; or there are more than `MOST_WORDS`.
  """
  if isinstance(words, str):
    words = words.split(",")
  if len(words) > MOST_WORDS:
    raise InputError(
      f"words has {len(words)} words, more than the {MOST_WORDS} of a label"
      " map; give fewer"
    )
  for number, word in enumerate(words, 1):
    if not isinstance(word, str):
      raise InputError(f"words: word {number} is {word!r}, not a text")
    if len(word) > _LONGEST_WORD:
      raise InputError(
        f"words: word {number} has {len(word)} letters, more than"
        f" {_LONGEST_WORD}; a comma may be missing"
      )
  names = tuple(_trimmed(word) for word in words)
  if not any(names):
    raise InputError("words is empty; give at least one, e.g. 'cat, sky'")
  if "" in names:
    raise InputError(
      f"words={', '.join(words)!r}: word {names.index('') + 1} is empty; remove"
      " a comma"
    )
  for number, name in enumerate(names, 1):
    _refuse_no_text(name, f"words: word {number}")
    if background and name.casefold() == "background":
      raise InputError(
        f"words: word {number} is {name!r}, the name of pixels that fit no"
        " word; leave it out, or give every pixel a word (--no_background)"
      )
  _refuse_duplicates(names, lambda i: f"words: word {i + 1}")
  return names


def _trimmed(word: str) -> str:
  word = " ".join(word.split())
  marks = {c for c in word if unicodedata.category(c) == "Cf"}
  return word.strip("".join(marks) + " ")


def _refuse_no_text(name: str, place: str) -> None:
  """InputError for control characters and for bytes that were not UTF-8."""
  for character in name:
    kind = unicodedata.category(character)
    if kind in ("Cc", "Cs"):
      what = "a control character" if kind == "Cc" else "not UTF-8"
      raise InputError(
        f"{place}, {name!a}, holds U+{ord(character):04X}, which is {what};"
        " type it anew"
      )


def read_class_list(path: str | os.PathLike) -> tuple[str, ...]:
  """Reads a class list: UTF-8, one name a line.

  InputError names the line for an empty line, a duplicate (compared without
  case) or an undecodable file. Blank lines at the end are allowed.
  """
  path = Path(path)
  try:
    text = path.read_text(encoding="utf-8-sig")
  except OSError as error:
    raise InputError(
      f"{path}: cannot read the class list ({error.strerror}); it holds one"
      " class name a line"
    ) from error
  except UnicodeDecodeError as error:
    raise InputError(
      f"{path}: the class list is not UTF-8 text; save it as UTF-8"
    ) from error
  names = tuple(" ".join(line.split()) for line in text.rstrip().splitlines())
  if not any(names):
    raise InputError(f"{path}: the class list is empty; write one name a line")
  if "" in names:
    raise InputError(
      f"{path}:{names.index('') + 1}: empty line; remove it, since a line's"
      " number is its class's label"
    )
  for number, name in enumerate(names, 1):
    _refuse_no_text(name, f"{path}:{number}: the name")
  _refuse_duplicates(names, lambda i: f"{path}:{i + 1}")
  return names


def without_background(
  names: tuple[str, ...], place: object
) -> tuple[tuple[str, ...], bool]:
  """Takes the background off the front of a class list.

  Args:
    names: as `read_class_list` returns them.
    place: names the list in messages.

  Returns:
    The other names, and whether the first one was `background`, in any
    capitals, or another of `BACKGROUND`. InputError if there is no other name,
    or if it stands further down, where it would be looked for as a thing.
  """
  has_background = names[0].lower() in BACKGROUND
  classes = names[1:] if has_background else names
  if not classes:
    raise InputError(f"{place}: lists only the background; add the classes")
  for i, name in enumerate(names[1:], 2):
    if name.lower() in BACKGROUND:
      raise InputError(
        f"{place}:{i}: {name!r} must be the first line, as the background is"
        " label 0; move it there and renumber the labels, or use another word"
      )
  return classes, has_background


def _refuse_duplicates(names: Sequence[str], place) -> None:
  first: dict[str, int] = {}
  for i, name in enumerate(names):
    before = first.setdefault(name.lower(), i)
    if before != i:
      raise InputError(
        f"{place(i)}: {name!r} repeats number {before + 1}; class names must"
        " differ"
      )
