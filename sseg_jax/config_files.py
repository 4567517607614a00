"""Reads configs from Python files, and overrides their fields.

All commands that take `--config` call `load`, and then `overridden` with the
fields that are given as `--config.FIELD=VALUE` or `--set FIELD=VALUE`.
"""

import ast
import copy
import difflib
import functools
import importlib.util
import os
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sseg_jax import default_config, files
from sseg_jax.errors import InputError

_TRUE, _FALSE = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")
# The published configs: inside the package where it was installed from a wheel,
# beside it in a clone.
_FOLDERS = (
  Path(__file__).parent / "configs",
  Path(__file__).parents[1] / "configs",
)
_CONFIGS = next((f for f in _FOLDERS if f.is_dir()), _FOLDERS[0])


def load(path: str | os.PathLike) -> ConfigDict:
  """Returns the config that a Python file's `get_config()` returns, locked.

  Args:
    path: of the file; a leading `~` is the home folder. A bare name, such as
      "quickstart", is one of the configs that come with the package.

  Raises:
    InputError: if there is no such file, if it is not Python, if it has no
      `get_config`, or if `get_config` raises or returns something else.
  """
  given, file = f"config={os.fspath(path)}", _file(path)
  if not file.is_file():
    raise InputError(f"{given}: {_missing(file)}")
  spec = importlib.util.spec_from_file_location("sseg_jax_config", file)
  if file.suffix != ".py" or spec is None or spec.loader is None:
    raise InputError(
      f"{given}: not a Python file; give one whose name ends in .py"
    )
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    make = getattr(module, "get_config", None)
    if not callable(make):
      raise InputError(
        f"{given}: has no function get_config; configs/ has examples"
      )
    config = make()
  except InputError:
    raise
  except SyntaxError as error:
    raise InputError(
      f"{given}: not Python, line {error.lineno}: {error.msg}"
    ) from error
  except UnicodeDecodeError as error:
    raise InputError(f"{given}: not Python: it is not UTF-8") from error
  # The user's code may raise anything, `sys.exit` included.
  except (Exception, SystemExit) as error:
    raise InputError(f"{given}: {_raised(error, file)}") from error
  if not isinstance(config, ConfigDict):
    raise InputError(
      f"{given}: get_config returns {type(config).__name__}; return what"
      " sseg_jax.default_config.get_config() gives, with changes"
    )
  return config.lock()


def published() -> list[str]:
  """Returns the names of the configs that come with the package."""
  return sorted(path.stem for path in _CONFIGS.glob("[!_]*.py"))


def _file(path: str | os.PathLike) -> Path:
  name, file = os.fspath(path), Path(files.expand(path))
  if name in published() and not file.is_file():
    return _CONFIGS / f"{name}.py"
  return file


def _missing(file: Path) -> str:
  if file.is_dir():
    return "is a folder; give a file of it"
  # One without the suffix is meant by its whole name.
  wanted = file.name if file.suffix else f"{file.name}.py"
  if file.parent.is_dir():
    names = sorted(p.name for p in file.parent.glob("*.py"))
    if close := difflib.get_close_matches(wanted, names, 1):
      return f"no such file; did you mean {file.parent / close[0]}?"
  if close := difflib.get_close_matches(Path(wanted).stem, published(), 1):
    return f"no such file; did you mean --config={close[0]}?"
  return (
    "no such file; give one of your own, or one of the names"
    f" {', '.join(published())}"
  )


def _raised(error: BaseException, file: Path) -> str:
  """Returns a message: what the user's code raised, and at which line."""
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if Path(frame.filename) == file
  ]
  where = f" at line {lines[-1]}" if lines else ""
  text = " ".join(str(error).split())
  return f"raises {type(error).__name__}{where}: {text}"


def parse_settings(texts: Sequence[str]) -> dict[str, str]:
  """Returns field -> value, as texts, of texts "field=value".

  `overridden` converts the values to the types of the fields. Raises InputError
  if a text has no "=" or no field.
  """
  settings = {}
  for text in texts:
    field, equals, value = text.partition("=")
    if not equals or not field:
      raise InputError(f"set={text!r}: give field=value")
    settings[field] = value
  return settings


