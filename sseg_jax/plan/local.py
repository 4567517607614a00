"""Measures a few steps on the devices of this machine."""

import statistics
import time
from typing import Any

import jax
import numpy as np

from sseg_jax import sharding, train_step
from sseg_jax.plan.step import Compiled, Step

STEPS = 3


def measure(step: Step, compiled: Compiled) -> dict[str, Any]:
  """Runs the compiled step on random arrays and returns its times.

  All weights are random, because their values do not change how long a step
  takes. One more step is run first and not counted.
  """
  config = step.setup.config
  abstract_state, abstract_frozen, abstract_batch = step.arguments
  state = jax.device_put(
    train_step.init_state(step.setup, published=False),
    sharding.state_sharding(abstract_state, step.mesh),
  )
  rng = np.random.default_rng(0)
  frozen = jax.tree.map(lambda x: _random(rng, x), abstract_frozen)
  batch = {
    name: _random(rng, x, _limit(config, name))
    for name, x in abstract_batch.items()
  }
  batch["valid"] = jax.device_put(
    np.ones(config.batch_size, bool), abstract_batch["valid"].sharding
  )
  seconds = []
  for _ in range(STEPS + 1):
    start = time.perf_counter()
    state, metrics = jax.block_until_ready(
      compiled.executable(state, frozen, batch)
    )
    seconds.append(time.perf_counter() - start)
  middle = statistics.median(seconds[1:])
  return {
    "steps_s": seconds[1:],
    "step_s": middle,
    "images_per_second": config.batch_size / middle,
    "hours": middle * config.total_steps / 3600,
    "loss": float(metrics["loss"]),
  }


def _limit(config: Any, name: str) -> int:
  """One more than the largest value that an array of integers takes."""
  limits = {
    "id": config.batch_size,
    "text": 1000,
    "pseudo_labels": config.pseudo_masks.k,
    "labels": config.pseudo_masks.k,
  }
  return limits.get(name, 256)


def _random(rng: np.random.Generator, x: Any, limit: int = 256) -> jax.Array:
  if np.issubdtype(x.dtype, np.integer):
    values = rng.integers(0, limit, x.shape)
  else:
    values = rng.normal(size=x.shape, scale=0.02)
  return jax.device_put(values.astype(x.dtype), x.sharding)
