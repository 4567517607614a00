"""The cases that are measured. Each function builds one `timing.Case`.

The references come from the packages that people would use otherwise; they are
imported where they are needed, and `InputError` says how to get them.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sseg_jax import default_config, losses, matching, train_step
from sseg_jax.bench import groupvit, maskformer, paper, parts
from sseg_jax.bench.timing import Case
from sseg_jax.errors import InputError
from sseg_jax.models import vit, vit_weights
from sseg_jax.pseudo_masks import kmeans
from sseg_jax.pseudo_masks.tokens import Tokens

_HOW = {
  "sklearn": "pip install scikit-learn",
  "torch": "pip install the CPU build of torch",
  "transformers": "pip install transformers, and the CPU build of torch",
}


def _need(name: str) -> Any:
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise InputError(
      f"case: {name} is not installed; {_HOW.get(name, name)}, or choose other"
      " cases"
    ) from error


def _clustered(rng, b: int, points: int, width: int, k: int) -> np.ndarray:
  """Tokens [b, points, width] around k centers an image, as a ViT's are."""
  centers = rng.normal(size=(b, k, width))
  which = rng.integers(k, size=(b, points))
  noise = rng.normal(size=(b, points, width))
  picked = np.take_along_axis(centers, which[..., None], 1)
  return (picked + 0.7 * noise).astype(np.float32)


def kmeans_lloyd(small: bool) -> Case:
  """K-means from the same start, against scikit-learn's Lloyd per image."""
  cluster = _need("sklearn.cluster")
  b, points, width, k, iterations = (
    (8, 196, 64, 8, 10) if small else (128, 784, 384, 8, 10)
  )
  rng = np.random.default_rng(0)
  data = _clustered(rng, b, points, width, k)
  starts = np.stack([x[rng.choice(points, k, replace=False)] for x in data])
  keys = jax.random.split(jax.random.key(0), b)
  on_device = jax.device_put((jnp.asarray(data), jnp.asarray(starts)))

  def ours():
    found = kmeans.kmeans(
      on_device[0],
      keys,
      k=k,
      iterations=iterations,
      initial_centers=on_device[1],
    )
    return jax.block_until_ready(found)

  def theirs():
    labels = []
    for x, start in zip(data, starts, strict=True):
      model = cluster.KMeans(
        k, init=start, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd"
      )
      # It warns where ten iterations are not enough; both stop there.
      labels.append(model.fit(x).labels_)
    return np.stack(labels)

  same = (np.asarray(ours().labels) == theirs()).mean()
  return Case(
    f"K-means of {b} images, {points} tokens of width {width}, K={k},"
    f" {iterations} iterations, same start",
    {"sseg_jax": ours, "scikit-learn, image by image": theirs},
    f"{same:.2%} of the labels are equal",
  )


def vit_forward(small: bool) -> Case:
  """The frozen network, against transformers' with the same weights."""
  torch, transformers = _need("torch"), _need("transformers")
  b, side = (2, 64) if small else (8, 224)
  sizes = dict(vit.VIT_SIZES["dino_vits16"], position_rule="size")
  torch.manual_seed(0)
  reference = transformers.ViTModel(
    transformers.ViTConfig(
      hidden_size=sizes["width"],
      num_hidden_layers=sizes["depth"],
      num_attention_heads=sizes["num_heads"],
      intermediate_size=4 * sizes["width"],
      patch_size=sizes["patch"],
      image_size=sizes["patch"] * sizes["grid"],
      layer_norm_eps=1e-6,
    ),
    add_pooling_layer=False,
  ).eval()
  arrays = {n: p.numpy() for n, p in reference.state_dict().items()}
  arrays = vit_weights.rename(arrays, "transformers")
  graphdef, _ = vit_weights.build(sizes)
  params = jax.device_put(vit_weights.convert(arrays, sizes))
  image = np.random.default_rng(0).normal(size=(b, side, side, 3))
  image = image.astype(np.float32)
  forward = jax.jit(lambda p, x: nnx.merge(graphdef, p)(x))
  on_device = jnp.asarray(image)
  in_torch = torch.from_numpy(image.transpose(0, 3, 1, 2).copy())

  def ours():
    return jax.block_until_ready(forward(params, on_device))

  def theirs():
    with torch.inference_mode():
      return reference(
        in_torch, interpolate_pos_encoding=True
      ).last_hidden_state

  expected = theirs().numpy()
  apart = np.abs(np.asarray(ours()) - expected).max() / np.abs(expected).max()
  return Case(
    f"ViT-S/16 forward, batch {b}, {side} px, float32",
    {"sseg_jax": ours, "transformers (torch)": theirs},
    f"outputs differ by {apart:.1e} of the largest value",
  )


