"""Pytrees of arrays on disk, every array under its name.

Every pytree is stored as nested dicts with string keys. So a part can be read
without the classes of the rest, for example parameters without the optimizer's
state.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from sseg_jax import errors
from sseg_jax.errors import InputError


def restore(folder: epath.Path, abstract_state: Any) -> Any:
  """Reads what `abstract_state` asks for; see `Checkpoints.restore`."""
  wanted = flat(abstract_state)
  found = stored(folder)
  for name in [*wanted, *found]:
    asked, has = _describe(wanted.get(name)), _describe(found.get(name))
    if asked != has:
      raise InputError(
        f"{folder} is of another model: {name} is {has} there and {asked} here;"
        " use the configuration it was trained with or another work directory"
      )
  values = read(folder, wanted)
  treedef = jax.tree.structure(abstract_state)
  return jax.tree.unflatten(treedef, [values[name] for name in wanted])


def _describe(array: Any) -> str:
  if array is None:
    return "missing"
  return f"{np.dtype(array.dtype).name}{list(array.shape)}"


def stored(folder: epath.Path) -> dict[str, Any]:
  """Shapes and types of the arrays stored, by name."""
  with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
    return flat(handler.metadata(folder / "state").tree)


def read_parts(folder: epath.Path, parts: Sequence[str]) -> dict[str, Any]:
  """Reads the arrays below some names, as NumPy arrays.

  InputError if the files are not those of a checkpoint: they may be whole and
  still be of another program, or of none.
  """
  try:
    wanted = {
      name: leaf
      for name, leaf in stored(folder).items()
      if name.split("/")[0] in parts
    }
    return read(folder, wanted)
  except Exception as error:  # Orbax and its storage raise many kinds
    raise InputError(
      f"{folder} is no checkpoint of sseg_jax ({errors.brief(error)}); restore"
      " it from a copy"
    ) from error


def read(folder: epath.Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
  """Reads the arrays named; those with a sharding as `jax.Array`.

  Processes do not wait for one another, so one can read without the others.
  Orbax's `Checkpointer` would wait for all.
  """

  def how(leaf: Any) -> ocp.RestoreArgs:
    sharding = getattr(leaf, "sharding", None)
    if isinstance(sharding, jax.sharding.Sharding):
      return ocp.ArrayRestoreArgs(sharding=sharding, global_shape=leaf.shape)
    return ocp.RestoreArgs(restore_type=np.ndarray)

  names = nested({name: name for name in wanted})
  args = ocp.args.PyTreeRestore(
    item=names,
    restore_args=nested({name: how(leaf) for name, leaf in wanted.items()}),
    partial_restore=True,
  )
  with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
    return flat(handler.restore(folder / "state", args=args))


def on_device(tree: Any) -> Any:
  """Copies numpy's arrays of a pytree to the device; keeps those of JAX.

  `jnp.asarray` would compile a program for each new shape. `jax.device_put`
  alone may share the memory of the caller, who may write to it later.
  """
  return jax.tree.map(
    lambda x: x if isinstance(x, jax.Array) else jax.device_put(np.array(x)),
    tree,
  )


def flat(tree: Any) -> dict[str, Any]:
  """Leaves by name, as "params/blocks/0/kernel"."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in leaves
  }


def _is_index(key: str) -> bool:
  # As `str` writes it: "01" and "²" are names.
  return key == "0" or (
    key.isascii() and key.isdigit() and key[0] != "0" and len(key) < 10
  )


def nested(leaves: Mapping[str, Any], *, int_keys: bool = False) -> dict:
  """Nested dicts from leaves by name.

  Args:
    leaves: as `flat` returns them.
    int_keys: whether keys of digits become ints, as in lists of NNX.
  """
  tree: dict = {}
  for name, leaf in leaves.items():
    keys: list[Any] = name.split("/")
    if int_keys:
      keys = [int(key) if _is_index(key) else key for key in keys]
    node = tree
    for key in keys[:-1]:
      node = node.setdefault(key, {})
    node[keys[-1]] = leaf
  return tree
