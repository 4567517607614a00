"""Systems that are trained here, by `main`: which one a checkpoint is."""

from typing import Any

from sseg_jax.errors import InputError

# Name of `evaluate --system` -> field, value and config file of its network.
TRAINED = {
  "b2": ("query_embedding", "segments", "b2.py"),
  "linear_probe": ("head", "linear", "linear_probe_voc.py"),
  "maskformer": ("head", "classes", "maskformer_supervised_voc.py"),
}
METHOD = "sseg"


def is_trained(name: str | None) -> bool:
  """Whether `--system` is scored from a checkpoint; None is the method."""
  return name in (None, METHOD, *TRAINED)


def system_of(config: Any, wanted: str = "") -> str:
  """Returns the name of a trained network's system.

  Args:
    config: of the run.
    wanted: what `--system` says; "" takes any.

  Raises:
    InputError: if the network is another system than the wanted one.
  """
  found = METHOD
  for name, (field, value, _) in TRAINED.items():
    # The form of the embedding means nothing to a fixed list of classes.
    if field == "head" or config.model.head == "text":
      found = name if config.model[field] == value else found
  if wanted in ("", found):
    return found
  file = TRAINED[wanted][2] if wanted in TRAINED else "cc26m.py"
  raise InputError(
    f"--system={wanted}: the checkpoint is one of {found}; leave --system out,"
    f" or give a run of configs/{file}"
  )
