"""What systems around CLIP and GroupViT share: sizes, batches and words."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from sseg_jax.inference import padding
from sseg_jax.inference.class_set import ClassSet
from sseg_jax.models.layers import resize_bilinear, unit
from sseg_jax.tokenizer import Tokenizer, check_distinct

_CLASS_SETS = 16  # of which the embeddings are kept
MAX_SCALE = 100.0  # GroupViT and CLIP clamp exp(logit_scale) there


class Words:
  """Embeddings of classes by a model's text tower.

  Args:
    model: has `encode_text` and `text.context_length`.
    unit_first: whether the embedding of each prompt is scaled to length one
      before the mean over templates (CLIP and MaskCLIP do, GroupViT does not).
  """

  def __init__(self, model: Any, *, unit_first: bool):
    self._unit_first = unit_first
    self._tokenizer = Tokenizer(context_length=model.text.context_length)
    graphdef, self._state = nnx.split(model)
    self._encode = jax.jit(
      lambda state, tokens: nnx.merge(graphdef, state).encode_text(tokens)
    )
    self.of = functools.lru_cache(_CLASS_SETS)(self._of)

  def _of(self, class_set: ClassSet) -> Float[Array, "c e"]:
    """Returns one embedding a class, of length one."""
    tokens = self._tokenizer(class_set.prompts)
    check_distinct(class_set.words, tokens)
    encode = functools.partial(self._encode, self._state)
    each = padding.in_chunks(encode, tokens)
    each = unit(each) if self._unit_first else each
    return unit(each.reshape(len(class_set.words), -1, each.shape[-1]).mean(1))


class Dense:
  """A network that scores windows of any size, as a `by_protocol.System`.

  Args:
    model: has `encode_text`.
    patch: side of its patches.
    unit_first: see `Words`.
  """

  def __init__(self, model: Any, patch: int, *, unit_first: bool):
    self._patch = patch
    self._words = Words(model, unit_first=unit_first)
    graphdef, self._state = nnx.split(model)

    def see(state, windows, classes):
      return self._scores(nnx.merge(graphdef, state), windows, classes)

    self._see = jax.jit(see)

  def score_windows(
    self, windows: Float[np.ndarray, "g h w 3"], class_set: ClassSet
  ) -> Float[np.ndarray, "g h w c"]:
    """Scores of the classes, at the windows' size."""
    classes = self._words.of(class_set)
    return by_patches(
      windows, self._patch, lambda x: self._see(self._state, x, classes)
    )

  def _scores(
    self,
    model: Any,
    windows: Float[Array, "g h w 3"],
    classes: Float[Array, "c e"],
  ) -> Float[Array, "g h w c"]:
    """Returns the scores, at the size of windows that fit the patch."""
    raise NotImplementedError


def by_patches(
  windows: Float[np.ndarray, "g h w 3"],
  patch: int,
  see: Callable[[Float[np.ndarray, "g h w 3"]], Any],
) -> Float[np.ndarray, "g h w c"]:
  """Scores windows of any size with a network whose patch must fit.

  The windows are padded at the right and below with their border. `see` returns
  scores at the padded size, which are cut.
  """
  h, w = windows.shape[1:3]
  pad = ((0, 0), (0, -h % patch), (0, -w % patch), (0, 0))
  return np.asarray(see(np.pad(windows, pad, mode="edge")))[:, :h, :w]


def normalized(
  windows: Array, mean: tuple[float, ...], std: tuple[float, ...]
) -> Array:
  """Maps RGB in 0..255 to about zero mean and unit variance."""
  shape = (1,) * (windows.ndim - 1) + (3,)
  return (windows - jnp.reshape(jnp.array(mean), shape)) / jnp.reshape(
    jnp.array(std), shape
  )


def scale_of(logit_scale: Float[Array, ""]) -> Float[Array, ""]:
  """Returns the factor of cosines, which training stores as its logarithm."""
  return jnp.minimum(jnp.exp(logit_scale), MAX_SCALE)


def cosines(
  embeddings: Float[Array, "*b e"], classes: Float[Array, "c e"]
) -> Float[Array, "*b c"]:
  """Cosines of embeddings and classes, whose length is one."""
  return jnp.einsum(
    "...e,ce->...c",
    unit(embeddings),
    classes,
    precision=jax.lax.Precision.HIGHEST,
  )


def probabilities(
  embeddings: Float[Array, "*b e"],
  classes: Float[Array, "c e"],
  logit_scale: Float[Array, ""],
) -> Float[Array, "*b c"]:
  """Softmax over the classes of the scaled cosines."""
  scale = scale_of(logit_scale)
  return jax.nn.softmax(scale * cosines(embeddings, classes), -1)


def grid_of(
  tokens: Float[Array, "g t c"], padded: tuple[int, ...], patch: int
) -> Float[Array, "g c ph pw"]:
  """Returns values of patches, row by row, as maps."""
  h, w = padded[1] // patch, padded[2] // patch
  return jnp.moveaxis(tokens.reshape(len(tokens), h, w, -1), -1, 1)


def at_size(
  maps: Float[Array, "g c ph pw"], windows: Float[Array, "g h w 3"]
) -> Float[Array, "g c h w"]:
  """Resizes maps to the size of the windows."""
  _, h, w, _ = windows.shape
  return resize_bilinear(maps, (h, w))
