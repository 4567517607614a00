import numpy as np
import pytest

from sseg_jax.inference.padding import pad_rows, without_padding


@pytest.mark.parametrize(
  ("rows", "limit", "expected"),
  [(1, None, 1), (3, None, 4), (4, None, 4), (5, 6, 6), (5, 16, 8)],
)
def test_rows_become_a_power_of_two(rows, limit, expected):
  padded = pad_rows(np.ones((rows, 2), np.uint8), limit)
  assert padded.shape == (expected, 2) and padded.dtype == np.uint8
  assert padded.sum() == 2 * rows and (padded[:rows] == 1).all()


def test_columns_of_padding_go_in_steps_of_sixteen():
  tokens = np.zeros((2, 77), np.int32)
  tokens[0, :5] = tokens[1, :17] = 1
  assert without_padding(tokens).shape == (2, 32)
  assert without_padding(tokens[:1]).shape == (1, 16)
