"""The step's gradients against torch, which computes all of it again.

The towers are transformers' MaskFormer and CLIP over the convolutions below,
the assignment is scipy's, the losses are torch's own functions. All in double
precision: in single, torch's gradients are further from it than ours.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from torch_weights import TorchWeights, load, randomize

from sseg_jax import default_config, tokenizer, train_step
from sseg_jax.models import backbones, layers, pretrained, sseg
from sseg_jax.models.conv import ConvNet

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
optimize = pytest.importorskip("scipy.optimize")

from test_losses_parity import _torch_dice, _torch_focal  # noqa: E402

functional = torch.nn.functional
B, K, SIDE, LENGTH, WIDTH = 4, 3, 64, 12, 32
WIDTHS = (16, 32, 64, 128)  # of the backbone
VALID = np.array([True, True, False, True])


@pytest.fixture
def config(monkeypatch):
  conv = (ConvNet, {"widths": WIDTHS, "depths": (1, 1, 1, 1)})
  monkeypatch.setitem(backbones.BACKBONES, "conv_parity", conv)
  c = default_config.get_config()
  c.update(batch_size=B, image_size=SIDE, dtype="float32")
  # transformers' group norms have 32 groups, as ours at this width.
  c.model.update(backbone="conv_parity", hidden_dim=256, mask_dim=32)
  c.model.update(num_queries=6, decoder_layers=2, ffn_dim=64, dropout=0.0)
  c.model.update(proj_hidden=48, embed_dim=24)
  c.text.update(layers=2, width=WIDTH, num_heads=4, context_length=LENGTH)
  c.pseudo_masks.update(mode="cached", k=K, stride=2)
  return c


class Conv(torch.nn.Module):
  """`models.conv.ConvNet` with one block a stage."""

  def __init__(self):
    super().__init__()
    modules = torch.nn.ModuleList
    inputs = [3 * 16, *(4 * width for width in WIDTHS)]
    pairs = list(zip(inputs, WIDTHS, strict=False))
    self.embeds = modules(torch.nn.Linear(*pair) for pair in pairs)
    self.norms_in = modules(torch.nn.LayerNorm(w) for w in WIDTHS)
    self.convs = modules(torch.nn.Conv2d(w, w, 3, padding=1) for w in WIDTHS)
    self.outs = modules(torch.nn.Linear(w, w) for w in WIDTHS)
    self.norms_out = modules(torch.nn.LayerNorm(w) for w in WIDTHS)

  def forward(self, x):  # [b,h,w,3] -> four of [b,d,h/s,w/s]
    levels = []
    for i in range(4):
      size = 2 if i else 4
      b, h, w, c = x.shape
      x = x.reshape(b, h // size, size, w // size, size, c).transpose(2, 3)
      x = self.embeds[i](x.reshape(b, h // size, w // size, -1))
      y = self.convs[i](self.norms_in[i](x).permute(0, 3, 1, 2)).relu()
      x = x + self.outs[i](y.permute(0, 2, 3, 1))
      levels.append(self.norms_out[i](x).permute(0, 3, 1, 2))
    return levels


def copy_conv(model, weights):
  for i, (block,) in enumerate(model.stages):
    weights.linear(model.embeds[i], f"embeds.{i}")
    weights.norm(block.norm, f"norms_in.{i}")
    weights.conv(block.conv, f"convs.{i}")
    weights.linear(block.out, f"outs.{i}")
    weights.norm(model.norms[i], f"norms_out.{i}")


def projection(width, c):
  """`models.layers.Projection` with a batch norm, over valid pairs [m, d]."""
  return torch.nn.Sequential(
    torch.nn.Linear(width, c.proj_hidden),
    torch.nn.BatchNorm1d(c.proj_hidden),
    torch.nn.ReLU(),
    torch.nn.Linear(c.proj_hidden, c.embed_dim),
  )


def copy_projection(model, weights):
  weights.linear(model.fc1, "0")
  weights.norm(model.norm, "1")
  weights.linear(model.fc2, "3")


class Reference(torch.nn.Module):
  """The whole model and its loss (S-Seg Eq. 4)."""

  def __init__(self, config):
    super().__init__()
    self.config, c = config, config.model
    swin = transformers.MaskFormerSwinConfig(  # only its widths are used
      embed_dim=WIDTHS[0],
      depths=[1, 1, 1, 1],
      num_heads=[1, 2, 4, 8],
      out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    detr = transformers.DetrConfig(
      d_model=c.hidden_dim,
      decoder_layers=c.decoder_layers,
      decoder_attention_heads=c.num_heads,
      decoder_ffn_dim=c.ffn_dim,
      num_queries=c.num_queries,
      encoder_layers=1,
    )
    maskformer = transformers.MaskFormerConfig(
      fpn_feature_size=c.hidden_dim,
      mask_feature_size=c.mask_dim,
      backbone_config=swin,
      decoder_config=detr,
    )
    clip = transformers.CLIPTextConfig(
      vocab_size=tokenizer.VOCAB_SIZE,
      hidden_size=WIDTH,
      intermediate_size=4 * WIDTH,
      num_hidden_layers=config.text.layers,
      num_attention_heads=config.text.num_heads,
      max_position_embeddings=LENGTH,
      hidden_act="quick_gelu",
      eos_token_id=tokenizer.VOCAB_SIZE - 1,
      pad_token_id=0,
    )
    width = c.hidden_dim
    if c.query_embedding == "mask_pooled":
      width += WIDTHS[1]
    self.backbone = Conv()
    self.maskformer = transformers.MaskFormerForInstanceSegmentation(maskformer)
    self.text = transformers.CLIPTextModel(clip)
    # Without dropout; batch norms below stay in training.
    self.maskformer.eval(), self.text.eval()
    self.image_projection = projection(width, c)
    self.text_projection = projection(WIDTH, c)
    randomize(self)
    self.logit_scale = torch.nn.Parameter(torch.tensor(1 / 0.07).log())

  def towers(self, image):
    """Returns mask logits [l,b,n,h,w], query features, levels, pixels."""
    levels = self.backbone(image)
    pixel = self.maskformer.model.pixel_level_module.decoder(
      levels, output_hidden_states=True
    )
    transformer = self.maskformer.model.transformer_module
    decoded = transformer(
      levels[-1], output_hidden_states=True, return_dict=True
    )
    hidden = [
      *map(transformer.decoder.layernorm, decoded.hidden_states[1:-1]),
      decoded.last_hidden_state,
    ]
    masks = torch.einsum(
      "lbqc,bchw->lbqhw",
      self.maskformer.mask_embedder(torch.stack(hidden)),
      pixel.last_hidden_state,
    )
    levels = [x.permute(0, 2, 3, 1) for x in levels]
    pixels = pixel.hidden_states[-1].permute(0, 2, 3, 1)
    return masks, decoded.last_hidden_state, levels, pixels

  def forward(self, batch):
    c, weights = self.config.model, self.config.loss
    valid = torch.from_numpy(VALID)
    mean = torch.tensor(layers.PIXEL_MEAN)
    image = (batch["image"] - mean) / torch.tensor(layers.PIXEL_STD)
    masks, queries, levels, pixels = self.towers(image)
    if c.query_embedding == "decoder":
      image_embedding = self.image_projection(queries.mean(1)[valid])
    else:
      shares = masks[-1].detach().sigmoid()
      parts = []
      for level in (levels[1], pixels):
        m = functional.adaptive_avg_pool2d(shares, level.shape[1:3])
        sums = torch.einsum("bnhw,bhwd->bnd", m, level)
        parts.append(sums / m.sum((2, 3))[..., None])
      x = torch.cat(parts, -1)[valid]
      x = self.image_projection(x.flatten(0, 1)).unflatten(0, x.shape[:2])
      image_embedding = x.mean(1)
    words = self.text(batch["text"]).pooler_output
    text_embedding = self.text_projection(words[valid])
    logits = (
      self.logit_scale.exp()
      * functional.normalize(image_embedding)
      @ functional.normalize(text_embedding).T
    )
    target = torch.arange(len(logits))
    contrastive = functional.cross_entropy(logits, target)
    contrastive = contrastive + functional.cross_entropy(logits.T, target)
    mask = self.mask_loss(masks, batch["pseudo_labels"])
    return weights.mask * mask + weights.contrastive * contrastive

  def mask_loss(self, logits, labels):
    """Layers are matched on their own, at the logits' size.

    Their losses are taken at the picture's.
    """
    weights = self.config.loss
    count, total = 0, 0.0
    for i in np.flatnonzero(VALID):
      present = [j for j in range(K) if (labels[i] == j).any()]
      count += len(present)
      large = torch.stack([labels[i] == j for j in present])[None].double()
      small = functional.interpolate(large, logits.shape[-2:], mode="nearest")
      large = functional.interpolate(large, (SIDE, SIDE), mode="nearest")
      for layer in logits:

        def loss(query, mask):
          pair = query.flatten()[None], mask.flatten()[None]
          dice, focal = _torch_dice(*pair)[0], _torch_focal(*pair)[0]
          return weights.dice * dice + weights.focal * focal

        cost = [[loss(q, m).item() for q in layer[i]] for m in small[0]]
        rows, columns = optimize.linear_sum_assignment(cost)
        chosen = functional.interpolate(
          layer[i, columns][None],
          large.shape[-2:],
          mode="bilinear",
          align_corners=False,
        )
        for query, mask in zip(chosen[0], large[0, rows], strict=True):
          total = total + loss(query, mask)
    return total / count


def copy(model, arrays, reference):
  """Writes what `arrays` gives of a torch module into `model`, all of it."""
  dropped = ("model.pixel_level_module.encoder.", "class_", "criterion.")
  maskformer = {
    name: value
    for name, value in arrays(reference.maskformer).items()
    if not name.startswith(dropped)
  }
  load(model.maskformer, pretrained.maskformer, maskformer)
  load(model.text, pretrained.text, arrays(reference.text))
  for write, part, found in (
    (copy_conv, model.backbone, arrays(reference.backbone)),
    (
      copy_projection,
      model.image_projection,
      arrays(reference.image_projection),
    ),
    (copy_projection, model.text_projection, arrays(reference.text_projection)),
  ):
    weights = TorchWeights(found)
    write(part, weights)
    assert not weights.unused


def make_batch():
  rng = np.random.default_rng(0)
  tokens = np.zeros((B, LENGTH), np.int32)
  start, end = tokenizer.VOCAB_SIZE - 2, tokenizer.VOCAB_SIZE - 1
  for row, n in zip(tokens, (4, 7, 9, LENGTH), strict=True):
    row[:n] = [start, *rng.integers(1, start, n - 2), end]
  # Four-by-four blocks; the last label belongs to no mask, the second picture
  # lacks one.
  labels = rng.integers(0, K + 1, (B, 8, 8), np.int32)
  labels[1][labels[1] == 1] = 0
  labels = labels.repeat(4, 1).repeat(4, 2)
  return {
    "id": np.arange(B, dtype=np.uint32),
    "valid": VALID,
    "image": rng.integers(0, 256, (B, SIDE, SIDE, 3), np.uint8),
    "text": tokens,
    "pseudo_labels": labels,
  }


@pytest.mark.slow
@pytest.mark.parametrize("embedding", ["decoder", "mask_pooled"])
def test_gradients_of_every_parameter(config, embedding):
  if embedding == "mask_pooled":
    config.model.query_embedding = embedding
    config.model.pool_feature = "res3+pixel"
    config.model.mean = "after"
  reference, batch = Reference(config).double(), make_batch()
  tensors = {k: torch.from_numpy(np.array(v)) for k, v in batch.items()}
  loss = reference(tensors | {"image": tensors["image"].double()})
  loss.backward()

  def values(module):
    return {n: p.detach().float().numpy() for n, p in module.named_parameters()}

  def gradients(module):
    used = [(n, p) for n, p in module.named_parameters() if p.grad is not None]
    return {n: p.grad.float().numpy() for n, p in used}

  model = sseg.SSeg(config, rngs=nnx.Rngs(0))
  copy(model, values, reference)
  model.logit_scale[...] = jnp.float32(reference.logit_scale.item())
  _, params, model_state = sseg.split(model)
  copy(model, gradients, reference)
  model.logit_scale[...] = jnp.float32(reference.logit_scale.grad.item())
  _, expected, _ = sseg.split(model)

  setup = train_step.make_setup(config)
  run = jax.jit(functools.partial(train_step.value_and_grad, setup))
  (value, _), grads = run(params, model_state, {}, batch, jax.random.key(0))
  assert value == pytest.approx(loss.item(), rel=1e-5)
  for part in expected:
    largest = max(np.abs(x).max() for x in jax.tree.leaves(expected[part]))
    differences = jax.tree.map(
      lambda a, b: float(np.abs(a - b).max()), grads[part], expected[part]
    )
    error = max(jax.tree.leaves(differences)) / largest
    print(f"{part}: {error:.1e} of the largest, {largest:.1e}")
    assert error <= 1e-4, part
