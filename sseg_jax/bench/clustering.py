"""The parts of making pseudo-masks: K-means, the frozen network, and both."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sseg_jax.bench import frozen
from sseg_jax.bench.packages import need
from sseg_jax.bench.timing import Case
from sseg_jax.models import vit, vit_weights
from sseg_jax.pseudo_masks import kmeans


def _clustered(rng, b: int, points: int, width: int, k: int) -> np.ndarray:
  """Returns tokens [b, points, width] around k centers in each image.

  The tokens of a ViT are distributed in this way.
  """
  centers = rng.normal(size=(b, k, width))
  which = rng.integers(k, size=(b, points))
  noise = rng.normal(size=(b, points, width))
  picked = np.take_along_axis(centers, which[..., None], 1)
  return (picked + 0.7 * noise).astype(np.float32)


def kmeans_lloyd(small: bool) -> Case:
  """K-means from the same start, against scikit-learn's Lloyd per image."""
  cluster = need("sklearn.cluster")
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
      # It warns if ten iterations are too few; both ways stop after ten.
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
  torch = need("torch")
  b, side = (2, 64) if small else (8, 224)
  sizes = dict(vit.VIT_SIZES["dino_vits16"], position_rule="size")
  torch.manual_seed(0)
  reference = frozen.in_transformers(
    "dino_vits16", sizes["patch"] * sizes["grid"]
  )
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


def fused(small: bool) -> Case:
  """Network and K-means under one jit, against one after the other."""
  b, side = (2, 64) if small else (16, 224)
  rng = np.random.default_rng(0)
  made = frozen.vit_s16()
  image = jnp.asarray(rng.integers(256, size=(b, side, side, 3)), jnp.uint8)
  keys = jax.random.split(jax.random.key(0), b)
  whole = jax.jit(made.generate)
  network = jax.jit(made.features)

  def one():
    return jax.block_until_ready(whole(made.frozen, image, keys))

  def two():
    # Over the host's memory, as between two programs.
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
