"""Copies torch's weights into NNX layers, and counts that none is left over."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from sseg_jax.checkpoints import named_arrays


def relative_error(ours, theirs) -> float:
  """Largest difference over the largest value of the reference."""
  ours, theirs = np.asarray(ours), np.asarray(theirs)
  assert ours.shape == theirs.shape
  return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def randomize(module) -> None:
  """Draws every parameter of a torch module so that signals keep their size.

  A fresh module hides errors: its biases are zero and its norms the identity.
  """
  import torch

  torch.manual_seed(0)
  with torch.no_grad():
    for name, parameter in module.named_parameters():
      if parameter.ndim == 1:
        scale = "norm" in name and name.endswith("weight")
        parameter.normal_(float(scale), 0.1)
      elif "bias_table" in name or "embed" in name.split(".")[-2]:
        parameter.normal_(0, 1)
      else:
        parameter.normal_(0, parameter[0].numel() ** -0.5)


def load(module: nnx.Module, convert, reference) -> None:
  """Gives an NNX module the weights of a torch module or its state's arrays.

  `convert` is one of `sseg_jax.models.pretrained`; it raises for what is left
  over, missing or of another shape.
  """
  arrays = reference
  if not isinstance(reference, dict):
    arrays = {
      name: value.numpy() for name, value in reference.state_dict().items()
    }
  state = nnx.state(module)
  leaves = named_arrays.flat(nnx.to_pure_dict(state))
  found = convert(arrays, leaves, "the reference")
  leaves = {name: found.get(name, leaf) for name, leaf in leaves.items()}
  nnx.replace_by_pure_dict(state, named_arrays.nested(leaves, int_keys=True))
  nnx.update(module, state)


class TorchWeights:
  """The arrays of a torch module by name, each to be used once."""

  def __init__(self, weights: dict[str, np.ndarray]):
    self.weights = weights
    self.unused = set(weights)

  def __contains__(self, name: str) -> bool:
    return name in self.weights

  def take(self, name: str) -> jnp.ndarray:
    self.unused.discard(name)
    return jnp.asarray(self.weights[name])

  def norm(self, target: nnx.LayerNorm | nnx.GroupNorm, name: str) -> None:
    target.scale[...] = self.take(f"{name}.weight")
    target.bias[...] = self.take(f"{name}.bias")

  def linear(self, target: nnx.Linear, *names: str) -> None:
    """Several names stand side by side in one kernel; 1×1 convolutions too."""
    kernels = [self.take(f"{name}.weight") for name in names]
    target.kernel[...] = jnp.concatenate(
      [kernel.reshape(kernel.shape[:2]).T for kernel in kernels], axis=1
    )
    if target.bias is not None:
      biases = [self.take(f"{name}.bias") for name in names]
      target.bias[...] = jnp.concatenate(biases)

  def conv(self, target: nnx.Conv, name: str) -> None:
    target.kernel[...] = self.take(f"{name}.weight").transpose(2, 3, 1, 0)
    if target.bias is not None:
      target.bias[...] = self.take(f"{name}.bias")
