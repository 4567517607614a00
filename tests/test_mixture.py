"""A batch takes the share of each folder of records that its weight says."""

import numpy as np
import pytest
from test_pipeline import _config, _record, _write

from sseg_jax import config_check
from sseg_jax.data import order, pipeline
from sseg_jax.errors import InputError


@pytest.mark.parametrize(
  ("weights", "lanes", "expected"),
  [
    ([2, 1, 1], 8, [4, 2, 2]),
    ([1, 1, 1], 64, [22, 21, 21]),
    ([1000, 1, 1], 4, [2, 1, 1]),  # one at least
    ([0.1, 0.2], 3, [1, 2]),
  ],
)
def test_lanes_follow_the_weights(weights, lanes, expected):
  assert order.lanes_of(weights, lanes) == expected


def test_each_data_set_has_epochs_of_its_own():
  counts, lanes = [10, 31, 7], 8
  bounds = order.weighted_bounds(counts, [2, 1, 1], lanes)
  made = order.LaneOrder(
    sum(counts), lanes=lanes, batch_size=16, window=3, seed=0, bounds=bounds
  )
  ends = np.cumsum(counts)
  drawn = []
  for step in range(40):
    index, epoch = made.batch(step, 0, lanes)
    drawn.append(index)
    share = np.bincount(np.searchsorted(ends, index, "right"), minlength=3)
    assert share.tolist() == [8, 4, 4]
    # Any number of hosts makes the same batch.
    parts = [made.batch(step, i, i + 2)[0] for i in range(0, lanes, 2)]
    assert (np.concatenate(parts) == index).all()
  # 40 steps of 8 records are 32 epochs of the first data set, and so on; a
  # lane's records come equally often, give or take one.
  seen = np.bincount(np.concatenate(drawn), minlength=48)
  for lane in range(lanes):
    own = seen[bounds[lane] : bounds[lane + 1]]
    assert own.max() - own.min() <= 1 and own.sum() == 80
  assert seen[:10].sum() == 320 and seen[41:].sum() == 160


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
  place = tmp_path_factory.mktemp("mixture")
  few, many = range(9), range(100, 140)
  return [
    _write(place / "few", [_record(i) for i in few]),
    _write(place / "many", [_record(i) for i in many]),
  ]


@pytest.mark.slow
def test_batches_of_a_mixture_resume(folders):
  config = _config(train=",".join(folders), weights="3,1")
  whole = pipeline.train_batches(config)
  batches = [next(whole) for _ in range(6)]
  whole.close()
  for batch in batches:
    assert (batch["id"] < 9).sum() == 6
  for count in (1, 2):
    parts = [
      pipeline.train_batches(
        config, start_step=4, process_index=i, process_count=count
      )
      for i in range(count)
    ]
    for batch in batches[4:]:
      found = [next(part) for part in parts]
      for name, value in batch.items():
        np.testing.assert_array_equal(
          np.concatenate([f[name] for f in found]), value
        )
    for part in parts:
      part.close()


@pytest.mark.parametrize(
  ("weights", "message"),
  [
    ("1", "must be a number over 0 for each of the 2 folders"),
    ("1,0", "must be a number over 0"),
    ("1,x", "must be a number over 0"),
    ("1,nan", "must be a number over 0"),
  ],
)
def test_weights_that_do_not_fit(folders, weights, message):
  config = _config(train=",".join(folders), weights=weights)
  with pytest.raises(InputError, match=f"data.weights='{weights}'.*{message}"):
    pipeline.train_batches(config)
  if weights != "1":
    with pytest.raises(InputError, match="data.weights=.*numbers over 0 with"):
      config_check.check(config, data=False)


def test_a_folder_with_too_few_records_for_its_weight(folders):
  config = _config(train=",".join(folders), weights="3,1")
  config.batch_size = 16
  with pytest.raises(
    InputError, match="takes 12 records from folder 1.*holds 9"
  ):
    pipeline.train_batches(config)
