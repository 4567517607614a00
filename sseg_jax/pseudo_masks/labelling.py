"""Labels and features of the records of a shard, batch by batch."""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sseg_jax.data import records, region_views
from sseg_jax.pseudo_masks import eye, generator


class Labeller:
  """Gives each record of a shard its label map, and features of its regions."""

  def __init__(
    self,
    made: generator.PseudoMasks,
    image_size: int,
    config: Any,
    batch: int,
    views: int = 0,
  ):
    """Compiles nothing yet.

    Args:
      made: makes the labels.
      image_size: side at which pictures are clustered.
      config: whose seed counts, and how pictures are cropped.
      batch: pictures at once.
      views: of each picture, whose regions' features are stored; 0 for none.
    """
    self.unreadable = 0
    self.examples: list[str] = []
    self._size, self._batch = image_size, batch
    self._config, self._views = config, views
    self._frozen = jax.device_put(made.frozen)
    root = jax.random.key(config.seed)

    def generate(frozen, image, ids, view):
      # As `tasks.sseg.pseudo_mask_labels`.
      keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(ids)
      if not views:
        return made.generate(frozen, image, keys)[0], None
      others = jax.vmap(jax.random.fold_in, (0, None))(keys, view)
      keys = jax.lax.select(
        jnp.broadcast_to(view == 0, ids.shape), keys, others
      )
      assert isinstance(made, eye.Eye)
      labels, seen = made.look(frozen, image, keys)
      # A region that does not exist has zeros (`tasks.sseg.regions_seen`).
      kept = jnp.where(seen.exist[..., None], seen.features, 0)
      return labels, kept.astype(jnp.float16)

    self._generate = jax.jit(generate)

  def __call__(
    self, shard: Iterator[records.Record], first: int
  ) -> Iterator[tuple[records.Record, np.ndarray, np.ndarray | None]]:
    """Yields the records with uint8 labels, and float16 features or None.

    `first` is the first record's id. Features are [views, n, d], the first view
    is the whole picture, whose labels are stored (`region_views.pictures`).
    """
    count = max(1, self._views)
    while batch := list(itertools.islice(shard, self._batch)):
      size = (count, self._batch, self._size, self._size, 3)
      images, readable = np.zeros(size, np.uint8), []
      for i, record in enumerate(batch):
        pictures = region_views.pictures(
          record.image, self._size, count, self._config, first + i
        )
        readable.append(pictures is not None)
        if pictures is None:
          self.unreadable += 1
          if len(self.examples) < 3:
            self.examples.append(record.key.decode("utf-8", "replace"))
        else:
          images[:, i] = pictures
      ids = (first + np.arange(self._batch)).astype(np.uint32)
      found = [
        jax.device_get(self._generate(self._frozen, x, ids, np.uint32(view)))
        for view, x in enumerate(images)
      ]
      labels = found[0][0]
      for i, record in enumerate(batch):
        of_regions = None
        if self._views:
          # No regions: the pair does not count.
          of_regions = np.stack([features[i] for _, features in found])
          of_regions = of_regions * np.float16(readable[i])
        yield record, labels[i].astype(np.uint8), of_regions
      first += len(batch)
