"""A run that starts from the weights of another run."""

from typing import Any

import jax
import numpy as np
from absl import logging

from sseg_jax.errors import InputError
from sseg_jax.inference import sources
from sseg_jax.models import sseg


def from_run(
  config: Any, params: sseg.Variables, model_state: sseg.Variables
) -> tuple[sseg.Variables, sseg.Variables]:
  """Takes the arrays that fit from the model that `start_from` names.

  An array fits if it has the same name and shape. The others keep their
  values, and one line of the log says how many and which.

  Args:
    config: fields as in `default_config.py`.
    params: parameters of the new run, nested dictionaries.
    model_state: its running statistics.

  Returns:
    Parameters and statistics.

  Raises:
    InputError: if there is no such model, or none of its parameters fit.
  """
  if not config.start_from:
    return params, model_state
  loaded = sources.read(config.start_from)
  found = _paths(loaded.params)
  new, left = _taken(params, found)
  total = len(jax.tree.leaves(params))
  if len(left) == total:
    raise InputError(
      f"start_from={config.start_from}: none of its parameters has the shape"
      " that this config needs; use the model fields of that run, or leave"
      " start_from out"
    )
  logging.info(
    "start_from=%s: %d of %d arrays are taken%s",
    config.start_from,
    total - len(left),
    total,
    f"; random: {', '.join(_groups(left))}" if left else "",
  )
  return new, _taken(model_state, _paths(loaded.model_state))[0]


def _taken(
  tree: sseg.Variables, found: dict[str, Any]
) -> tuple[sseg.Variables, list[str]]:
  """Returns the tree with the arrays that fit, and the names of the others."""
  left = []

  def take(path: Any, leaf: Any) -> Any:
    name = _name(path)
    other = found.get(name)
    if other is None or np.shape(other) != np.shape(leaf):
      left.append(name)
      return leaf
    return np.asarray(other, leaf.dtype)

  return jax.tree.map_with_path(take, tree), left


def _paths(tree: Any) -> dict[str, Any]:
  return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _name(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator=".")


def _groups(names: list[str]) -> list[str]:
  """Returns the first parts of the names, each once, with their number."""
  parts = [".".join(name.split(".")[:2]) for name in names]
  return [f"{part} ({parts.count(part)})" for part in dict.fromkeys(parts)]
