"""Fields of a config that depend on its `batch_size`, and their check."""

import ml_collections

from sseg_jax.errors import InputError


def check_batch(c: ml_collections.ConfigDict) -> None:
  """Raises InputError for a `batch_size` below 1.

  This is checked first, because other fields are computed from it
  (`follow_batch`).
  """
  if c.batch_size < 1:
    raise InputError(f"batch_size={c.batch_size} must be at least 1")


def follow_batch(
  c: ml_collections.ConfigDict,
  pairs: int,
  *,
  epochs: int = 30,
  warmup_epochs: int = 2,
) -> None:
  """Makes steps and learning rates of `c` depend on its `batch_size`.

  When `batch_size` is overridden later, they are computed again, unless they
  are overridden directly. The number of epochs stays the same. Learning rates
  are proportional to the batch, as in GroupViT, starting from the present
  values in `c`.
  """
  batch = c.get_ref("batch_size")
  epoch = pairs // batch
  c.total_steps = epochs * epoch
  c.optim.warmup_steps = warmup_epochs * epoch
  for name in ("peak_lr", "start_lr", "end_lr"):
    # The number is wrapped in a reference so that the product has type float.
    each = ml_collections.FieldReference(c.optim[name] / c.batch_size)
    c.optim[name] = each * batch
