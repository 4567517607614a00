"""Words that stand for the classes of benchmarks besides their names."""

from collections.abc import Sequence

from sseg_jax.errors import InputError

# Words with which captions name what benchmarks call by another, or a wider,
# name. They were written down from general knowledge of English; the published
# protocols have no such list. Every class that is not here has its name alone.
_PERSON = ("person", "man", "woman", "boy", "girl", "child", "people")
_COMMON: dict[str, tuple[str, ...]] = {
  "person": _PERSON,
  "aeroplane": ("airplane", "plane", "jet"),
  "airplane": ("airplane", "plane", "jet"),
  "bicycle": ("bicycle", "bike"),
  "boat": ("boat", "ship"),
  "cat": ("cat", "kitten"),
  "cell phone": ("cell phone", "phone", "cellphone"),
  "couch": ("couch", "sofa"),
  "dining table": ("dining table", "table"),
  "diningtable": ("dining table", "table"),
  "dog": ("dog", "puppy"),
  "donut": ("donut", "doughnut"),
  "hair drier": ("hair dryer", "blow dryer"),
  "handbag": ("handbag", "purse"),
  "monitor": ("monitor", "screen", "tv", "television"),
  "motorbike": ("motorbike", "motorcycle"),
  "motorcycle": ("motorcycle", "motorbike"),
  "plant": ("plant", "potted plant"),
  "potted plant": ("potted plant", "plant"),
  "pottedplant": ("potted plant", "plant"),
  "refrigerator": ("refrigerator", "fridge"),
  "sheep": ("sheep", "lamb"),
  "sofa": ("sofa", "couch"),
  "sports ball": ("ball",),
  "tie": ("tie", "necktie"),
  "tv": ("tv", "television", "monitor", "screen"),
  "tvmonitor": ("monitor", "screen", "tv", "television"),
}
# Values of `evaluate.synonyms`.
SYNONYMS: dict[str, dict[str, tuple[str, ...]]] = {
  "none": {},
  "common": _COMMON,
}


def of_classes(
  name: str, classes: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
  """Returns for each class the words of the list `name`, or () for "none".

  InputError names the known lists.
  """
  if name not in SYNONYMS:
    raise InputError(
      f"synonyms={name!r} is unknown; use one of {', '.join(SYNONYMS)}"
    )
  table = SYNONYMS[name]
  if not table:
    return ()
  names = set(classes)
  # A word that is a class by itself is no synonym of another class.
  return tuple(
    tuple(w for w in table.get(c, (c,)) if w == c or w not in names) or (c,)
    for c in classes
  )
