"""The first batch comes as soon at step a million as at step one."""

import dataclasses
import io
import resource
import sys
import time

import numpy as np
import pytest
from PIL import Image

from sseg_jax.data import (
  import_tensorflow,
  order,
  pipeline,
  records,
  shards,
)
from sseg_jax.default_config import get_config

TOTAL, SHARD = 26_000_000, 10_000


class _Table(shards.RecordTable):
  """26 million records that are not stored: each is made when it is read."""

  def __init__(self, folders):
    self.manifests = [
      records.Manifest(
        folder="nowhere",
        split="train",
        shards=tuple(
          records.Shard(f"{i:05d}", SHARD, SHARD * 100, "")
          for i in range(TOTAL // SHARD)
        ),
        total=TOTAL,
        labels=False,
        pseudo_labels=False,
        rejected={},
        info={},
      )
    ]
    out = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(out, "JPEG")
    self._record = records.Record(b"", out.getvalue(), (b"red",))

  def __len__(self):
    return TOTAL

  def where(self, index):
    return f"record {index}"

  def __getitem__(self, index):
    return dataclasses.replace(self._record, key=b"%d" % index)


@pytest.fixture
def config(monkeypatch):
  monkeypatch.setattr(pipeline, "RecordTable", _Table)
  c = get_config()
  c.batch_size, c.data.lanes, c.image_size = 64, 64, 16
  c.data.threads = 1
  return c


@pytest.mark.slow
def test_the_first_batch_does_not_depend_on_the_step(config):
  """CPU time, since other processes share the machine."""
  import_tensorflow()  # takes seconds, in whichever start comes first
  seconds, ids = {}, {}
  for step in (1, 1_000_000):
    begun = time.process_time()
    batches = pipeline.train_batches(config, folders=["x"], start_step=step)
    ids[step] = next(batches)["id"]
    seconds[step] = time.process_time() - begun
    batches.close()
  assert seconds[1_000_000] < 2 * seconds[1] + 0.2, seconds
  assert not np.array_equal(ids[1], ids[1_000_000])
  print(f"CPU seconds to the first batch, by step: {seconds}")


def _resident():
  """MiB of this process now."""
  with open("/proc/self/statm") as file:
    return int(file.read().split()[1]) * resource.getpagesize() / 2**20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_flat():
  """Two epochs are kept, and no more: an epoch takes 4 bytes a record."""
  total = TOTAL // 4
  made = order.LaneOrder(total, lanes=64, batch_size=64, window=10_000, seed=0)
  found = []
  for epoch in range(7):
    made.batch(epoch * (total // 64) + 5 * epoch + 9, 0, 64)
    found.append(_resident())
  one = 4 * total / 2**20
  assert found[-1] - found[2] < 2 * one, found
  print([round(x) for x in found], "MiB; an epoch has", round(one))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_the_whole_pipeline_stays_flat(config):
  """Over the end of an epoch, over steps, and over one iterator after another.

  An epoch of 26 million records takes 99 MiB, and two are kept.
  """
  epoch, found = TOTAL // config.batch_size, []
  for number in (1, 2):
    batches = pipeline.train_batches(
      config, folders=["x"], start_step=number * epoch - 3
    )
    for step in range(100):
      next(batches)
      if step in (9, 99):
        found.append(round(_resident()))
    batches.close()
  # The first iterator also loads libraries.
  assert found[1] - found[0] < 50, found
  assert max(found[2:]) - found[1] < 99, found
  print(found, "MiB after 10 and 100 batches over the end of two epochs")


@pytest.mark.slow
def test_an_epoch_of_26_million_is_a_permutation():
  """Each lane's epoch holds each of its records once; two epochs differ."""
  made = order.LaneOrder(
    TOTAL, lanes=64, batch_size=4096, window=10_000, seed=0
  )
  for lane in (0, 63):
    size = made._bounds[lane + 1] - made._bounds[lane]
    orders = [made._lane_epoch(lane, epoch) for epoch in (0, 73)]
    for one in orders:
      assert np.bincount(one, minlength=size).tolist() == [1] * size
    assert (orders[0] != orders[1]).mean() > 0.99
  assert made._bounds[0] == 0 and made._bounds[-1] == TOTAL
  assert (np.diff(made._bounds) > 0).all()


def test_a_table_of_many_shards_is_found_quickly(tmp_path, monkeypatch):
  """The place of a record among 2,600 shards: no walk over all of them."""
  table = shards.RecordTable([])
  table._shards = [
    ("x", records.Shard(str(i), SHARD, 1, "")) for i in range(TOTAL // SHARD)
  ]
  table._ends = [SHARD * (i + 1) for i in range(TOTAL // SHARD)]
  assert len(table) == TOTAL
  assert table._locate(0) == (0, 0)
  assert table._locate(TOTAL - 1) == (TOTAL // SHARD - 1, SHARD - 1)
  assert table._locate(12_345_678) == (1234, 5678)
