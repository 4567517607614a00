"""A checkpoint of earlier code restores, and gives what it gave."""

import numpy as np
import pytest
import stored_network

from sseg_jax.models import sseg


@pytest.mark.slow
@pytest.mark.parametrize("form", stored_network.FORMS)
def test_an_old_network_restores_and_gives_the_same(form):
  with np.load(stored_network.PATH) as file:
    stored = dict(file)
  found = stored_network.outputs(form, stored)
  for name, value in found.items():
    np.testing.assert_allclose(
      value, stored[f"{form}:{name}"], atol=1e-4, err_msg=name
    )
    assert np.abs(value).max() > 1e-2  # not all zeros


def test_the_stored_names_are_all_that_a_network_has():
  _, params, state = sseg.build(stored_network.config("mask_pooled"))
  with np.load(stored_network.PATH) as file:
    shapes = {name: file[name].shape for name in file if ":" not in name}
  wanted = stored_network.names(params) | stored_network.names(state)
  assert shapes == {name: leaf.shape for name, leaf in wanted.items()}
