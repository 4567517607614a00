"""Configurations of earlier runs, as this version reads them."""

from collections.abc import Mapping
from typing import Any

import ml_collections

from sseg_jax import default_config

# The default threshold until 2026: GroupViT's for VOC. The scores of most
# combiners never reach it.
_OLD_THRESHOLD = 0.95


def completed(
  stored: Mapping[str, Any] | ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
  """Returns a stored configuration, completed with fields added since then.

  These fields get their defaults, which do not change the stored network. A
  background threshold that equals the old default is removed.
  """
  if isinstance(stored, ml_collections.ConfigDict):
    stored = stored.to_dict()

  def merge(default, stored):
    return {
      **default,
      **{
        name: merge(default[name], value)
        if isinstance(value, Mapping) and isinstance(default.get(name), Mapping)
        else value
        for name, value in stored.items()
      },
    }

  config = ml_collections.ConfigDict(
    merge(default_config.get_config().to_dict(), stored)
  )
  if config.evaluate.background_threshold == _OLD_THRESHOLD:
    config.evaluate.background_threshold = None
  return config