def _generator(rng) -> Tokens:
  """Tokens of a ViT-S/16 with random weights: speed does not depend on them."""
  sizes = vit.VIT_SIZES["dino_vits16"]
  graphdef, shapes = vit_weights.build(sizes)
  frozen = jax.tree.map(
    lambda s: jnp.asarray(0.02 * rng.normal(size=s.shape), s.dtype), shapes
  )
  return Tokens(
    k=8,
    graphdef=graphdef,
    frozen=frozen,
    parts=(("tokens", sizes["depth"] - 1),),
    iterations=10,
    metric="cosine",
    init="kmeans++",
    dtype=jnp.float32,
  )


def fused(small: bool) -> Case:
  """Network and K-means under one jit, against one after the other."""
  b, side = (2, 64) if small else (16, 224)
  rng = np.random.default_rng(0)
  made = _generator(rng)
  image = jnp.asarray(rng.integers(256, size=(b, side, side, 3)), jnp.uint8)
  keys = jax.random.split(jax.random.key(0), b)
  whole = jax.jit(made.generate)
  network = jax.jit(made.features)

  def one():
    return jax.block_until_ready(whole(made.frozen, image, keys))

  def two():
    # To the host and back, as between two programs.
    cells = np.asarray(network(made.frozen, image))
    points = cells.reshape(b, -1, cells.shape[-1])
    return jax.block_until_ready(
      kmeans.kmeans(points, keys, k=8, metric="cosine")
    )

  same = (
    np.asarray(one()[0]).reshape(b, -1) == np.asarray(two().labels)
  ).mean()
  return Case(
    f"ViT-S/16 and K-means, batch {b}, {side} px, float32",
    {"one jit": one, "two, over the host": two},
    f"{same:.2%} of the labels are equal",
  )


