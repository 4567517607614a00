"""What the command line gives to a system."""

import dataclasses

from sseg_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Options:
  """Options of systems; each uses those it needs.

  Attributes:
    weights: file or folder of weights.
    predictions: folder of label maps.
    key_smoothing: see `maskclip.MaskClip`.
    prompt_denoising: see `maskclip.MaskClip`.
    mask_generator: of pseudo-masks, a key of `generator.GENERATORS`.
    mask_weights: of that generator's network; "" for its usual ones.
    k: masks a window.
  """

  weights: str = ""
  predictions: str = ""
  key_smoothing: float = 0.0
  prompt_denoising: float = 0.0
  mask_generator: str = "dino"
  mask_weights: str = ""
  k: int = 8

  def needed_weights(self, network: str) -> str:
    """Returns the place of the weights; InputError without one."""
    if not self.weights:
      raise InputError(
        "--weights is missing: give the folder that transformers saved"
        f" ({network}: config.json, model.safetensors); see --help"
      )
    return self.weights
