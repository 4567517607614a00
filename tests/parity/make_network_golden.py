"""Writes network_golden.npz, outputs of transformers' networks and losses.

    python tests/parity/make_network_golden.py

Weights are drawn (`drawn.py`), not stored; of large outputs, every so many
values are. The test that reads the file needs neither torch nor transformers.
"""

import json
import pathlib

import drawn
import mask_losses
import numpy as np
import torch
import transformers

STAGES = ["stage1", "stage2", "stage3", "stage4"]
KEPT = 1500  # values of an output
CHANNELS = {"res2": 96, "res3": 192, "res4": 384, "res5": 768}


def network(name: str, module: torch.nn.Module, arrays: dict) -> None:
  """Gives the module drawn weights and notes their names and shapes."""
  state = module.state_dict()
  shapes = {key: list(value.shape) for key, value in state.items()}
  weights = drawn.weights(shapes)
  found = {key: torch.tensor(value) for key, value in weights.items()}
  module.load_state_dict(state | found)
  module.eval()
  arrays[f"{name}/shapes"] = json.dumps({k: shapes[k] for k in weights})


def note(arrays: dict, name: str, value: torch.Tensor) -> None:
  flat = value.detach().numpy().ravel()
  arrays[f"{name}/step"] = step = max(1, flat.size // KEPT)
  arrays[f"{name}/values"] = flat[::step]
  arrays[f"{name}/largest"] = np.abs(flat).max()


def pixels(name: str, h: int, w: int) -> torch.Tensor:
  return torch.tensor(drawn.normal(name, (1, 3, h, w)))


def swin(arrays: dict) -> None:
  for name, depths, size in (
    ("swin_t", [2, 2, 6, 2], (224, 224)),
    ("swin_s", [2, 2, 18, 2], (75, 130)),
  ):
    config = transformers.MaskFormerSwinConfig(
      depths=depths, drop_path_rate=0.0, out_features=STAGES
    )
    module = transformers.MaskFormerSwinBackbone(config)
    network(name, module, arrays)
    with torch.no_grad():
      maps = module(pixels(name, *size)).feature_maps
    arrays[f"{name}/size"] = size
    for level, value in zip(CHANNELS, maps, strict=True):
      note(arrays, f"{name}/{level}", value.permute(0, 2, 3, 1))


def resnet(arrays: dict) -> None:
  config = transformers.ResNetConfig(out_features=STAGES)  # ResNet-50
  module = transformers.ResNetBackbone(config)
  network("resnet50", module, arrays)
  with torch.no_grad():
    maps = module(pixels("resnet50", 96, 160)).feature_maps
  arrays["resnet50/size"] = (96, 160)
  for level, value in zip(CHANNELS, maps, strict=True):
    note(arrays, f"resnet50/{level}", value.permute(0, 2, 3, 1))


def maskformer(arrays: dict) -> None:
  """Both decoders with the paper's 64 queries, on drawn features."""
  config = transformers.MaskFormerConfig(
    backbone_config=transformers.MaskFormerSwinConfig(out_features=STAGES),
    decoder_config=transformers.DetrConfig(num_queries=64, encoder_layers=1),
  )
  module = transformers.MaskFormerForInstanceSegmentation(config)
  dropped = ("model.pixel_level_module.encoder.", "class_", "criterion.")
  network("maskformer", module, arrays)
  shapes = json.loads(arrays["maskformer/shapes"])
  shapes = {k: v for k, v in shapes.items() if not k.startswith(dropped)}
  arrays["maskformer/shapes"] = json.dumps(shapes)
  maps = [
    torch.tensor(drawn.normal(level, (1, d, 24 // 2**i, 32 // 2**i)))
    for i, (level, d) in enumerate(CHANNELS.items())
  ]
  with torch.no_grad():
    features = module.model.pixel_level_module.decoder(maps).last_hidden_state
    transformer = module.model.transformer_module
    queries = transformer(maps[-1], return_dict=True).last_hidden_state
    masks = torch.einsum(
      "bqc,bchw->bqhw", module.mask_embedder(queries), features
    )
  note(arrays, "maskformer/query_features", queries)
  note(arrays, "maskformer/mask_logits", masks)


def text(arrays: dict) -> None:
  """The paper's tower: 12 layers of width 256, 77 of 49,408 tokens."""
  config = transformers.CLIPTextConfig(
    vocab_size=49408,
    hidden_size=256,
    intermediate_size=1024,
    num_attention_heads=4,
    bos_token_id=49406,
    eos_token_id=49407,
    pad_token_id=0,
  )
  module = transformers.CLIPTextModel(config)
  network("text", module, arrays)
  tokens = np.zeros((3, 77), np.int64)
  state = np.random.RandomState(0)
  for row, length in zip(tokens, (3, 20, 77), strict=True):
    row[:length] = [49406, *state.randint(1, 49406, length - 2), 49407]
  arrays["text/tokens"] = tokens.astype(np.int32)
  with torch.no_grad():
    features = module(torch.tensor(tokens)).pooler_output
  note(arrays, "text/features", features)


def losses(arrays: dict) -> None:
  logits = 3 * drawn.normal("logits", (2, 10, 12, 16))
  state = np.random.RandomState(1)
  # Blocks, so that masks are regions; the second picture has no mask 1.
  labels = state.randint(0, 4, (2, 6, 8)).repeat(8, 1).repeat(8, 2)
  labels[1][labels[1] == 1] = 0
  masks = [
    np.stack([one == j for j in (0, 1, 2) if (one == j).any()]).astype("f4")
    for one in labels
  ]
  found = mask_losses.reference(logits, masks)
  arrays["losses/labels"] = labels.astype(np.int32)
  for i in range(2):
    arrays[f"losses/costs_{i}"] = found["costs"][i]
    arrays[f"losses/index_{i}"] = found["index"][i]
  for name in ("dice", "focal", "gradient"):
    arrays[f"losses/{name}"] = np.float32(found[name])


def main() -> None:
  arrays: dict = {}
  for make in (swin, resnet, maskformer, text, losses):
    make(arrays)
  path = pathlib.Path(__file__).with_name("network_golden.npz")
  np.savez_compressed(path, **arrays)
  print(path, path.stat().st_size)


if __name__ == "__main__":
  main()
