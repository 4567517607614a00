"""The classes to find, and the words that stand for them."""

import dataclasses
import itertools

import numpy as np
from jaxtyping import Int

from sseg_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class ClassSet:
  """The classes to find.

  Attributes:
    names: one a class, without background.
    templates: of prompts.
    synonyms: for each class the words that stand for it, the best of which
      counts in each query; () where these are the names themselves.
  """

  names: tuple[str, ...]
  templates: tuple[str, ...] = ("a photo of a {}.",)
  synonyms: tuple[tuple[str, ...], ...] = ()

  def __post_init__(self):
    """Checks the fields."""
    if self.synonyms and len(self.synonyms) != len(self.names):
      raise InputError(
        f"{len(self.synonyms)} lists of synonyms for {len(self.names)} names;"
        " give one list a name"
      )
    if not all(self.synonyms):
      raise InputError("a list of synonyms is empty; give at least one word")
    if not self.names or not all(name.strip() for name in self.names):
      raise InputError(f"class names {self.names!r}: give non-empty names")
    for template in self.templates:
      if "{}" not in template:
        raise InputError(
          f"template {template!r} has no {{}} for the class name"
        )
    if not self.templates:
      raise InputError("templates is empty; give at least one, e.g. '{}'")

  @property
  def words(self) -> tuple[str, ...]:
    """What the text tower reads: all synonyms, or the names."""
    return tuple(itertools.chain(*self.synonyms)) or self.names

  @property
  def prompts(self) -> list[str]:
    """Every word in every template, words outermost."""
    return [t.replace("{}", n) for n in self.words for t in self.templates]

  def members(self) -> Int[np.ndarray, "c m"] | None:
    """Returns indices into `words` for each class; None without synonyms.

    Classes with fewer synonyms than others repeat their first.
    """
    if not self.synonyms:
      return None
    most = max(len(words) for words in self.synonyms)
    rows, first = [], 0
    for words in self.synonyms:
      own = list(range(first, first + len(words)))
      rows.append(own + [first] * (most - len(words)))
      first += len(words)
    return np.array(rows, np.int32)
