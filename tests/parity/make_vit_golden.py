"""Writes vit_golden.npz, outputs of PyTorch and transformers.

    python tests/parity/make_vit_golden.py

Random weights, so small that the file can be committed; the tests that read it
need neither of the two packages.
"""

import pathlib

import numpy as np
import torch
import transformers
from torch_weights import randomize

SIZES = dict(
  hidden_size=32,
  num_hidden_layers=2,
  num_attention_heads=2,
  intermediate_size=64,
  patch_size=4,
  image_size=24,
)


def resized(table: torch.Tensor, size: tuple[int, int], rule: str):
  """Resizes [g, g, d] as the authors of the three rules call PyTorch."""
  how: dict = {"size": size}
  if rule == "dino":
    g = table.shape[0]
    how = {"scale_factor": tuple((n + 0.1) / g for n in size)}
  out = torch.nn.functional.interpolate(
    table.permute(2, 0, 1)[None],
    mode="bicubic",
    antialias=rule == "antialias",
    **how,
  )
  return out[0].permute(1, 2, 0).numpy()


def main() -> None:
  arrays = {}
  torch.manual_seed(0)
  table = torch.randn(7, 7, 2)
  arrays["table"] = table.numpy()
  for rule in ("dino", "size", "antialias"):
    for size in ((9, 14), (4, 5)):
      arrays[f"table_{rule}_{size[0]}x{size[1]}"] = resized(table, size, rule)
  generator = np.random.default_rng(0)
  for name, kind, extra in (
    ("registers", "Dinov2WithRegisters", {"num_register_tokens": 3}),
    ("vit", "ViT", {"layer_norm_eps": 1e-6}),
  ):
    config = getattr(transformers, f"{kind}Config")(**SIZES, **extra)
    if name == "registers":
      config.mlp_ratio = 2
    model = getattr(transformers, f"{kind}Model")(config).eval()
    randomize(model)
    for key, value in model.state_dict().items():
      arrays[f"{name}/{key}"] = value.numpy()
    for h, w in ((24, 24), (32, 20)):
      image = generator.normal(size=(h, w, 3)).astype(np.float32)
      pixels = torch.from_numpy(image.transpose(2, 0, 1)[None].copy())
      flags = {"interpolate_pos_encoding": True} if name == "vit" else {}
      with torch.no_grad():
        tokens = model(pixels, **flags).last_hidden_state[0].numpy()
      arrays[f"{name}_image_{h}x{w}"] = image
      arrays[f"{name}_tokens_{h}x{w}"] = tokens
  path = pathlib.Path(__file__).with_name("vit_golden.npz")
  np.savez_compressed(path, **arrays)
  print(path, path.stat().st_size)


if __name__ == "__main__":
  main()
