"""Which samples of a benchmark are scored, and which are kept to be drawn."""

import numpy as np
import pytest

from sseg_jax.benchmarks.sample import Keeper, Sample, spread


class Numbered:
  name, class_names, has_background, split = "numbered", ("a",), False, None

  def __len__(self):
    return 10

  def __getitem__(self, index):
    image = np.zeros((1, 1, 3), np.uint8)
    return Sample(str(index), image, np.zeros((1, 1), np.int32))


@pytest.mark.parametrize(
  ("wanted", "expected"),
  [(3, [0, 3, 6]), (0, [*range(10)]), (11, [*range(10)])],
)
def test_spread(wanted, expected):
  assert spread(10, wanted) == expected


def test_samples_are_kept_in_whatever_order_they_come():
  benchmark = Numbered()
  # Of the five that are scored (0 2 4 6 8), two: 0 and 4.
  keeper = Keeper(benchmark, max_images=5, wanted=2)
  for index in (8, 4, 6, 0, 2):
    keeper(benchmark[index], np.full((1, 1), index))
  assert [(s.id, int(found[0, 0])) for s, found in keeper.kept] == [
    ("4", 4),
    ("0", 0),
  ]


def test_none_is_kept_where_none_is_wanted():
  benchmark = Numbered()
  keeper = Keeper(benchmark, max_images=0, wanted=0)
  keeper(benchmark[0], np.zeros((1, 1)))
  assert keeper.kept == []
