"""CLIP, MaskCLIP's value path and GroupViT against transformers and torch.

The networks are tiny and random; transformers itself saves their files.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import saved_networks
from flax import nnx
from PIL import Image
from torch_weights import relative_error

from sseg_jax.baselines import maskclip
from sseg_jax.benchmarks import table1_rows
from sseg_jax.inference import protocols
from sseg_jax.inference.by_protocol import ByProtocol
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.inference.sliding_window import evaluation_size
from sseg_jax.models import clip, groupvit_weights
from sseg_jax.models.layers import PIXEL_MEAN, PIXEL_STD, normalize_pixels
from sseg_jax.pseudo_masks import generator

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


def inputs():
  rng = np.random.default_rng(0)
  image = rng.normal(size=(2, 64, 64, 3)).astype(np.float32)
  tokens = np.zeros((3, 10), np.int64)
  for row, length in zip(tokens, (3, 5, 10), strict=True):
    row[:length] = [49406, *rng.integers(1, 40_000, length - 2), 49407]
  return image, tokens


def channels_first(image):
  return torch.from_numpy(image).permute(0, 3, 1, 2)


def norm(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.slow
def test_clip_and_value_path(tmp_path):
  reference = saved_networks.clip(tmp_path)
  image, tokens = inputs()
  # Wider than in training: positions are resized.
  wide = np.concatenate([image, image[:, :, :32]], 2)
  with torch.no_grad():
    expected = reference(
      pixel_values=channels_first(image), input_ids=torch.from_numpy(tokens)
    )
    tower = reference.vision_model
    states = tower(
      channels_first(wide),
      interpolate_pos_encoding=True,
      output_hidden_states=True,
    )
    dense = reference.visual_projection(
      tower.post_layernorm(states.last_hidden_state)
    )
    # PROTOCOL: v = out(V ln_1(x)) + x, then v + MLP(ln_2(v)), ln_post, proj.
    x, last = states.hidden_states[-2], tower.encoder.layers[-1]
    y = last.layer_norm1(x)
    v = x + last.self_attn.out_proj(last.self_attn.v_proj(y))
    v = v + last.mlp(last.layer_norm2(v))
    values = reference.visual_projection(tower.post_layernorm(v))
    keys = last.self_attn.out_proj(last.self_attn.k_proj(y))

  @nnx.jit
  def run(model):
    return (
      model.image(jnp.asarray(image))[:, 0],
      model.encode_text(jnp.asarray(tokens, jnp.int32)),
      model.image(jnp.asarray(wide)),
      *model.image.value_path(jnp.asarray(wide)),
    )

  model = clip.load(str(tmp_path))
  with jax.default_matmul_precision("highest"):
    whole, texts, ours, path, our_keys = run(model)
  errors = {
    "image": relative_error(norm(whole), expected.image_embeds),
    "text": relative_error(norm(texts), expected.text_embeds),
    "dense": relative_error(ours, dense),
    "value path": relative_error(path, values),
    "keys": relative_error(our_keys, keys),
    "scale": relative_error(
      model.logit_scale[...], reference.logit_scale.detach()
    ),
  }
  print({k: f"{v:.1e}" for k, v in errors.items()})
  assert max(errors.values()) <= 1e-4
  assert float(model.logit_scale[...]) == pytest.approx(2.3)


def maskclips_scores(reference, image, texts, smoothing, denoising):
  """MaskCLIP's code in torch: backbone, head, and mode "whole" of its test.

  Returns the maps at the picture's size, [c, h, w].
  """
  F = torch.nn.functional
  h, w, _ = image.shape
  size = evaluation_size(h, w, 520, 520)
  x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
  x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
  mean, std = (torch.tensor(v)[:, None, None] for v in (PIXEL_MEAN, PIXEL_STD))
  x = (x - mean) / std
  tower = reference.vision_model
  patch = tower.config.patch_size
  x = F.pad(x, (0, -size[1] % patch, 0, -size[0] % patch))
  states = tower(x, interpolate_pos_encoding=True, output_hidden_states=True)
  before, last = states.hidden_states[-2], tower.encoder.layers[-1]
  y = last.layer_norm1(before)
  v = before + last.self_attn.out_proj(last.self_attn.v_proj(y))
  v = v + last.mlp(last.layer_norm2(v))
  v = reference.visual_projection(tower.post_layernorm(v))[:, 1:]
  k = last.self_attn.out_proj(last.self_attn.k_proj(y))[:, 1:]
  grid = x.shape[2] // patch, x.shape[3] // patch
  scale = min(float(reference.logit_scale.exp()), 100.0)
  output = F.normalize(v, dim=-1) @ texts.T  # [1, t, c]
  if denoising:
    unlikely = F.softmax(output * scale, -1).amax(1, keepdim=True) < denoising
    assert unlikely.any() and not unlikely.all()
    output = output.masked_fill(unlikely, -100)
  if smoothing:
    output = F.softmax(output * scale, -1)
    k = F.normalize(k, p=2, dim=1)
    output = torch.where(
      output.amax(-1, keepdim=True) < smoothing,
      k @ k.transpose(-2, -1) @ output,
      output,
    )
  output = output.transpose(1, 2).unflatten(-1, grid)
  for to in (size, (h, w)):
    output = F.interpolate(output, to, mode="bilinear", align_corners=False)
  return output[0].numpy()


@pytest.mark.slow
@pytest.mark.parametrize(
  ("smoothing", "denoising"), [(0.0, 0.0), (1.0, 0.0), (0.0, 0.9), (1.0, 0.9)]
)
def test_maskclip_and_its_own_protocol(tmp_path, smoothing, denoising):
  """Labels under `maskclip_context` are those of MaskCLIP's code."""
  reference = saved_networks.clip(tmp_path)
  with torch.no_grad():  # random words are too alike to be told apart
    reference.logit_scale.fill_(4.0)
  reference.save_pretrained(tmp_path)
  coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
  image = np.asarray(Image.fromarray(coarse).resize((90, 61)))
  names = ("dog", "grass", "sky", "tv monitor", "potted plant")
  class_set = ClassSet(names, ("a {}.", "the {}."))
  model = clip.load(str(tmp_path))
  system = maskclip.MaskClip(model, smoothing, denoising)
  segmenter = ByProtocol(system, protocols.find("maskclip_context"))
  with torch.no_grad(), jax.default_matmul_precision("highest"):
    texts = torch.from_numpy(np.array(system._words.of(class_set)))
    expected = maskclips_scores(reference, image, texts, smoothing, denoising)
    best, index = segmenter.winners_many(image[None], class_set)
  # A pixel may differ where two classes are all but equal.
  first, second = np.sort(expected, 0)[[-1, -2]]
  differ = index[0] != expected.argmax(0)
  assert differ.mean() < 1e-3, differ.mean()
  assert (first - second)[differ].max(initial=0) < 1e-4
  assert len(np.unique(index)) > 1
  assert 0 <= best.min() and best.max() <= 1


