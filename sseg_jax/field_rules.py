"""A rule for a field of a config, and how broken rules are reported.

The rules are beside what they protect: those of a network in
`models/fields.py`, those of a step in `tasks/fields.py`, all others in
`config_check.py`, which checks all of them.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sseg_jax import config_files, default_config
from sseg_jax.errors import InputError

LARGEST = 2**31 - 1  # of whole numbers: steps are int32 on the device


class Rule(NamedTuple):
  """What a field's value must be: a test, and the words for a message."""

  fits: Callable[[Any], bool]
  wanted: str


class Between(NamedTuple):
  """A rule between fields.

  Attributes:
    fields: the names of the fields that it reads.
    broken: takes a config whose `fields` are valid by themselves, and returns a
      message if the rule is broken, else None.
  """

  fields: tuple[str, ...]
  broken: Callable[[Any], str | None]


def at_least(low: int) -> Rule:
  """Returns the rule for whole numbers from `low` to `LARGEST`."""
  return Rule(lambda x: low <= x <= LARGEST, f"at least {low}")


def one_of(*names: str) -> Rule:
  """Returns the rule for a text that is one of `names`."""
  return Rule(lambda x: x in names, f"one of {', '.join(names)}")


def registered(registry: Mapping[str, Any]) -> Rule:
  """Returns the rule for a name in a registry, which may grow later."""
  return Rule(lambda x: x in registry, f"one of {', '.join(sorted(registry))}")


def _is_text(x: str) -> bool:
  try:
    return b"\0" not in x.encode()
  except UnicodeEncodeError:  # half a character
    return False


SWITCH = Rule(lambda x: True, "true or false")
TEXT = Rule(_is_text, "a text that can be the name of a file")
POSITIVE = Rule(lambda x: x > 0, "over 0")
NOT_NEGATIVE = Rule(lambda x: x >= 0, "at least 0")
SHARE = Rule(lambda x: 0 <= x <= 1, "from 0 to 1")
RATE = Rule(lambda x: 0 <= x < 1, "from 0 to below 1")


def _are_scales(x: Sequence[Any]) -> bool:
  numbers = all(type(v) in (int, float) and 0.25 <= v <= 4 for v in x)
  return numbers and 0 < len({*x}) == len(x)


REFINEMENTS = ("none", "pseudo_masks", "clusters")  # of evaluate.refine
SCALES = Rule(_are_scales, "different numbers from 0.25 to 4")


def whole_numbers(x: Sequence[Any], low: int) -> bool:
  """Returns whether these are one to four whole numbers from `low` on."""
  return 1 <= len(x) <= 4 and all(type(v) is int and v >= low for v in x)


def check(
  config: Any, rules: Mapping[str, Rule], between: Sequence[Between] = ()
) -> None:
  """Raises InputError with all `violations`, if there are any."""
  if messages := violations(config, rules, between):
    raise InputError("; ".join(messages))


def violations(
  config: Any, rules: Mapping[str, Rule], between: Sequence[Between] = ()
) -> list[str]:
  """Returns a message for each rule that is broken.

  Args:
    config: fields as in `default_config.py`.
    rules: dotted name of a field -> what its value must be.
    between: rules between fields. A rule is left out if one of its fields is
      wrong by itself.
  """
  wrong = {
    name: text for name in rules if (text := _wrong(config, name, rules[name]))
  }
  return [*wrong.values()] + [
    message
    for fields, broken in between
    if not wrong.keys() & set(fields) and (message := broken(config))
  ]


def _wrong(config: Any, name: str, rule: Rule) -> str | None:
  """Returns what is wrong with a field by itself, or None."""
  kind = types()[name]
  try:
    # JSON has lists where a config has tuples.
    value = config_files.convert(
      name, value_of(config, name), kind, name in config_files.optional()
    )
  except InputError as error:
    return str(error)
  if value is None:
    return None
  finite = kind is not float or math.isfinite(value)
  if finite and rule.fits(value):
    return None
  wanted = rule.wanted if finite else "a finite number"
  return f"{name}={config_files.shown(value, True)}: must be {wanted}"


@functools.cache
def types() -> dict[str, type]:
  """Returns the type of each field of the default config by its dotted name."""
  default = default_config.get_config()
  found = {}
  for name in config_files.names(default):
    *path, last = name.split(".")
    part = value_of(default, ".".join(path)) if path else default
    found[name] = part.get_type(last)
  return found


def value_of(config: Any, name: str) -> Any:
  """Returns the value of the field with this dotted name."""
  for part in name.split("."):
    config = config[part]
  return config
