"""Operations of a step in closed form, from the sizes in a config.

The formulas follow from the descriptions of the networks. Nothing is traced or
compiled, so that these numbers can check the traced and the compiled ones. Only
matrix products and convolutions are counted; a multiply-add is two operations.
On a first read, see `training`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from sseg_jax.models import backbones, query_embedding, teacher, vit_weights
from sseg_jax.models.conv import ConvNet
from sseg_jax.models.resnet import ResNet
from sseg_jax.models.swin import Swin
from sseg_jax.models.vit_pyramid import ViTPyramid
from sseg_jax.plan.products import taps
from sseg_jax.pseudo_masks import tokens

# One product forward, one for the gradient of the input, and one for the
# gradient of the weights.
TRAINED = 3


def training(config: Any) -> dict[str, float]:
  """Returns the operations of one step on the global batch, by part.

  Pooling and the resizing of masks are left out: they have no formula here.
  Work that is computed twice to save memory counts once, so these are the model
  FLOPs of MFU. A network with a frozen eye, with a fixed list of classes or
  without a decoder of masks has no formula: its dictionary is empty, and all
  its parts count as they are traced.
  """
  if teacher.is_eye(config) or config.model.head != "text":
    return {}
  if config.model.query_embedding == "segments":
    return {}
  c, batch = config.model, config.batch_size
  pictures = batch / config.loss.mask_every  # those that teach masks
  side = config.image_size
  forward, first = backbone(c.backbone, side)
  levels = _levels(c.backbone, side)
  cells = levels["res2"][0] ** 2
  memory_cells = levels[c.memory][0] ** 2
  d, n = c.hidden_dim, c.num_queries
  supervised = c.decoder_layers if c.deep_supervision else 1
  width = levels[c.memory][1]
  pixel_decoder, encoder = _pixel_decoder(c, levels)
  # The projection of the features that queries attend to. An encoder has a
  # projection of its own.
  enters = memory_cells * width * d
  if encoder and c.memory == "res5":
    enters = 0
  masks = enters + supervised * n * (2 * d * d + d * c.mask_dim)
  masks += supervised * n * cells * c.mask_dim
  found = {
    "backbone": pictures * (TRAINED * forward - first),
    "pixel decoder": pictures * TRAINED * (pixel_decoder + encoder),
    "decoder": pictures * TRAINED * decoder(c, memory_cells),
    "masks": pictures * TRAINED * masks,
    "text tower": batch * TRAINED * text(config.text),
  }
  k = config.pseudo_masks.k
  pooled = c.query_embedding == "mask_pooled"
  regions = 1 if c.mean == "before" else n
  if query_embedding.by_regions(c) and c.mean == "after":
    regions = k
  in_width = c.region_hidden if pooled else d
  of_head = c.embed_dim // c.proj_heads
  if not pooled or c.region_hidden:
    found["projections"] = (
      batch
      * TRAINED
      * c.proj_hidden
      * (regions * (in_width + of_head) + config.text.width + of_head)
    )
  if config.task == "sseg":
    found["contrastive"] = TRAINED * batch * batch * c.embed_dim
  # Two products, of the masks and the costs of each pixel; no gradient.
  found["matching"] = pictures * 2 * supervised * k * n * cells
  if config.pseudo_masks.mode == "online":
    found |= _pseudo_masks(config)
  return {part: 2.0 * value for part, value in found.items()}


# --- Multiply-adds of one picture or text, forward ----------------------------


def backbone(name: str, side: int) -> tuple[float, float]:
  """Returns a backbone's multiply-adds, and those of its first layer.

  The first layer's input is the picture, which needs no gradient.
  """
  network, sizes = backbones.BACKBONES[name]
  if network is Swin:
    return _swin(side, **sizes)
  if network is ConvNet:
    return _conv_net(side, **sizes)
  if network is ResNet:
    return _resnet(side, **sizes)
  if network is ViTPyramid:
    return _vit_pyramid(side, **sizes)
  raise NotImplementedError(f"no closed form for model.backbone={name!r}")


def _swin(side, *, embed_dim, depths, num_heads, window=7, mlp_ratio=4):
  del num_heads  # splits products, changes none
  h, d = math.ceil(side / 4), embed_dim
  first = h * h * 48 * d
  total = first
  for stage, depth in enumerate(depths):
    if stage:
      h = math.ceil(h / 2)
      total += h * h * (4 * d) * (2 * d)
      d *= 2
    padded = (math.ceil(h / window) * window) ** 2
    attention = padded * (4 * d * d + 2 * window**2 * d)
    total += depth * (attention + h * h * 2 * mlp_ratio * d * d)
  return total, first


def _square(side: int, size: int, stride: int = 1, pad: int | None = None):
  """Taps of a square kernel that meet the picture, and the output's side."""
  pad = size // 2 if pad is None else pad
  out = (side + 2 * pad - size) // stride + 1
  return taps(side, size, out, stride=stride, low=pad) ** 2, out


def _conv_net(side, *, widths, depths):
  total, h, channels = 0.0, side, 3
  first = 0.0
  for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
    patch = 2 if i else 4
    h //= patch
    total += h * h * patch * patch * channels * width
    first = first or total
    total += depth * (_square(h, 3)[0] + h * h) * width * width
    channels = width
  return total, first


def _resnet(side, *, depths, width=64):
  meets, h = _square(side, 7, 2)
  first = total = meets * 3 * width
  h, channels = (h + 1) // 2, width
  for stage, depth in enumerate(depths):
    middle = width * 2**stage
    for block in range(depth):
      stride = 2 if stage and not block else 1
      total += h * h * channels * middle
      meets, out = _square(h, 3, stride)
      total += meets * middle * middle + out * out * middle * 4 * middle
      if not block:
        total += out * out * channels * 4 * middle
      h, channels = out, 4 * middle
  return total, first


