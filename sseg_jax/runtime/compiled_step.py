"""The training step as one program that does not change during a run."""

from collections.abc import Callable
from typing import Any

import jax

from sseg_jax.errors import InputError


class CompiledStep:
  """A step that is compiled once and refuses arguments of other shapes.

  If a shape or a type changes, a jitted function would compile again, without a
  message and for minutes. This one raises an error that names the change. It
  also runs under a transfer guard: an implicit transfer of an array from the
  host or to another device is an error.

  Args:
    step: `jax.jit` of (state, frozen, batch) -> (state, metrics).
  """

  def __init__(self, step: Callable[..., Any]):
    self._step: Any = step
    self._program: Any = None
    self._first: dict[str, str] = {}

  def __call__(
    self, state: Any, frozen: Any, batch: Any
  ) -> tuple[Any, dict[str, jax.Array]]:
    """Takes a step; all arguments are pytrees of arrays on the devices.

    Raises:
      InputError: if the arguments differ from the first call's in shape, type
        or sharding.
    """
    if self._program is None:
      self._first = _described(state, frozen, batch)
      self._program = self._step.lower(state, frozen, batch).compile()
    try:
      with jax.transfer_guard("disallow"):
        return self._program(state, frozen, batch)
    except (TypeError, ValueError) as error:
      now, first = _described(state, frozen, batch), self._first
      changed = [
        f"{name} was {first.get(name, 'absent')}, is {now.get(name, 'absent')}"
        for name in sorted(first | now)
        if first.get(name) != now.get(name)
      ]
      if not changed:
        raise
      raise InputError(
        "the step was compiled for other arguments and is not compiled again:"
        f" {'; '.join(changed[:4])}; make every batch alike"
      ) from error

  def memory(self) -> dict[str, int]:
    """Returns bytes on each device, as compiled, of the last program."""
    found = self._program.memory_analysis()
    names = ("argument", "output", "temp", "alias", "generated_code")
    return {name: getattr(found, f"{name}_size_in_bytes") for name in names}


def _described(state: Any, frozen: Any, batch: Any) -> dict[str, str]:
  """Path of each array -> its type, shape and sharding."""

  def one(x):
    spec = getattr(getattr(x, "sharding", None), "spec", "")
    return f"{x.dtype}{list(x.shape)}" + (f" {spec}" if spec else "")

  tree = {"state": state, "frozen": frozen, "batch": batch}
  paths = jax.tree.flatten_with_path(tree)[0]
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): one(x)
    for path, x in paths
  }
