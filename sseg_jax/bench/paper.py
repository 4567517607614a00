"""The paper's training step, and its frozen network, beside torch's.

Torch's step does the same work with transformers' networks, compiled where
there is a GPU, and is written the way one would write it for speed: the costs
of a batch on the device, in one piece, and scipy for the assignment, to which
they travel once a step.
"""

import functools
import math
from collections.abc import Callable
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from sseg_jax import default_config, sharding, train_step
from sseg_jax.bench.timing import Case
from sseg_jax.models import vit
from sseg_jax.models.attention import attend, attend_in_steps
from sseg_jax.models.kernels import flash
from sseg_jax.models.swin import SWIN_SIZES
from sseg_jax.plan import networks
from sseg_jax.pseudo_masks import tokens

Way = Callable[[], Any]
Need = Callable[[str], Any]


def config_of(small: bool, batch_size: int) -> Any:
  """Returns configs/cc26m.py's fields, of one device's batch."""
  c = default_config.get_config()
  c.batch_size = batch_size
  c.pseudo_masks.update(generator="dino", metric="cosine")
  if small:
    c.image_size = 64
    c.model.update(backbone="swin_t", num_queries=12, decoder_layers=2)
    c.model.update(ffn_dim=64, proj_hidden=64)
    c.text.layers = 1
  return c


# --- The whole step -----------------------------------------------------------


def step(
  small: bool, need: Need, batch_size: int | None = None, alone: bool = False
) -> Case:
  """The step of configs/cc26m.py with its teacher, bfloat16, random weights.

  `alone` leaves torch's out, as for a batch that torch has no memory for.
  """
  c = config_of(small, batch_size or (2 if small else 128))
  image, text = example(c)
  ways: dict[str, Way] = {}
  agreement = ""
  # Each takes minutes to compile, most of them outside of Python: both at once.
  with futures.ThreadPoolExecutor(1) as pool:
    compiling = pool.submit(_ours, c, image, text)
    if not alone:
      torch, transformers = need("torch"), need("transformers")
      theirs = _theirs(torch, transformers, c, image, text)
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
  frozen = jax.device_put(_random(setup.frozen), sharding.replicated(mesh))
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


def _random(shapes: Any) -> Any:
  rng = np.random.default_rng(0)

  def draw(x: Any) -> np.ndarray:
    return (0.02 * rng.normal(size=x.shape)).astype(x.dtype)

  return jax.tree.map(draw, shapes)