def _vit_blocks(count: int, width: int, depth: float, mlp_ratio: float = 4):
  weights = (4 + 2 * mlp_ratio) * width * width
  return depth * (count * weights + 2 * count * count * width)


def _vit_pyramid(side, *, patch, depth, width, grid, **_):
  del grid
  cells = (side // patch) ** 2
  first = cells * patch * patch * 3 * width
  total = first + _vit_blocks(cells + 1, width, depth)
  twice = cells * width * 2 * width  # half the width, twice the side
  return total + 2 * twice + 4 * cells * (width // 2) * width, first


def _levels(name: str, side: int) -> dict[str, tuple[int, int]]:
  """Returns the side and the channels of a backbone's outputs."""
  network, sizes = backbones.BACKBONES[name]
  if network is Swin:
    channels = [sizes["embed_dim"] * 2**i for i in range(4)]
  elif network is ConvNet:
    channels = list(sizes["widths"])
  elif network is ResNet:
    channels = [4 * sizes.get("width", 64) * 2**i for i in range(4)]
  else:
    d = sizes["width"]
    channels = [d // 4, d // 2, d, d]
  return {f"res{i + 2}": (side // 4 // 2**i, channels[i]) for i in range(4)}


def _pixel_decoder(c: Any, levels: dict) -> tuple[float, float]:
  """Returns the FPN's multiply-adds, and the encoder's before it."""
  d = c.hidden_dim
  h, channels = levels["res5"]
  encoder = 0.0
  if c.pixel_decoder == "transformer_encoder":
    cells = h * h
    layer = _attention(cells, cells, d) + 2 * cells * d * c.ffn_dim
    encoder = cells * channels * d + c.encoder_layers * layer
    channels = d
  total = _square(h, 3)[0] * channels * d
  for name in ("res4", "res3", "res2"):
    h, channels = levels[name]
    total += h * h * channels * d + _square(h, 3)[0] * d * d
  return total + _square(h, 3)[0] * d * c.mask_dim, encoder


def _attention(n: int, m: int, d: int) -> float:
  """Four projections, and two products of n queries with m keys."""
  return 2 * n * d * d + 2 * m * d * d + 2 * n * m * d


def decoder(c: Any, memory_cells: int) -> float:
  """The transformer decoder's, for a config's `model`."""
  d, n = c.hidden_dim, c.num_queries
  layer = _attention(n, n, d) + _attention(n, memory_cells, d)
  return c.decoder_layers * (layer + 2 * n * d * c.ffn_dim)


def text(t: Any) -> float:
  """The text tower's, for a config's `text`; all positions attend to all."""
  length, d = t.context_length, t.width
  return t.layers * (12 * length * d * d + 2 * length * length * d)


# --- What is computed once, without gradients, on the whole batch -------------


class _Points(NamedTuple):
  """What a generator clusters in each picture.

  Attributes:
    points: how many.
    fitted: how many of them the centers are computed from.
    dims: length of each point.
    teacher: multiply-adds of a frozen network; 0 for none.
  """

  points: int
  fitted: int
  dims: int
  teacher: float = 0.0


def _pixels(config: Any) -> _Points:
  """Colours and places of pixels."""
  fields = config.pseudo_masks
  side = config.image_size // fields.stride
  return _Points(side**2, (side // fields.fit_every) ** 2, 5)


def _tokens(config: Any) -> _Points:
  """Tokens of a frozen ViT, or what else its layers give."""
  sizes = _vit_sizes(config)
  patch, width = sizes["patch"], sizes["width"]
  points = (config.image_size // patch) ** 2
  parts = tokens.parse_features(config.pseudo_masks.feature, sizes["depth"])
  blocks = max(layer + (kind == "tokens") for kind, layer in parts)
  count = points + 1 + sizes.get("registers", 0)
  forward = points * patch * patch * 3 * width
  forward += _vit_blocks(count, width, blocks, sizes.get("mlp_ratio", 4))
  others = sum(kind != "tokens" for kind, _ in parts)
  forward += others * count * 3 * width * width
  return _Points(points, points, width * len(parts), forward)


# Generators whose work has a formula here; the work of others is not counted.
_GENERATORS: dict[str, Callable[[Any], _Points]] = {
  "pixels": _pixels,
  **dict.fromkeys(tokens.USUAL_WEIGHTS, _tokens),
}


def _pseudo_masks(config: Any) -> dict[str, float]:
  fields, batch = config.pseudo_masks, config.batch_size
  if fields.generator not in _GENERATORS:
    return {}
  points, fitted, dims, teacher = _GENERATORS[fields.generator](config)
  found = {"teacher": batch * teacher} if teacher else {}
  one = fitted * dims * fields.k  # points against centers
  start = (fields.k - 1) * fitted * dims
  if fields.init == "kmeans++":
    start *= 2 + int(math.log(fields.k))
  start += fitted * dims
  # Only restarts need the inertia, which is one more product. If K-means starts
  # from the farthest points, all restarts are equal and one is run.
  rounds = start + (2 * fields.iterations + 1 + (fields.restarts > 1)) * one
  runs = fields.restarts if fields.init == "kmeans++" else 1
  found["k-means"] = batch * runs * rounds
  if fitted != points:
    found["k-means"] += batch * points * dims * fields.k
  return found


def _vit_sizes(config: Any) -> dict[str, Any]:
  fields = config.pseudo_masks
  usual = tokens.USUAL_WEIGHTS[fields.generator]
  return vit_weights.sizes_of(fields.weights or usual)
