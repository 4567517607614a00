"""The paper's training step in torch, with transformers' networks.

It is written for speed. Where there is a GPU, it is compiled. The costs of a
batch are computed on the device at once, and copied to scipy once a step.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import optimize

from sseg_jax.bench import maskformer
from sseg_jax.bench.frozen import in_transformers
from sseg_jax.bench.packages import need


def step(c: Any, image: np.ndarray, text: np.ndarray) -> Callable[[], float]:
  """Returns a function that takes one step and returns its loss.

  Args:
    c: the run's fields.
    image: uint8 [b, h, w, 3].
    text: tokens, int64 [b, l].
  """
  torch = need("torch")
  device = "cuda" if torch.cuda.is_available() else "cpu"
  torch.manual_seed(0)
  torch.set_float32_matmul_precision("high")
  trained = _networks(c).to(device).train()
  teacher = in_transformers("dino_vits8", 224).to(device).requires_grad_(False)
  scale = torch.nn.Parameter(torch.tensor(math.log(1 / 0.07), device=device))
  optimizer = torch.optim.AdamW(
    [*(p for p in trained.parameters() if p.requires_grad), scale],
    1e-4,
    weight_decay=c.optim.weight_decay,
    fused=device == "cuda",
  )
  pixels = torch.from_numpy(image.transpose(0, 3, 1, 2).copy()).to(device)
  words_of = torch.from_numpy(text.astype(np.int64)).to(device)
  k, cells = c.pseudo_masks.k, c.image_size // 8
  compiled = torch.compile if device == "cuda" else lambda f: f
  forward = compiled(_forward(trained, c.model.decoder_layers))
  cluster = compiled(_cluster(teacher, k, c.pseudo_masks.iterations))
  costs = compiled(_costs(c.loss.focal, c.loss.dice))
  loss_of = compiled(_loss(c.loss.focal, c.loss.dice))

  def theirs() -> float:
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device, torch.bfloat16):
      x = (pixels.float() / 255 - 0.45) / 0.226
      with torch.no_grad():
        labels = cluster(x).reshape(-1, 1, cells, cells)
      masks, image, said = forward(x, words_of)
    masks = masks.float()
    with torch.no_grad():
      small = _targets(labels, masks.shape[-2:], k)
      cost = costs(masks.flatten(3), small.flatten(2)).cpu().numpy()
      targets = _targets(labels, (c.image_size // c.loss.mask_stride,) * 2, k)
    index = torch.from_numpy(_assigned(cost)).to(device)
    loss = loss_of(masks, targets, index, image, said, scale)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained.parameters(), c.optim.clip_norm)
    optimizer.step()
    return loss.item()

  return theirs


def _networks(c: Any) -> Any:
  """Returns what is trained: MaskFormer, the text tower, the projections."""
  torch, transformers = need("torch"), need("transformers")
  m, t = c.model, c.text
  masks = maskformer.reference(c, supervised=True)
  masks.class_predictor.requires_grad_(False)
  words = transformers.CLIPTextModel(
    transformers.CLIPTextConfig(
      vocab_size=49_408,
      hidden_size=t.width,
      intermediate_size=4 * t.width,
      num_hidden_layers=t.layers,
      num_attention_heads=t.num_heads,
      max_position_embeddings=t.context_length,
      eos_token_id=49_407,
    )
  )

  def projection(d_in: int) -> Any:
    return torch.nn.Sequential(
      torch.nn.Linear(d_in, m.proj_hidden),
      torch.nn.BatchNorm1d(m.proj_hidden),
      torch.nn.ReLU(),
      torch.nn.Linear(m.proj_hidden, m.embed_dim),
    )

  return torch.nn.ModuleDict(
    {
      "maskformer": masks,
      "words": words,
      "image": projection(m.hidden_dim),
      "text": projection(t.width),
    }
  )


def _forward(trained: Any, decoder_layers: int) -> Callable[..., Any]:
  """Returns a function from pictures and texts to masks and embeddings."""
  torch = need("torch")
  network, words = trained["maskformer"], trained["words"]

  def forward(pixels, ids):
    found = network(
      pixel_values=pixels,
      output_hidden_states=True,
      output_auxiliary_logits=True,
    )
    # Without this, it would also supervise the input of the first layer.
    earlier = found.auxiliary_logits[1 - decoder_layers :]
    masks = [x["masks_queries_logits"] for x in earlier]
    masks = torch.stack([*masks, found.masks_queries_logits])
    queries = found.transformer_decoder_last_hidden_state.mean(1)
    said = words(input_ids=ids).pooler_output
    return masks, trained["image"](queries), trained["text"](said)

  return forward


def _cluster(teacher: Any, k: int, iterations: int) -> Callable[..., Any]:
  """Returns a function from pictures to the cluster of each token."""
  torch = need("torch")

  def cluster(pixels):
    found = teacher(pixel_values=pixels, interpolate_pos_encoding=True)
    x = found.last_hidden_state[:, 1:].float()
    x = torch.nn.functional.normalize(x, dim=-1)
    # The farthest point each time, then Lloyd's iterations.
    centers = x[:, :1]
    for _ in range(k - 1):
      nearest = torch.einsum("bpd,bkd->bpk", x, centers).amax(-1)
      next_one = nearest.argmin(1)[:, None, None].expand(-1, 1, x.shape[-1])
      centers = torch.cat([centers, x.gather(1, next_one)], 1)
    for _ in range(iterations):
      labels = torch.einsum("bpd,bkd->bpk", x, centers).argmax(-1)
      members = torch.nn.functional.one_hot(labels, k).float()
      centers = torch.einsum("bpk,bpd->bkd", members, x)
      centers = torch.nn.functional.normalize(centers, dim=-1)
    return torch.einsum("bpd,bkd->bpk", x, centers).argmax(-1)

  return cluster


def _costs(focal_weight: float, dice_weight: float) -> Callable[..., Any]:
  """Returns a function from masks and targets to the costs of all pairs."""
  torch = need("torch")

  def costs(masks, targets):
    """Focal and dice cost of each pair, [layers, b, k, n]."""
    # Of p = sigmoid(x): log p and log(1 - p).
    positive = torch.nn.functional.logsigmoid(masks)
    negative = positive - masks
    probs = masks.sigmoid()
    pixels = masks.shape[-1]
    inside = 0.25 * (1 - probs) ** 2 * -positive
    outside = 0.75 * probs**2 * -negative
    focal = torch.einsum("lbnp,bkp->lbkn", inside - outside, targets)
    focal = (focal + outside.sum(-1)[:, :, None]) / pixels
    overlap = 2 * torch.einsum("lbnp,bkp->lbkn", probs, targets)
    area = probs.sum(-1)[:, :, None] + targets.sum(-1)[None, ..., None]
    dice = 1 - (overlap + 1) / (area + 1)
    return focal_weight * focal + dice_weight * dice

  return costs


def _loss(focal_weight: float, dice_weight: float) -> Callable[..., Any]:
  """Returns a function from matched masks and embeddings to the loss."""
  torch = need("torch")

  def loss(masks, targets, index, image, words, scale):
    index = index[..., None, None].expand(-1, -1, -1, *masks.shape[-2:])
    x = masks.gather(2, index)
    layers = len(x)
    x = torch.nn.functional.interpolate(
      x.flatten(0, 1),
      targets.shape[-2:],
      mode="bilinear",
      align_corners=False,
    )
    x = x.unflatten(0, (layers, -1)).flatten(3)
    y = targets.flatten(2)[None].expand_as(x)
    probs = x.sigmoid()
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(
      x, y, reduction="none"
    )
    right = probs * y + (1 - probs) * (1 - y)
    alpha = 0.25 * y + 0.75 * (1 - y)
    focal = (alpha * entropy * (1 - right) ** 2).mean(-1)
    overlap = 2 * (probs * y).sum(-1)
    dice = 1 - (overlap + 1) / (probs.sum(-1) + y.sum(-1) + 1)
    mask = focal_weight * focal + dice_weight * dice
    mask = mask.sum() / (targets.shape[0] * targets.shape[1])
    normalize = torch.nn.functional.normalize
    logits = normalize(image.float(), dim=-1) @ normalize(words.float()).T
    logits = scale.exp() * logits
    rows = torch.arange(len(logits), device=logits.device)
    cross = torch.nn.functional.cross_entropy
    return mask + cross(logits, rows) + cross(logits.T, rows)

  return loss


def _targets(labels: Any, size: tuple[int, int], k: int) -> Any:
  """Returns one mask for each cluster, resized: float [b, k, *size]."""
  torch = need("torch")
  ks = torch.arange(k, device=labels.device)[None, :, None, None]
  resized = torch.nn.functional.interpolate(
    labels.float(), size, mode="nearest"
  )
  return (resized == ks).float()


def _assigned(cost: np.ndarray) -> np.ndarray:
  """Returns the query of each mask, [layers, b, k], by scipy."""
  return np.stack(
    [
      [optimize.linear_sum_assignment(one)[1] for one in layer]
      for layer in cost
    ]
  )
