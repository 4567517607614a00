"""Imports the packages that cases are compared with."""

import importlib
from typing import Any

from sseg_jax.errors import InputError

_HOW = {
  "sklearn": "pip install scikit-learn",
  "torch": "pip install the CPU build of torch",
  "transformers": "pip install transformers, and the CPU build of torch",
}


def need(name: str) -> Any:
  """Returns a module; InputError says how to install a missing one."""
  try:
    return importlib.import_module(name)
  except ImportError as error:
    package = name.partition(".")[0]
    raise InputError(
      f"case: {name} is not installed; {_HOW.get(package, name)}, or choose"
      " other cases"
    ) from error
