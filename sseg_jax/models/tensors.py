"""Renames, joins and checks the tensors of a file before they are used."""

import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from sseg_jax.errors import InputError

Rules = Iterable[tuple[str, str | Callable[[re.Match], str]]]


def renamed(name: str, rules: Rules) -> str:
  """Returns `name` after each (pattern, replacement) was applied, in order."""
  for pattern, replacement in rules:
    name = re.sub(pattern, replacement, name)
  return name


def join_qkv(
  arrays: Mapping[str, np.ndarray], parts: str, place: object
) -> dict[str, np.ndarray]:
  """Joins the queries, keys and values of each layer in one array.

  Args:
    arrays: by name; not changed.
    parts: what stands before q, k and v in a name, as ".attn.". For example
      "x.attn.q.bias", "x.attn.k.bias" and "x.attn.v.bias" become
      "x.attn.qkv.bias".
    place: the file, for messages.

  Raises:
    InputError: if one of the three is missing or has another shape.
  """
  arrays = dict(arrays)
  for name in [n for n in arrays if f"{parts}q." in n]:
    three = [name.replace(f"{parts}q.", f"{parts}{part}.") for part in "qkv"]
    for part in three:
      if part not in arrays:
        raise InputError(f"{place}: the tensor {part} is missing")
    shapes = [arrays[part].shape for part in three]
    if not shapes[0] or len(set(shapes)) > 1:
      raise InputError(
        f"{place}: {', '.join(three)} have the shapes"
        f" {', '.join(map(str, shapes))}, which must be equal"
      )
    whole = name.replace(f"{parts}q.", f"{parts}qkv.")
    arrays[whole] = np.concatenate([arrays.pop(part) for part in three])
  return arrays


def check(
  arrays: Mapping[str, np.ndarray],
  shapes: Mapping[str, tuple[int, ...]],
  place: object,
) -> None:
  """Raises InputError unless the arrays are those of `shapes`, and finite."""
  missing = [name for name in shapes if name not in arrays]
  extra = [name for name in arrays if name not in shapes]
  for what, names in (("missing", missing), ("left over", extra)):
    if names:
      shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
      raise InputError(
        f"{place}: {len(names)} tensors are {what}: {shown}; these are weights"
        " of another network"
      )
  for name, shape in shapes.items():
    if arrays[name].shape != shape:
      raise InputError(
        f"{place}: {name} has shape {arrays[name].shape} where {shape} is"
        " needed; these are weights of another network"
      )
    if arrays[name].dtype != np.float32:
      raise InputError(
        f"{place}: {name} holds {arrays[name].dtype}, where floats are needed"
      )
    if not np.isfinite(arrays[name]).all():
      raise InputError(
        f"{place}: {name} holds NaN or infinite values; get the file again"
      )