def cached(small: bool) -> Case:
  """A training step that clusters tokens, against one that reads labels."""
  config = default_config.get_config()
  size, batch = (64, 4) if small else (224, 8)
  config.batch_size, config.image_size, config.dtype = batch, size, "float32"
  config.model.backbone = "conv_small"
  config.model.hidden_dim = config.model.mask_dim = 64
  config.model.num_queries, config.model.decoder_layers = 16, 2
  config.model.ffn_dim, config.model.proj_hidden = 256, 256
  config.text.layers, config.text.width = 2, 64
  config.text.num_heads = 1
  rng = np.random.default_rng(0)
  batch_of = {
    "id": jnp.arange(batch),
    "valid": jnp.ones(batch, bool),
    "image": jnp.asarray(rng.integers(256, size=(batch, size, size, 3)), "u1"),
    "text": jnp.asarray(
      rng.integers(1, 49_000, size=(batch, config.text.context_length))
    ),
    "pseudo_labels": jnp.asarray(
      rng.integers(8, size=(batch, size // 16, size // 16))
    ),
  }
  ways = {}
  for mode in ("cached", "online"):
    config = config.copy_and_resolve_references()
    config.pseudo_masks.mode = mode
    config.pseudo_masks.stride = 16
    setup = train_step.make_setup(config)
    if mode == "online":
      made = _generator(rng)
      setup = dataclasses.replace(
        setup, generator=made, frozen={"pseudo_masks": made.frozen}
      )
    ways[mode] = _stepper(setup, batch_of)
  return Case(
    f"training step, batch {batch}, {size} px, small model; online runs a"
    " frozen ViT-S/16 and K-means in the step",
    ways,
  )


def _stepper(setup, batch) -> Callable[[], Any]:
  step = jax.jit(functools.partial(train_step.train_step, setup))
  state = train_step.init_state(setup)

  def run():
    return jax.block_until_ready(step(state, setup.frozen, batch)[0].step)

  return run


def assignment(small: bool) -> Case:
  """Hungarian matching of a batch, against scipy image by image."""
  from scipy import optimize

  # 128 images and 6 decoder layers.
  b, k, n = (16, 8, 16) if small else (768, 8, 64)
  cost = np.random.default_rng(0).normal(size=(b, k, n)).astype(np.float32)
  valid = jnp.ones((b, k), bool)
  match = jax.jit(matching.match)
  on_device = jnp.asarray(cost)

  def ours():
    return jax.block_until_ready(match(on_device, valid))

  def theirs():
    return np.stack([optimize.linear_sum_assignment(c)[1] for c in cost])

  totals = [
    np.take_along_axis(cost, np.asarray(index)[..., None], 2).sum()
    for index in (ours(), theirs())
  ]
  return Case(
    f"assignment of {k} masks to {n} queries, {b} problems",
    {"sseg_jax": ours, "scipy, one by one": theirs},
    f"total costs {totals[0]:.3f} and {totals[1]:.3f}",
  )


def contrastive(small: bool) -> Case:
  """The contrastive loss and its gradients, against torch."""
  torch = _need("torch")
  b, width = (64, 32) if small else (4096, 256)
  rng = np.random.default_rng(0)
  arrays = rng.normal(size=(2, b, width)).astype(np.float32)
  valid = jnp.ones(b, bool)

  def loss(image, text):
    return losses.contrastive(
      image, text, jnp.float32(2.0), valid, max_logit_scale=100.0
    )[0]

  gradient = jax.jit(jax.value_and_grad(loss, (0, 1)))
  on_device = jnp.asarray(arrays)
  tensors = [torch.from_numpy(x).requires_grad_() for x in arrays]

  def ours():
    return jax.block_until_ready(gradient(on_device[0], on_device[1]))

  def theirs():
    for tensor in tensors:
      tensor.grad = None
    image, text = (
      torch.nn.functional.normalize(tensor, dim=-1) for tensor in tensors
    )
    logits = float(np.exp(2.0)) * image @ text.T
    target = torch.arange(b)
    entropy = torch.nn.functional.cross_entropy
    total = entropy(logits, target) + entropy(logits.T, target)
    total.backward()
    return total

  apart = abs(float(ours()[0]) - float(theirs().detach()))
  return Case(
    f"contrastive loss with gradients, {b} pairs of width {width}",
    {"sseg_jax": ours, "torch": theirs},
    f"losses differ by {apart:.1e}",
  )


def train_step_vs_maskformer(small: bool) -> Case:
  """Training the mask network, against transformers' MaskFormer."""
  return maskformer.train_step(small, _need)


def latency_vs_maskformer(small: bool) -> Case:
  """Masks of one picture, against transformers' MaskFormer."""
  return maskformer.inference(small, _need, 1)


def throughput_vs_maskformer(small: bool) -> Case:
  """Masks of a batch of eight, against transformers' MaskFormer."""
  return maskformer.inference(small, _need, 2 if small else 8)


def segment_vs_groupvit(small: bool) -> Case:
  """A picture and words, against transformers' GroupViT."""
  return groupvit.segment(small, _need)


def step_parts(small: bool) -> Case:
  """A training step, and each of its parts alone."""
  return parts.step(small, _generator(np.random.default_rng(0)))


def attention(small: bool) -> Case:
  """The frozen network's attention: in one kernel, in steps, torch's."""
  return paper.attention(small, _need)


def pseudo_masks_224(small: bool, **chosen: Any) -> Case:
  """DINO ViT-S/8 and K-means on 128 pictures of 224 px; for GPUs."""
  return paper.pseudo_masks(small, _need, 224, **chosen)


def pseudo_masks_448(small: bool, **chosen: Any) -> Case:
  """The same at 448 px; for GPUs."""
  return paper.pseudo_masks(small, _need, 448, **chosen)


def paper_step(small: bool, **chosen: Any) -> Case:
  """The step of configs/cc26m.py, against torch's, compiled; for GPUs."""
  return paper.step(small, _need, **chosen)


# These are too slow for a CPU at full size; they run only if named.
FOR_GPUS = ("attention", "pseudo_masks_224", "pseudo_masks_448", "paper_step")
# These take a batch size, and go without torch.
CHOOSE = ("pseudo_masks_224", "pseudo_masks_448", "paper_step")

CASES: dict[str, Callable[..., Case]] = {
  "kmeans": kmeans_lloyd,
  "vit": vit_forward,
  "fused": fused,
  "cached": cached,
  "assignment": assignment,
  "contrastive": contrastive,
  "step_parts": step_parts,
  "train_step_vs_maskformer": train_step_vs_maskformer,
  "latency_vs_maskformer": latency_vs_maskformer,
  "throughput_vs_maskformer": throughput_vs_maskformer,
  "segment_vs_groupvit": segment_vs_groupvit,
  "attention": attention,
  "pseudo_masks_224": pseudo_masks_224,
  "pseudo_masks_448": pseudo_masks_448,
  "paper_step": paper_step,
}