def overridden(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
  """Returns a copy of a config with other values of some fields.

  Fields that depend on a replaced field (`default_config.follow_batch`) change
  with it.

  Args:
    config: the config; it is not changed.
    overrides: dotted name of a field -> its value, or the value as the text of
      a command line.

  Raises:
    InputError: if fields do not exist or have another type; names all of them.
  """
  config = copy.deepcopy(config)
  wrong = []
  for field, value in overrides.items():
    try:
      *path, name = field.split(".")
      node = config
      for part in path:
        node = node[part]
      # The type, not the old value, which may depend on a wrong field.
      kind = node.get_type(name)
      node[name] = convert(field, value, kind, field in optional())
    except InputError as error:
      wrong.append(str(error))
    except (KeyError, AttributeError, TypeError):
      wrong.append(
        f"{shown(field)}={shown(value)}: there is no such field; {hint(field)}"
      )
  if wrong:
    raise InputError("; ".join(wrong))
  default_config.check_batch(config)
  return config


@functools.cache
def optional() -> frozenset[str]:
  """Returns the fields that may be None: those that are None by default."""
  default = default_config.get_config()
  found = []
  for name in names(default):
    value: Any = default
    for part in name.split("."):
      value = value[part]
    if value is None:
      found.append(name)
  return frozenset(found)


def convert(field: str, value: Any, kind: type, or_none: bool = False) -> Any:
  """Returns a value, converted to the type of its field.

  Args:
    field: name of the field, for messages.
    value: a value of that type, or a text that stands for one.
    kind: type of the field: bool, int, float, str or tuple.
    or_none: whether the value may be None, or "none" as a text.

  Raises:
    InputError: if the value cannot be converted.
  """
  if or_none and (value is None or str(value).lower() == "none"):
    return None
  try:
    if kind is bool and isinstance(value, str):
      return _bool(value)
    if kind in (int, float) and isinstance(value, str):
      return kind(value)
    if kind is tuple and isinstance(value, str):
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns about odd texts
        read = ast.literal_eval(value.strip())
      return tuple(read) if isinstance(read, list) else _same(read, tuple)
    if kind is tuple and isinstance(value, list | tuple):
      return tuple(value)
    if kind is float and type(value) is int:
      return float(value)
    if kind in _KINDS:
      return _same(value, kind)
  # These are all errors that `literal_eval` raises.
  except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
    pass
  except OverflowError:
    pass
  wanted = _KINDS.get(kind, "left as it is: it is a group of fields")
  wanted += " or none" if or_none else ""
  raise InputError(f"{field}={shown(value, True)}: must be {wanted}")


def shown(value: Any, quoted: bool = False) -> str:
  """Returns a value as a short text without line breaks, for a message."""
  text = value if isinstance(value, str) else repr(value)
  if isinstance(value, str) and (quoted or not value.isprintable()):
    text = ascii(value) if not value.isprintable() else repr(value)
  return text if len(text) < 80 else f"{text[:60]} …"


_KINDS = {
  bool: "true or false",
  int: "a whole number",
  float: "a number",
  str: "a text",
  tuple: 'several values, as "(0.4, 1.0)"',
}


def _same(value: Any, kind: type) -> Any:
  if type(value) is not kind:
    raise TypeError(value)
  return value


def _bool(text: str) -> bool:
  lower = text.strip().lower()
  if lower not in _TRUE + _FALSE:
    raise ValueError(text)
  return lower in _TRUE


def hint(field: str) -> str:
  """Returns a hint that names the field that was probably meant."""
  fields = list(names(default_config.get_config()))
  # Compare the last part alone as well: the group may be the wrong one.
  by_last = {name.rpartition(".")[2]: name for name in fields}
  if close := difflib.get_close_matches(field, fields, 1):
    return f"did you mean {close[0]}?"
  if found := by_last.get(field.rpartition(".")[2]):
    return f"did you mean {found}?"
  return "see sseg_jax/default_config.py"


def names(config: ConfigDict, prefix: str = "") -> list[str]:
  """Returns the dotted names of all fields; computes no value."""
  found = []
  for name in config:
    if config.get_type(name) is ConfigDict:
      found += names(config[name], f"{prefix}{name}.")
    else:
      found.append(prefix + name)
  return found
