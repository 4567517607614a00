"""Whether pseudo-masks and features in records fit a config."""

from collections.abc import Iterable, Mapping
from typing import Any

from absl import logging

from sseg_jax.data import manifest, region_views
from sseg_jax.errors import InputError

# Settings that the manifest does not store, or that are checked separately.
_NOT_STORED = ("mode", "weights", "k")


def tell_of_others(config, stored: Mapping[str, Any], folder: str) -> None:
  """Warns if stored pseudo-masks were made with other settings."""
  now = {**config.pseudo_masks, "seed": config.seed}
  found = [
    f"{name}={stored[name]!r}, not {now[name]!r}"
    for name in now
    if name in stored and name not in _NOT_STORED and stored[name] != now[name]
  ]
  if found:
    logging.warning(
      "%s: its pseudo-masks are used, made with pseudo_masks.%s",
      folder,
      ", ".join(found),
    )


def check_views(manifests: Iterable[manifest.Manifest]) -> None:
  """Raises InputError unless the features of all folders have as many views."""
  views = {
    m.folder: region_views.stored(m.info["pseudo_masks"]["region_features"])[0]
    for m in manifests
  }
  if len(set(views.values())) > 1:
    told = ", ".join(f"{folder} has {count}" for folder, count in views.items())
    raise InputError(
      f"config.data.train: the views of regions differ ({told}); make them"
      " again with the same --region_views"
    )


def check_regions(config, made: Mapping[str, Any], folder: str) -> None:
  """Raises InputError unless records hold the regions that a config has."""
  stored = made.get("region_features")
  again = "make them with prepare --add_pseudo_masks --add_region_features"
  if stored is None:
    raise InputError(
      f"{folder} holds no features of regions, which model.backbone='teacher'"
      f" reads with pseudo_masks.mode='cached'; {again}, or use 'online'"
    )
  wanted = {
    name: config.model[name]
    for name in ("teacher", "teacher_features", "teacher_more_k")
  }
  for name, value in wanted.items():
    now = list(value) if isinstance(value, (list, tuple)) else value
    if stored[name] != now:
      raise InputError(
        f"{folder} holds features of regions made with model.{name}="
        f"{stored[name]!r}, but the config has {now!r}; make the two equal, or"
        f" {again}"
      )
