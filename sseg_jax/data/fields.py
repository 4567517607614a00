"""A rule for fields that `config_check` and the input pipeline both check."""

from typing import Any


def lanes(config: Any) -> str | None:
  """Returns a message unless `data.lanes` divides `batch_size`."""
  count, batch = config.data.lanes, config.batch_size
  if count >= 1 and not batch % count:
    return None
  return f"data.lanes={count}: must divide batch_size={batch}; choose a divisor"


def stored_regions(config: Any) -> bool:
  """Whether batches hold features of regions in place of pictures.

  That is so for a network with a frozen eye (`models/teacher.py`) that has seen
  the pictures before.
  """
  cached = config.pseudo_masks.mode == "cached"
  return cached and config.model.backbone == "teacher"
