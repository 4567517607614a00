"""Labels and features of the records of a shard, batch by batch."""

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from sseg_jax.data import pseudo_labels, records
from sseg_jax.pseudo_masks import eye, generator


class Labeller:
  """Gives each record of a shard its label map, and features of its regions."""

  def __init__(
    self,
    made: generator.PseudoMasks,
    image_size: int,
    seed: int,
    batch: int,
    features: bool,
  ):
    self.unreadable = 0
    self.examples: list[str] = []
    self._size, self._batch = image_size, batch
    self._frozen = jax.device_put(made.frozen)
    root = jax.random.key(seed)

    def generate(frozen, image, ids):
      # As `tasks.sseg.pseudo_mask_labels`.
      keys = jax.vmap(lambda i: jax.random.fold_in(root, i))(ids)
      if not features:
        return made.generate(frozen, image, keys)[0], None
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

    `first` is the first record's id.
    """
    while batch := list(itertools.islice(shard, self._batch)):
      images = np.zeros((self._batch, self._size, self._size, 3), np.uint8)
      readable = []
      for i, record in enumerate(batch):
        picture = pseudo_labels.whole_picture(record.image, self._size)
        readable.append(picture is not None)
        if picture is None:
          self.unreadable += 1
          if len(self.examples) < 3:
            self.examples.append(record.key.decode("utf-8", "replace"))
        else:
          images[i] = picture
      ids = (first + np.arange(self._batch)).astype(np.uint32)
      labels, features = jax.device_get(
        self._generate(self._frozen, images, ids)
      )
      for i, record in enumerate(batch):
        of_regions = None
        if features is not None:
          # No regions: the pair does not count.
          of_regions = features[i] * np.float16(readable[i])
        yield record, labels[i].astype(np.uint8), of_regions
      first += len(batch)
