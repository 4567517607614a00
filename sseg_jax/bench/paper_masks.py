"""The paper's frozen network: making pseudo-masks, and its attention alone."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sseg_jax.bench import paper
from sseg_jax.bench.frozen import in_transformers, random
from sseg_jax.bench.packages import need
from sseg_jax.bench.timing import Case, Way
from sseg_jax.models.attention import attend, attend_in_steps
from sseg_jax.models.kernels import flash
from sseg_jax.plan import networks
from sseg_jax.pseudo_masks import tokens


def pseudo_masks(
  small: bool,
  side: int,
  batch_size: int | None = None,
  alone: bool = False,
) -> Case:
  """DINO ViT-S/8 and K-means on a batch, and the network alone, bfloat16."""
  b, side = (2, side // 7) if small else (128, side)
  b = batch_size or b
  c = paper.config_of(small, b)
  made = tokens.Tokens.build(c, abstract=True)
  frozen = jax.device_put(random(made.frozen))
  rng = np.random.default_rng(0)
  image = jnp.asarray(rng.integers(256, size=(b, side, side, 3)), jnp.uint8)
  keys = jax.random.split(jax.random.key(0), b)
  whole, network = jax.jit(made.generate), jax.jit(made.features)
  ways: dict[str, Way] = {
    "network and K-means": functools.partial(_wait, whole, frozen, image, keys),
    "the network alone": functools.partial(_wait, network, frozen, image),
  }
  if not alone:
    theirs = _their_network(image)
    ways["transformers' network alone (torch)"] = theirs
  c.image_size = side
  total = sum(x.size for x in jax.tree.leaves(frozen))
  return Case(
    f"pseudo-masks by DINO ViT-S/8 ({total:,} parameters, random) and K-means,"
    f" batch {b}, {side} px, bfloat16",
    ways,
    images=b,
    flops=networks.training(c)["teacher"],
  )


def _their_network(image: Any) -> Way:
  torch = need("torch")
  device = "cuda" if torch.cuda.is_available() else "cpu"
  module = in_transformers("dino_vits8", 224).to(device)
  pixels = np.array(image).transpose(0, 3, 1, 2)
  pixels = torch.from_numpy(pixels.copy()).to(device)

  def forward(pixels):
    x = (pixels.float() / 255 - 0.45) / 0.226
    found = module(pixel_values=x, interpolate_pos_encoding=True)
    return found.last_hidden_state.float()

  run = torch.compile(forward) if device == "cuda" else forward

  def theirs() -> Any:
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
      found = run(pixels)
      if device == "cuda":
        torch.cuda.synchronize()
      return found

  return theirs


def attention(small: bool) -> Case:
  """Attention of DINO ViT-S/8 at 224 px: in one kernel, in steps, torch's."""
  torch = need("torch")
  b, count = (2, 65) if small else (128, 785)
  rng = np.random.default_rng(0)
  arrays = rng.normal(size=(3, b, count, 6, 64))
  q, k, v = jnp.asarray(arrays, jnp.bfloat16)
  ways: dict[str, Way] = {}
  found = {}
  for name, function in (
    ("in one kernel", attend),
    ("in several steps", attend_in_steps),
  ):
    if name == "in one kernel" and not flash.has_cudnn(q.dtype, 64):
      name = "as this machine takes it"
    run = jax.jit(function)
    found[name] = np.asarray(run(q, k, v), np.float32)
    ways[name] = functools.partial(_wait, run, q, k, v)
  device = "cuda" if torch.cuda.is_available() else "cpu"
  tensors = torch.from_numpy(arrays).to(device, torch.bfloat16).transpose(2, 3)

  def theirs() -> Any:
    with torch.inference_mode():
      out = torch.nn.functional.scaled_dot_product_attention(*tensors)
      if device == "cuda":
        torch.cuda.synchronize()
      return out

  ways[f"torch {torch.__version__}"] = theirs
  expected = theirs().transpose(1, 2).float().cpu().numpy()
  apart = [
    np.abs(x - expected).max() / np.abs(expected).max() for x in found.values()
  ]
  return Case(
    f"attention of {count} tokens, 6 heads of 64, batch {b}, bfloat16",
    ways,
    f"outputs differ from torch's by {apart[0]:.1e} and {apart[1]:.1e} of the"
    " largest value",
    images=b,
    flops=4.0 * b * 6 * 64 * count**2,
  )


def _wait(run: Way, *arguments: Any) -> Any:
  return jax.block_until_ready(run(*arguments))
