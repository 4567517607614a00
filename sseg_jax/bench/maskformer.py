"""The mask network, against transformers' MaskFormer of the same sizes.

Both consist of Swin-T, FPN, decoder and mask MLP, each with its own random
weights; ours has no class head. The parity tests show that equal weights give
equal masks.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from sseg_jax import default_config, losses
from sseg_jax.bench.packages import need
from sseg_jax.bench.timing import Case, Way
from sseg_jax.models import sseg
from sseg_jax.models.dropout import ExampleRngs
from sseg_jax.models.swin import SWIN_SIZES

K = 8  # masks a picture
# Fields of `config.model`, and with --small.
_SIZES: dict[str, Any] = {"backbone": "swin_t", "mean": "after"}
_SMALL: dict[str, Any] = {"num_queries": 12, "decoder_layers": 2, "ffn_dim": 64}
_TRAINED = ("backbone", "maskformer")


def train_step(small: bool) -> Case:
  """A training step on given masks: matching, losses, gradients, AdamW."""
  torch = need("torch")
  b, side = (2, 64) if small else (8, 224)
  c = _config(small)
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (b, side, side, 3), np.uint8)
  # A grid of 16 cells in each picture, two for each mask, so that every mask
  # has pixels.
  labels = rng.permuted(np.tile(np.arange(16) % K, (b, 1)), axis=1)
  labels = labels.reshape(b, 4, 4).repeat(side // 4, 1).repeat(side // 4, 2)
  step = _stepper(c, image, labels)

  module = reference(c, supervised=True).train()
  optimizer = torch.optim.AdamW(module.parameters(), 1e-4, weight_decay=0.05)
  pixels = _normalised(torch, image)
  masks = [
    torch.from_numpy((x[None] == np.arange(K)[:, None, None]).astype("f4"))
    for x in labels
  ]
  classes = [torch.zeros(K, dtype=torch.long)] * b

  def theirs():
    optimizer.zero_grad()
    found = module(
      pixel_values=pixels,
      output_hidden_states=True,
      output_auxiliary_logits=True,
    )
    # Without this, it would also supervise the input of the first layer.
    earlier = found.auxiliary_logits[1 - c.model.decoder_layers :]
    loss = module.get_loss(
      module.get_loss_dict(
        found.masks_queries_logits,
        found.class_queries_logits,
        masks,
        classes,
        earlier,
      )
    )
    loss.backward()
    optimizer.step()
    return loss

  return Case(
    f"training step of Swin-T MaskFormer, batch {b}, {side} px, {K} masks,"
    f" {c.model.num_queries} queries, {c.model.decoder_layers} supervised"
    " layers, float32, AdamW",
    {"sseg_jax": step, "transformers (torch)": theirs},
    _parameters(c, module),
  )


def inference(small: bool, b: int = 1) -> Case:
  """Masks of `b` pictures at once; with `small` of two at most."""
  b = min(b, 2) if small else b
  torch = need("torch")
  side = 64 if small else 224
  c = _config(small)
  rng = np.random.default_rng(0)
  image = rng.integers(0, 256, (b, side, side, 3), np.uint8)
  graphdef, _, _ = sseg.build(c)
  params, state = sseg.init(c, 0)

  @jax.jit
  def forward(params, image):
    model = nnx.merge(graphdef, params, state)
    return model.image_features(image).mask_logits

  on_device = jnp.asarray(image)
  module = reference(c, supervised=False).eval()
  pixels = _normalised(torch, image)

  def ours():
    return jax.block_until_ready(forward(params, on_device))

  def theirs():
    with torch.inference_mode():
      return module(pixel_values=pixels).masks_queries_logits

  shapes = ours().shape[1:], tuple(theirs().shape)
  assert shapes[0] == shapes[1], shapes
  return Case(
    f"masks of Swin-T MaskFormer, batch {b}, {side} px,"
    f" {c.model.num_queries} queries, float32",
    {"sseg_jax": ours, "transformers (torch)": theirs},
    _parameters(c, module),
  )


def _config(small: bool) -> Any:
  config = default_config.get_config()
  config.dtype = "float32"
  config.model.update(_SIZES | (_SMALL if small else {}))
  # These parts are built but not used: small ones take less time.
  config.text.update(layers=1, width=32, num_heads=1)
  config.model.update(proj_hidden=32, embed_dim=32)
  return config


def _stepper(config: Any, image: Any, labels: Any) -> Way:
  graphdef, _, _ = sseg.build(config)
  params, state = sseg.init(config, 0)
  others = {k: v for k, v in params.items() if k not in _TRAINED}
  trained = {k: params[k] for k in _TRAINED}
  optimizer = optax.adamw(1e-4, weight_decay=0.05)
  weights = config.loss
  ids = jnp.arange(len(image))

  def step(trained, moments, image, labels, key):
    def loss(trained):
      model = nnx.merge(graphdef, trained | others, state)
      found = model.image_features(
        image, train=True, rngs=ExampleRngs.from_ids(key, ids)
      )
      return losses.mask_loss(
        found.mask_logits,
        labels,
        jnp.ones((len(image), K), bool),
        dice_weight=weights.dice,
        focal_weight=weights.focal,
        k=K,
      )[0]

    value, gradients = jax.value_and_grad(loss)(trained)
    updates, moments = optimizer.update(gradients, moments, trained)
    return optax.apply_updates(trained, updates), moments, value

  run = jax.jit(step, donate_argnums=(0, 1))
  now = [trained, optimizer.init(trained)]
  on_device = jnp.asarray(image), jnp.asarray(labels, jnp.int32)
  key = jax.random.key(0)

  def ours():
    *now[:], value = run(*now, *on_device, key)
    return jax.block_until_ready(value)

  return ours


def reference(config: Any, *, supervised: bool) -> Any:
  """Returns transformers' MaskFormerForInstanceSegmentation of the same sizes.

  Args:
    config: the run's fields.
    supervised: whether it gives the masks of earlier layers.
  """
  torch, transformers = need("torch"), need("transformers")
  c = config.model
  torch.manual_seed(0)
  swin = transformers.MaskFormerSwinConfig(
    image_size=224,
    embed_dim=96,
    depths=list(SWIN_SIZES[c.backbone]["depths"]),
    num_heads=[3, 6, 12, 24],
    window_size=7,
    drop_path_rate=c.drop_path,
    out_features=["stage1", "stage2", "stage3", "stage4"],
  )
  detr = transformers.DetrConfig(
    d_model=c.hidden_dim,
    decoder_layers=c.decoder_layers,
    decoder_attention_heads=c.num_heads,
    decoder_ffn_dim=c.ffn_dim,
    num_queries=c.num_queries,
    dropout=c.dropout,
    encoder_layers=1,  # DETR's own; MaskFormer builds none
  )
  return transformers.MaskFormerForInstanceSegmentation(
    transformers.MaskFormerConfig(
      fpn_feature_size=c.hidden_dim,
      mask_feature_size=c.mask_dim,
      backbone_config=swin,
      decoder_config=detr,
      use_auxiliary_loss=supervised,
      num_labels=1,
    )
  )


def _normalised(torch: Any, image: np.ndarray) -> Any:
  pixels = (image.astype(np.float32) / 255 - 0.45) / 0.226
  return torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())


def _parameters(config: Any, module: Any) -> str:
  _, params, _ = sseg.build(config)
  ours = sum(
    math.prod(x.shape) for k in _TRAINED for x in jax.tree.leaves(params[k])
  )
  # Swin's last norm exists but is not used.
  left_out = (
    "class_predictor.",
    "model.pixel_level_module.encoder.model.layer",
  )
  theirs = sum(
    p.numel()
    for name, p in module.named_parameters()
    if not name.startswith(left_out)
  )
  return f"{ours:,} parameters and {theirs:,}, but for the class head"
