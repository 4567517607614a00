"""The matching of masks to queries, and the contrastive loss."""

import jax
import jax.numpy as jnp
import numpy as np

from sseg_jax import losses, matching
from sseg_jax.bench.packages import need
from sseg_jax.bench.timing import Case


def assignment(small: bool) -> Case:
  """Hungarian matching of a batch, against scipy image by image."""
  from scipy import optimize

  # 128 images and 6 decoder layers.
  b, k, n = (16, 8, 16) if small else (768, 8, 64)
  cost = np.random.default_rng(0).normal(size=(b, k, n)).astype(np.float32)
  valid = jnp.ones((b, k), bool)
  match = jax.jit(matching.match)
  on_device = jnp.asarray(cost)

  def ours():
    return jax.block_until_ready(match(on_device, valid))

  def theirs():
    return np.stack([optimize.linear_sum_assignment(c)[1] for c in cost])

  totals = [
    np.take_along_axis(cost, np.asarray(index)[..., None], 2).sum()
    for index in (ours(), theirs())
  ]
  return Case(
    f"assignment of {k} masks to {n} queries, {b} problems",
    {"sseg_jax": ours, "scipy, one by one": theirs},
    f"total costs {totals[0]:.3f} and {totals[1]:.3f}",
  )


def contrastive(small: bool) -> Case:
  """The contrastive loss and its gradients, against torch."""
  torch = need("torch")
  b, width = (64, 32) if small else (4096, 256)
  rng = np.random.default_rng(0)
  arrays = rng.normal(size=(2, b, width)).astype(np.float32)
  valid = jnp.ones(b, bool)

  def loss(image, text):
    return losses.contrastive(
      image, text, jnp.float32(2.0), valid, max_logit_scale=100.0
    )[0]

  gradient = jax.jit(jax.value_and_grad(loss, (0, 1)))
  on_device = jnp.asarray(arrays)
  tensors = [torch.from_numpy(x).requires_grad_() for x in arrays]

  def ours():
    return jax.block_until_ready(gradient(on_device[0], on_device[1]))

  def theirs():
    for tensor in tensors:
      tensor.grad = None
    image, text = (
      torch.nn.functional.normalize(tensor, dim=-1) for tensor in tensors
    )
    logits = float(np.exp(2.0)) * image @ text.T
    target = torch.arange(b)
    entropy = torch.nn.functional.cross_entropy
    total = entropy(logits, target) + entropy(logits.T, target)
    total.backward()
    return total

  apart = abs(float(ours()[0]) - float(theirs().detach()))
  return Case(
    f"contrastive loss with gradients, {b} pairs of width {width}",
    {"sseg_jax": ours, "torch": theirs},
    f"losses differ by {apart:.1e}",
  )
