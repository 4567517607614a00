"""Views of a picture whose regions are stored: whole, mirrored, and crops.

Stored features know no augmentation, unless a record holds those of several
views, of which each step takes one at random.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from sseg_jax.data import augment, decode, import_tensorflow, order

_VIEW = 2  # a stream of `order.AUGMENT`; crops and colours have 0 and 1


def fields(config: Any, views: int) -> dict[str, Any]:
  """Returns what the views depend on, as a manifest keeps it."""
  if views == 1:
    return {}
  kept: dict[str, Any] = {"views": views}
  if views > 2:
    for name in ("crop_scale", "crop_ratio"):
      kept[name] = list(config.data[name])
  return kept


def stored(made: Mapping[str, Any]) -> tuple[int, int, int]:
  """Returns views, regions and features of a manifest's `region_features`."""
  return made.get("views", 1), made["regions"], made["width"]


def drawn(
  seed: int, ids: np.ndarray, epochs: np.ndarray, views: int
) -> Int[np.ndarray, "b"]:
  """Returns the view that each record shows in its epoch."""
  random = order.mix(seed, ids, epochs, order.AUGMENT, _VIEW)
  return (random % np.uint64(views)).astype(np.int64)


def pictures(
  data: bytes, size: int, views: int, config: Any, number: int
) -> UInt8[np.ndarray, "{views} {size} {size} 3"] | None:
  """Returns the views of a picture; None if it cannot be decoded.

  The first is the whole picture, its sides made equal, the second the same
  mirrored. The others are crops as `data.crop_scale` and `data.crop_ratio` ask
  for, half of them mirrored.

  Args:
    data: JPEG, PNG, GIF or BMP bytes.
    size: side of the views.
    views: how many, at least 1.
    config: a whole config.
    number: of the record, which crops depend on.
  """
  tf = import_tensorflow()
  try:
    image = decode.image(data)
  except tf.errors.OpError:
    return None
  sides = tf.cast(tf.shape(image)[:2], tf.float32)
  box = tf.concat([tf.zeros(2), sides], 0)
  crops = [
    augment.Crop(box, sides, tf.constant(mirrored))
    for mirrored in (False, True)[:views]
  ]
  for view in range(2, views):
    drawn_from = order.mix(config.seed, number, view, order.AUGMENT, _VIEW)
    crops.append(
      augment.random_crop(
        tf.shape(image)[:2],
        tf.constant(drawn_from.view(np.int32)),
        scale=config.data.crop_scale,
        ratio=config.data.crop_ratio,
        flip=0.5,
      )
    )
  return np.stack(
    [
      augment.to_uint8(augment.crop_image(image, crop, size)).numpy()
      for crop in crops
    ]
  )
