"""Networks of one configuration, built once for all tests of a process.

To build one takes up to a third of a second, and its first weights up to two
more. Tests ask for those of the same few configurations hundreds of times.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from sseg_jax.models import (
  backbones,
  conv,
  fixed_classes,
  keys,
  sseg,
  swin,
  vit_pyramid,
)

# Larger weights are drawn anew each time, to save memory.
_LARGEST = 20_000_000  # bytes


class _Described(str):
  """All that a network is made of, as text; `config` has it as an object."""

  config: Any


def _described(config: Any) -> _Described:
  sections = (config.model, config.text, config.loss, config.pseudo_masks)
  # Tests replace entries of these.
  sizes = (
    backbones.BACKBONES,
    conv.CONV_SIZES,
    swin.SWIN_SIZES,
    vit_pyramid.PYRAMID_SIZES,
  )
  found = _Described(
    repr(
      [x.to_json(sort_keys=True) for x in sections]
      + [config.dtype, tuple(config.data.classes), sizes]
    )
  )
  found.config = config
  return found


def init(config: Any, seed: int) -> tuple[sseg.Variables, sseg.Variables]:
  """Is `sseg.init`, but compiles no program of its own.

  The package compiles one program for each network, for some three seconds.
  Here each array is drawn by itself, and arrays of one shape share a program.
  Some weights differ in their last bit; test_sseg.py compares both.
  """
  network = fixed_classes.network(config) or sseg.SSeg
  key = keys.parameter_keys(jax.random.key(seed))
  return sseg.split(network(config, rngs=key))[1:]


def replace(patch: pytest.MonkeyPatch) -> Callable[..., Any]:
  """Replaces `sseg.build` and `sseg.init`; returns the package's own `init`."""
  package_build, package_init = sseg.build, sseg.init
  weights: dict[tuple[str, int], Any] = {}

  @functools.lru_cache(64)
  def of_described(described: _Described, mesh: Any) -> Any:
    return package_build(described.config, mesh)

  def build(config, mesh=None):
    graphdef, *shapes = of_described(_described(config), mesh)
    params, statistics = jax.tree.map(lambda x: x, shapes)  # new dictionaries
    return graphdef, params, statistics

  def kept_init(config, seed):
    key = (_described(config), seed)
    if key not in weights:
      made = init(config, seed)
      leaves = jax.tree.leaves(made)
      if any(isinstance(x, jax.core.Tracer) for x in leaves):
        return made
      if sum(x.nbytes for x in leaves) > _LARGEST:
        return made
      weights[key] = jax.tree.map(np.asarray, made)
    # Steps are given these arrays to write over.
    return jax.tree.map(lambda x: jax.device_put(x.copy()), weights[key])

  patch.setattr(sseg, "build", build)
  patch.setattr(sseg, "init", kept_init)
  return package_init
