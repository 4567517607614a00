"""Trainings on stored region features, held in memory, for tables of photos.

No transformer runs: its features of the training photos are in the records, and
what it sees in scored pictures is kept by `seen.Seen`. A step and its batch are
those of `sseg_jax.main`.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from sseg_jax import config_check, config_files, evaluation, train_step
from sseg_jax.benchmarks import Benchmark
from sseg_jax.data import manifest, order, region_views
from sseg_jax.data.shards import RecordTable
from sseg_jax.errors import InputError
from sseg_jax.inference.segmenter import Segmenter
from sseg_jax.models import teacher
from sseg_jax.study.probe import Probe
from sseg_jax.study.seen import Seen, SeenSegmenter
from sseg_jax.tokenizer import Tokenizer


class Photos(NamedTuple):
  """Photos as a network with an eye learns from them.

  Attributes:
    features: float16 [n, v, k, d], of the regions of each view.
    captions: the texts of each photo.
  """

  features: Float[np.ndarray, "n v k d"]
  captions: Sequence[Sequence[str]]

  def part(self, photos: np.ndarray, columns: Sequence[int]) -> "Photos":
    """Returns some of the photos, with some of the features."""
    return Photos(
      self.features[photos][..., columns], [self.captions[i] for i in photos]
    )


def read(folder: str) -> Photos:
  """Returns the photos of a folder of records.

  InputError if the records have no features; records that cannot be read, and
  photos without captions, are left out.
  """
  info = manifest.read_manifest(folder).info.get("pseudo_masks", {})
  if "region_features" not in info:
    raise InputError(
      f"records={folder}: hold no features of regions; make them with prepare"
      " --add_pseudo_masks --add_region_features"
    )
  made = info["region_features"]
  shape = region_views.stored(made)
  table = RecordTable([folder])
  features, captions = [], []
  for index in range(len(table)):
    try:
      record = table[index]
    except InputError:
      raise
    except ValueError:  # damaged
      continue
    texts = [c.decode("utf-8", "replace").strip() for c in record.captions]
    texts = [text for text in texts if text]
    if record.region_features and texts:
      features.append(
        np.frombuffer(record.region_features, np.float16).reshape(shape)
      )
      captions.append(texts)
  return Photos(np.stack(features), captions)


def columns(config: Any, wanted: str) -> list[int]:
  """Returns where the features `wanted` are among those of a config.

  Args:
    config: whose `model.teacher_features` has all of them.
    wanted: as `model.teacher_features`.
  """
  depth = teacher.sizes(config)["depth"]
  width = teacher.sizes(config)["width"]
  there = teacher.features(config)
  found: list[int] = []
  for part in teacher.parse_features(wanted, depth, "features"):
    if part not in there:
      raise InputError(
        f"features={wanted!r} are not all among those that are stored,"
        f" {config.model.teacher_features!r}"
      )
    first = there.index(part) * width
    found += range(first, first + width)
  return found


def batches(config: Any, photos: Photos) -> Iterator[dict[str, np.ndarray]]:
  """Yields endless batches, the same as `pipeline.train_batches`.

  Args:
    config: whose `pseudo_masks.mode` is "cached".
    photos: with the features that the config names.
  """
  tokenizer = Tokenizer(config.text.context_length)
  tokens = [tokenizer(texts) for texts in photos.captions]
  lanes = config.data.lanes
  lane_order = order.LaneOrder(
    len(tokens),
    lanes=lanes,
    batch_size=config.batch_size,
    window=config.data.shuffle_window,
    seed=config.seed,
    mask_every=config.loss.mask_every,
  )
  for number in itertools.count():
    ids, epochs = lane_order.batch(number, 0, lanes)
    choice = order.mix(config.seed, ids, epochs, order.CAPTION).tolist()
    count = photos.features.shape[1]
    views = region_views.drawn(config.seed, ids, epochs, count)
    yield {
      "id": ids.astype(np.uint32),
      "valid": np.ones(len(ids), bool),
      "text": np.stack(
        [
          tokens[i][c % len(tokens[i])]
          for i, c in zip(ids, choice, strict=True)
        ]
      ),
      "region_features": photos.features[ids, views],
    }


def train(config: Any, photos: Photos) -> train_step.TrainState:
  """Returns the state after `config.total_steps` steps of `batches`."""
  config_check.check(config, data=False)
  setup = train_step.make_setup(config)
  state = train_step.init_state(setup)
  step = jax.jit(
    functools.partial(train_step.train_step, setup), donate_argnums=0
  )
  for batch in itertools.islice(batches(config, photos), config.total_steps):
    state, _ = step(state, setup.frozen, batch)
  return state


class Study:
  """What all rows of the tables share: photos, an eye, scored pictures."""

  def __init__(
    self, config: Any, records: str, opened: Sequence[Benchmark], out: Path
  ):
    """Reads the records.

    Args:
      config: that rows change. Clusters are the masks in all rows.
      records: a folder, with the features that the config names.
      opened: benchmarks without background.
      out: folder; what the eye sees is kept below it.
    """
    clusters = {"model.teacher_masks": False, "loss.mask_every": 1}
    config = config_files.overridden(config, clusters)
    self.config, self._opened = config, opened
    self._photos = read(records)
    self._seen = Seen(config, out / "seen")
    self.count = len(self._photos.captions)

  def trained(
    self, seed: int, features: str, count: int = 0, **fields: Any
  ) -> dict[str, float]:
    """Returns the scores of a training; see `scores_of`.

    Args:
      seed: of the run, and of the choice of photos.
      features: as `model.teacher_features`, among those of the config.
      count: number of photos, 0 for all. A batch has no more, and a power of
        two.
      **fields: of the config that differ, with "__" for ".".
    """
    count = count or self.count
    chosen = np.arange(self.count)
    if count < self.count:
      chosen = np.random.default_rng(seed).permutation(self.count)[:count]
    where = columns(self.config, features)
    config = config_files.overridden(
      self.config,
      {
        "seed": seed,
        "batch_size": min(
          self.config.batch_size, 1 << (count.bit_length() - 1)
        ),
        "model.teacher_features": features,
        **{name.replace("__", "."): x for name, x in fields.items()},
      },
    )
    state = train(config, self._photos.part(chosen, where))
    segmenter = SeenSegmenter(
      state.params, state.model_state, config, self._seen, where
    )
    return self._scores_of(lambda benchmark: segmenter)

  def probed(self, seed: int, features: str) -> dict[str, float]:
    """Returns the scores of a linear probe; the arguments as `trained`'s."""
    where = columns(self.config, features)
    return self._scores_of(
      functools.partial(Probe, self.config, self._seen, where, seed=seed)
    )

  def _scores_of(
    self, segmenter: Callable[[Benchmark], Segmenter]
  ) -> dict[str, float]:
    """Returns mIoU and pixel accuracy on each benchmark, in 0..100."""
    found = {}
    for benchmark in self._opened:
      result = evaluation.evaluate(
        segmenter(benchmark),
        benchmark,
        templates=self.config.evaluate.templates,
      )
      found[f"{benchmark.name} mIoU"] = result["mIoU"]
      found[f"{benchmark.name} pixels"] = result["pixel_accuracy"]
    return found
