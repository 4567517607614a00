"""A linear probe: what labelled regions teach about an eye's features.

It is a ceiling of a kind for networks that learn from captions with the same
features and regions: it sees labels of other photos of the same benchmark.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int, UInt8

from sseg_jax.benchmarks import Benchmark, Sample
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.inference.encoded import Encoded
from sseg_jax.inference.sliding_window import Layout
from sseg_jax.models import teacher
from sseg_jax.study.seen import Seen

_FOLDS = 5
_STEPS = 300
_RATE = 1e-2
_DECAY = 1e-2  # of the squared weights, in the loss


class Probe:
  """A `segmenter.Segmenter` that gives regions classes by linear functions.

  The photos of a benchmark are dealt to five parts at random. A photo is scored
  by the function that was fitted to regions of the four other parts, each with
  the label of most of its pixels.
  """

  synonyms = "none"

  def __init__(
    self,
    config: Any,
    seen: Seen,
    columns: Sequence[int] | slice,
    benchmark: Benchmark,
    seed: int,
  ):
    """Fits the five functions.

    Args:
      config: its `evaluate` says how photos are cut into windows.
      seen: sees windows.
      columns: the features that are used.
      benchmark: without background.
      seed: of the parts.
    """
    self._seen, self._columns = seen, columns
    self._size = config.evaluate.image_size
    self._stride = config.evaluate.stride
    self.combiner = config.evaluate.combiner
    classes = len(benchmark.class_names)
    samples = [benchmark[i] for i in range(len(benchmark))]
    rng = np.random.default_rng(seed)
    parts = rng.permutation(len(samples)) % _FOLDS
    found = [self._labelled(sample, classes) for sample in samples]
    self._fitted: dict[bytes, tuple[np.ndarray, ...]] = {}
    for part in range(_FOLDS):
      known = [found[i] for i in np.flatnonzero(parts != part)]
      features, labels = (np.concatenate(x) for x in zip(*known, strict=True))
      center, spread = features.mean(0), features.std(0) + 1e-6
      w, bias = _fit((features - center) / spread, labels, classes)
      for i in np.flatnonzero(parts == part):
        self._fitted[_digest(samples[i].image)] = (center, spread, w, bias)

  def scores(
    self, image: UInt8[np.ndarray, "h w 3"], class_set: ClassSet
  ) -> Float[np.ndarray, "h w c"]:
    """Returns scores of a photo of the benchmark; only the names count."""
    center, spread, w, bias = self._fitted[_digest(image)]
    layout, regions = self._look(image)
    logits = (regions.features - center) / spread @ w + bias
    encoded = Encoded(
      jnp.asarray(regions.mask_logits),
      jax.nn.softmax(logits),
      layout,
      layout.places(),
      1,
      len(class_set.names),
    )
    return next(encoded.scores(self.combiner))[0]

  def _look(
    self, image: UInt8[np.ndarray, "h w 3"]
  ) -> tuple[Layout, teacher.Regions]:
    layout = Layout.of(
      *image.shape[:2],
      image_size=self._size,
      stride=self._stride,
      multiple=self._seen.multiple,
    )
    seen = self._seen(layout.cut(image))
    return layout, seen._replace(features=seen.features[..., self._columns])

  def _labelled(
    self, sample: Sample, classes: int
  ) -> tuple[Float[np.ndarray, "r d"], Int[np.ndarray, "r"]]:
    """Returns features and label of each region that has a label."""
    layout, regions = self._look(sample.image)
    h, w = layout.resized
    # The nearest pixel; those that only fill a window are ignored.
    rows = np.arange(h) * sample.labels.shape[0] // h
    columns = np.arange(w) * sample.labels.shape[1] // w
    labels = np.full(np.maximum(layout.window, layout.resized), classes)
    resized = sample.labels[rows][:, columns]
    labels[:h, :w] = np.where(resized < classes, resized, classes)
    features, found = [], []
    for i, (y, x) in enumerate(layout.starts):
      window = labels[y : y + layout.window[0], x : x + layout.window[1]]
      cells = regions.mask_logits[i].shape[1:]
      rows = np.arange(window.shape[0]) * cells[0] // window.shape[0]
      columns = np.arange(window.shape[1]) * cells[1] // window.shape[1]
      for mask, feature in zip(
        regions.mask_logits[i], regions.features[i], strict=True
      ):
        inside = window[(mask > 0)[rows][:, columns]]
        counts = np.bincount(inside.ravel(), minlength=classes + 1)[:classes]
        if counts.any():
          features.append(feature)
          found.append(counts.argmax())
    width = regions.features.shape[-1]
    return (
      np.array(features, np.float32).reshape(-1, width),
      np.array(found, np.int64),
    )


def _fit(
  features: Float[np.ndarray, "r d"],
  labels: Int[np.ndarray, "r"],
  classes: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns weights and bias of a logistic regression."""

  def loss(params):
    logits = features @ params[0] + params[1][None]
    wrong = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return wrong.mean() + _DECAY * (params[0] ** 2).sum()

  optimizer = optax.adam(_RATE)

  @jax.jit
  def step(params, state):
    updates, state = optimizer.update(jax.grad(loss)(params), state)
    return optax.apply_updates(params, updates), state

  params: Any = (jnp.zeros((features.shape[1], classes)), jnp.zeros(classes))
  state = optimizer.init(params)
  for _ in range(_STEPS):
    params, state = step(params, state)
  return np.asarray(params[0]), np.asarray(params[1])


def _digest(image: np.ndarray) -> bytes:
  return hashlib.sha256(image.tobytes()).digest()
