"""Tiny random networks, in files that transformers itself saves."""

import pathlib

_TEXT = dict(
  hidden_size=32,
  intermediate_size=128,
  num_hidden_layers=2,
  num_attention_heads=4,
  vocab_size=49408,
  bos_token_id=49406,
  eos_token_id=49407,
  pad_token_id=0,
)
_VISION = dict(
  hidden_size=48,
  intermediate_size=96,
  num_attention_heads=4,
  image_size=64,
  patch_size=16,
)


def _randomize(model):
  """Draws all arrays so that signals keep their size and none is trivial."""
  import torch

  torch.manual_seed(0)
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      if parameter.ndim < 2:
        is_scale = "norm" in name and name.endswith("weight")
        parameter.normal_(float(is_scale), 0.1)
      elif "embed" in name or "token" in name:
        parameter.normal_(0, 1)
      else:
        parameter.normal_(0, parameter[0].numel() ** -0.5)
    for name, buffer in model.named_buffers():
      if "running" in name:
        buffer.uniform_(0.5, 1.5)
    model.logit_scale.fill_(2.3)
  return model.eval()


def clip(folder: pathlib.Path):
  """Saves a CLIPModel there and returns it."""
  import transformers

  config = transformers.CLIPConfig(
    text_config=_TEXT,
    vision_config={**_VISION, "num_hidden_layers": 2},
    projection_dim=24,
  )
  model = _randomize(transformers.CLIPModel(config))
  model.save_pretrained(folder)
  return model


def groupvit(folder: pathlib.Path):
  """Saves a GroupViTModel with four groups there and returns it."""
  import transformers

  config = transformers.GroupViTConfig(
    text_config=_TEXT,
    vision_config={
      **_VISION,
      "num_hidden_layers": 4,
      "depths": [2, 1, 1],
      "num_group_tokens": [6, 4, 0],
      "num_output_groups": [6, 4, 4],
    },
    projection_dim=24,
    projection_intermediate_dim=40,
  )
  model = _randomize(transformers.GroupViTModel(config))
  model.save_pretrained(folder)
  return model