@pytest.mark.slow
def test_groupvit_and_its_segmentation_logits(tmp_path):
  reference = saved_networks.groupvit(tmp_path)
  image, tokens = inputs()
  with torch.no_grad():
    expected = reference(
      pixel_values=channels_first(image),
      input_ids=torch.from_numpy(tokens),
      output_segmentation=True,
    )

  @nnx.jit
  def run(model):
    return (
      *model.encode_image(jnp.asarray(image)),
      model.encode_text(jnp.asarray(tokens, jnp.int32)),
    )

  model = groupvit_weights.load(str(tmp_path))
  with jax.default_matmul_precision("highest"):
    whole, groups, share, texts = map(np.asarray, run(model))
  np.testing.assert_allclose(share.sum(1), 1, atol=1e-5)
  scale = np.exp(float(model.logit_scale[...]))
  # As transformers has it, the scale comes twice.
  logits = scale * np.einsum("bge,ce->bcg", norm(groups), norm(texts))
  size = torch.from_numpy(share.copy())
  size = torch.nn.functional.interpolate(size, (64, 64), mode="bilinear")
  logits = scale * np.einsum("bcg,bghw->bchw", logits, size.numpy())
  errors = {
    "image": relative_error(norm(whole), expected.image_embeds),
    "text": relative_error(norm(texts), expected.text_embeds),
    "segmentation": relative_error(logits, expected.segmentation_logits),
  }
  print({k: f"{v:.1e}" for k, v in errors.items()})
  assert max(errors.values()) <= 1e-4


@pytest.mark.slow
def test_masks_are_the_groups_of_transformers(tmp_path):
  """The row of Table 1: each pixel's likeliest group, at the picture's size."""
  from transformers.models.groupvit import modeling_groupvit

  reference = saved_networks.groupvit(tmp_path)
  coarse = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
  image = coarse.repeat(8, 1).repeat(8, 2)
  pixels = np.array(normalize_pixels(jnp.asarray(image)))
  with torch.no_grad():
    seen = reference.vision_model(
      channels_first(pixels), output_attentions=True
    )
    shares = modeling_groupvit.get_grouping_from_attentions(
      seen.attentions, (64, 64)
    )
  expected = shares.argmax(1).numpy()
  fields = {"weights": str(tmp_path), "k": 4}
  made = generator.build(table1_rows.config_of("groupvit", fields))
  keys = jax.random.split(jax.random.key(0), 2)
  with jax.default_matmul_precision("highest"):
    labels, present = jax.jit(made.generate)(made.frozen, image, keys)
  # Rounding decides where two groups have equal shares.
  assert (labels != expected).mean() < 1e-3
  assert len(np.unique(expected)) > 1
  for found, groups in zip(expected, present, strict=True):
    assert set(np.flatnonzero(groups)) == set(np.unique(found))
