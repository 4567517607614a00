"""Rules for fields that `config_check` and the input pipeline both check."""

from collections.abc import Sequence
from typing import Any

from sseg_jax.data import order
from sseg_jax.errors import InputError


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


def learns_masks(config: Any) -> bool:
  """Whether a batch with features of regions has some of the pictures as well.

  They are every `loss.mask_every`-th; the others are black.
  """
  return stored_regions(config) and config.model.teacher_masks


def weights(text: str) -> list[float] | None:
  """Returns the numbers of `data.weights`; None unless all are over 0."""
  try:
    found = [float(part) for part in text.split(",")]
  except ValueError:
    return None
  return found if all(0 < x < float("inf") for x in found) else None


def lane_bounds(config: Any, counts: Sequence[int]) -> list[int] | None:
  """Returns the first record of each lane, as `order.weighted_bounds`.

  Args:
    config: the whole configuration.
    counts: records of each folder of `data.train`.

  Returns:
    None if `data.weights` is empty: then all records have the same weight.

  Raises:
    InputError: the weights do not fit the folders, or a folder has too few
      records for its share of a batch.
  """
  text = config.data.weights
  if not text:
    return None
  lanes, numbers = config.data.lanes, weights(text)
  if numbers is None or len(numbers) != len(counts):
    raise InputError(
      f"config.data.weights={text!r}: must be a number over 0 for each of the"
      f" {len(counts)} folders of config.data.train, with commas between them"
    )
  if len(counts) > lanes:
    raise InputError(
      f"config.data.lanes={lanes}: config.data.weights needs at least one lane"
      f" for each of the {len(counts)} folders"
    )
  shared = order.lanes_of(numbers, lanes)
  for number, (count, own) in enumerate(zip(counts, shared, strict=True)):
    needed = own * config.batch_size // lanes
    if count < needed:
      raise InputError(
        f"config.data.weights={text!r}: each batch takes {needed} records from"
        f" folder {number + 1} of config.data.train, which holds {count}; give"
        " it a smaller weight, or choose a smaller batch"
      )
  return order.weighted_bounds(counts, numbers, lanes)