def _theirs(
  torch: Any, transformers: Any, c: Any, image: np.ndarray, text: np.ndarray
) -> Way:
  device = "cuda" if torch.cuda.is_available() else "cpu"
  torch.manual_seed(0)
  torch.set_float32_matmul_precision("high")
  m = c.model
  swin = transformers.MaskFormerSwinConfig(
    image_size=224,
    embed_dim=96,
    depths=list(SWIN_SIZES[m.backbone]["depths"]),
    num_heads=[3, 6, 12, 24],
    window_size=7,
    drop_path_rate=m.drop_path,
    out_features=["stage1", "stage2", "stage3", "stage4"],
  )
  detr = transformers.DetrConfig(
    d_model=m.hidden_dim,
    decoder_layers=m.decoder_layers,
    decoder_attention_heads=m.num_heads,
    decoder_ffn_dim=m.ffn_dim,
    num_queries=m.num_queries,
    dropout=m.dropout,
    encoder_layers=1,  # DETR's own; MaskFormer builds none
  )
  maskformer = transformers.MaskFormerForInstanceSegmentation(
    transformers.MaskFormerConfig(
      fpn_feature_size=m.hidden_dim,
      mask_feature_size=m.mask_dim,
      backbone_config=swin,
      decoder_config=detr,
      use_auxiliary_loss=True,
      num_labels=1,
    )
  )
  maskformer.class_predictor.requires_grad_(False)
  t = c.text
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
  teacher = _teacher(transformers)

  def projection(d_in: int) -> Any:
    nn = torch.nn
    return nn.Sequential(
      nn.Linear(d_in, m.proj_hidden),
      nn.BatchNorm1d(m.proj_hidden),
      nn.ReLU(),
      nn.Linear(m.proj_hidden, m.embed_dim),
    )

  trained = torch.nn.ModuleDict(
    {
      "maskformer": maskformer,
      "words": words,
      "image": projection(m.hidden_dim),
      "text": projection(t.width),
    }
  )
  trained = trained.to(device).train()
  teacher = teacher.to(device).eval().requires_grad_(False)
  scale = torch.nn.Parameter(torch.tensor(math.log(1 / 0.07), device=device))
  optimizer = torch.optim.AdamW(
    [*(p for p in trained.parameters() if p.requires_grad), scale],
    1e-4,
    weight_decay=c.optim.weight_decay,
    fused=device == "cuda",
  )
  pixels = torch.from_numpy(image.transpose(0, 3, 1, 2).copy()).to(device)
  words_of = torch.from_numpy(text.astype(np.int64)).to(device)
  k = c.pseudo_masks.k
  compiled = torch.compile if device == "cuda" else lambda f: f

  @compiled
  def forward(pixels, ids):
    found = maskformer(
      pixel_values=pixels,
      output_hidden_states=True,
      output_auxiliary_logits=True,
    )
    # Otherwise it would also supervise the input of the first layer.
    earlier = found.auxiliary_logits[1 - m.decoder_layers :]
    masks = [x["masks_queries_logits"] for x in earlier]
    masks = torch.stack([*masks, found.masks_queries_logits])
    queries = found.transformer_decoder_last_hidden_state.mean(1)
    said = words(input_ids=ids).pooler_output
    return masks, trained["image"](queries), trained["text"](said)

  @compiled
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
    for _ in range(c.pseudo_masks.iterations):
      labels = torch.einsum("bpd,bkd->bpk", x, centers).argmax(-1)
      members = torch.nn.functional.one_hot(labels, k).float()
      centers = torch.einsum("bpk,bpd->bkd", members, x)
      centers = torch.nn.functional.normalize(centers, dim=-1)
    return torch.einsum("bpd,bkd->bpk", x, centers).argmax(-1)

  @compiled
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
    return c.loss.focal * focal + c.loss.dice * dice

  @compiled
  def loss_of(masks, targets, index, image, words, scale):
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
    mask = c.loss.focal * focal + c.loss.dice * dice
    mask = mask.sum() / (targets.shape[0] * targets.shape[1])
    normalize = torch.nn.functional.normalize
    logits = normalize(image.float(), dim=-1) @ normalize(words.float()).T
    logits = scale.exp() * logits
    rows = torch.arange(len(logits), device=logits.device)
    cross = torch.nn.functional.cross_entropy
    return mask + cross(logits, rows) + cross(logits.T, rows)

  cells = c.image_size // 8

  def theirs() -> Any:
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device, torch.bfloat16):
      x = (pixels.float() / 255 - 0.45) / 0.226
      with torch.no_grad():
        labels = cluster(x).reshape(-1, 1, cells, cells)
      masks, image, said = forward(x, words_of)
    masks = masks.float()
    ks = torch.arange(k, device=device)[None, :, None, None]

    def targets_of(size):
      resized = torch.nn.functional.interpolate(
        labels.float(), size, mode="nearest"
      )
      return (resized == ks).float()

    with torch.no_grad():
      small = targets_of(masks.shape[-2:])
      cost = costs(masks.flatten(3), small.flatten(2)).cpu().numpy()
      targets = targets_of((c.image_size // c.loss.mask_stride,) * 2)
    index = np.stack(
      [
        [optimize.linear_sum_assignment(one)[1] for one in layer]
        for layer in cost
      ]
    )
    index = torch.from_numpy(index).to(device)
    loss = loss_of(masks, targets, index, image, said, scale)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained.parameters(), c.optim.clip_norm)
    optimizer.step()
    return loss.item()

  return theirs


def _teacher(transformers: Any) -> Any:
  sizes = vit.VIT_SIZES["dino_vits8"]
  return transformers.ViTModel(
    transformers.ViTConfig(
      hidden_size=sizes["width"],
      num_hidden_layers=sizes["depth"],
      num_attention_heads=sizes["num_heads"],
      intermediate_size=4 * sizes["width"],
      patch_size=sizes["patch"],
      image_size=224,
      layer_norm_eps=1e-6,
    ),
    add_pooling_layer=False,
  )


# --- Pseudo-masks -------------------------------------------------------------


def pseudo_masks(
  small: bool,
  need: Need,
  side: int,
  batch_size: int | None = None,
  alone: bool = False,
) -> Case:
  """DINO ViT-S/8 and K-means on a batch, and the network alone, bfloat16."""
  b, side = (2, side // 7) if small else (128, side)
  b = batch_size or b
  c = config_of(small, b)
  made = tokens.Tokens.build(c, abstract=True)
  frozen = jax.device_put(_random(made.frozen))
  rng = np.random.default_rng(0)
  image = jnp.asarray(rng.integers(256, size=(b, side, side, 3)), jnp.uint8)
  keys = jax.random.split(jax.random.key(0), b)
  whole, network = jax.jit(made.generate), jax.jit(made.features)
  ways: dict[str, Way] = {
    "network and K-means": functools.partial(_wait, whole, frozen, image, keys),
    "the network alone": functools.partial(_wait, network, frozen, image),
  }
  if not alone:
    theirs = _their_network(need("torch"), need("transformers"), image)
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


def _their_network(torch: Any, transformers: Any, image: Any) -> Way:
  device = "cuda" if torch.cuda.is_available() else "cpu"
  module = _teacher(transformers).to(device).eval()
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


def attention(small: bool, need: Need) -> Case:
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
