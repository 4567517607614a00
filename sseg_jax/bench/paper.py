"""The paper's training step, against the same in torch (`paper_torch.py`)."""

import functools
from concurrent import futures
from typing import Any

import jax
import numpy as np

from sseg_jax import default_config, sharding, train_step
from sseg_jax.bench import paper_torch
from sseg_jax.bench.frozen import random
from sseg_jax.bench.packages import need
from sseg_jax.bench.timing import Case, Way
from sseg_jax.plan import networks


def config_of(small: bool, batch_size: int) -> Any:
  """Returns configs/cc26m.py's fields, of one device's batch."""
  c = default_config.get_config()
  c.batch_size = batch_size
  c.pseudo_masks.update(generator="dino", metric="cosine")
  if small:
    c.image_size = 64
    c.model.update(backbone="swin_t", num_queries=12, decoder_layers=2)
    c.model.update(hidden_dim=64, mask_dim=64, ffn_dim=64, proj_hidden=64)
    c.text.update(layers=1, width=64, num_heads=2)
  return c


def step(
  small: bool, batch_size: int | None = None, alone: bool = False
) -> Case:
  """The step of configs/cc26m.py with its teacher, bfloat16, random weights.

  `alone` leaves out torch, for a batch that torch has no memory for.
  """
  c = config_of(small, batch_size or (2 if small else 128))
  image, text = example(c)
  ways: dict[str, Way] = {}
  agreement = ""
  # Each takes minutes to compile, mostly outside of Python. Both are compiled
  # at the same time.
  with futures.ThreadPoolExecutor(1) as pool:
    compiling = pool.submit(_ours, c, image, text)
    if not alone:
      torch = need("torch")
      theirs = paper_torch.step(c, image, text)
      ways[f"torch {torch.__version__}"] = theirs
      agreement = f" and {float(theirs()):.1f}, of random weights of their own"
    ours = compiling.result()
  ways = {"sseg_jax": ours} | ways
  agreement = f"loss {float(ours()['loss']):.1f}{agreement}"
  return Case(
    f"training step of {c.model.backbone}, {c.model.num_queries} queries,"
    f" {c.text.layers} layers of text, frozen DINO ViT-S/8 and K-means, batch"
    f" {c.batch_size}, {c.image_size} px, bfloat16",
    ways,
    agreement,
    images=c.batch_size,
    flops=sum(networks.training(c).values()),
  )


def example(config: Any) -> tuple[np.ndarray, np.ndarray]:
  """Returns pictures uint8 and captions int64 of a batch, both of noise."""
  b, side = config.batch_size, config.image_size
  rng = np.random.default_rng(0)
  image = rng.integers(256, size=(b, side, side, 3), dtype=np.uint8)
  text = rng.integers(1, 49_000, size=(b, config.text.context_length))
  # Each caption ends with the largest token, at a random place.
  text[np.arange(b), rng.integers(5, 30, b)] = 49_407
  return image, text


def _ours(c: Any, image: np.ndarray, text: np.ndarray) -> Way:
  mesh = sharding.make_mesh(c.mesh, jax.devices()[:1])
  setup = train_step.make_setup(c, mesh=mesh, abstract=True)
  place = sharding.batch_sharding(mesh)
  batch = {
    "id": np.arange(len(image), dtype=np.uint32),
    "valid": np.ones(len(image), bool),
    "image": image,
    "text": text.astype(np.int32),
  }
  batch = jax.device_put(batch, place)
  frozen = jax.device_put(random(setup.frozen), sharding.replicated(mesh))
  state = train_step.init_state(setup)
  shardings = sharding.state_sharding(state, mesh)
  step = jax.jit(
    functools.partial(train_step.train_step, setup),
    donate_argnums=0,
    out_shardings=(shardings, sharding.replicated(mesh)),
  )
  now = [jax.device_put(state, shardings)]
  run = step.lower(now[0], frozen, batch).compile()

  def ours() -> Any:
    now[0], metrics = run(now[0], frozen, batch)
    return jax.block_until_ready(metrics)

  return ours
