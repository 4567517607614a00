"""The text tower: a causal transformer read at the end token.

CLIP's text transformer at GroupViT's size (`models/transformer.py` there),
which equals the paper's "12 layers, hidden dimension 256", from scratch.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from sseg_jax import content_words, tokenizer
from sseg_jax.errors import InputError
from sseg_jax.models import remat
from sseg_jax.models.dropout import Dropout, ExampleRngs
from sseg_jax.models.flax_versions import List
from sseg_jax.models.layers import quick_gelu
from sseg_jax.models.letter_groups import LetterGroups

EPS = 1e-5  # of every LayerNorm; torch's default, not Flax's


class CausalAttention(nnx.Module):
  """Multi-head self-attention in which a token sees itself and earlier ones."""

  def __init__(
    self,
    width: int,
    num_heads: int,
    *,
    qkv_std: float,
    out_std: float,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    self.num_heads = num_heads
    self.dtype = dtype
    self.qkv = nnx.Linear(
      width,
      3 * width,
      kernel_init=nnx.initializers.normal(qkv_std),
      dtype=dtype,
      rngs=rngs,
    )
    self.out = nnx.Linear(
      width,
      width,
      kernel_init=nnx.initializers.normal(out_std),
      dtype=dtype,
      rngs=rngs,
    )

  def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
    """Returns the attended values after the output projection."""
    b, length, d = x.shape
    # Queries, keys and values are split before heads are: a TPU pads an array
    # of heads to whole tiles.
    q, k, v = (
      part.reshape(b, length, self.num_heads, -1)
      for part in jnp.split(self.qkv(x), 3, axis=-1)
    )
    # Softmax in float32 whatever the type of the products.
    logits = jnp.einsum(
      "bqhc,bkhc->bhqk", q, k, preferred_element_type=jnp.float32
    )
    logits = logits * q.shape[-1] ** -0.5
    causal = jnp.tril(jnp.ones((length, length), bool))
    logits = jnp.where(causal[None, None], logits, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
    values = jnp.einsum("bhqk,bkhc->bqhc", weights, v)
    return self.out(values.reshape(b, length, d))


class TextBlock(nnx.Module):
  """One pre-norm block: attention, then an MLP four times as wide."""

  def __init__(
    self,
    width: int,
    num_heads: int,
    layers: int,
    *,
    dropout: float,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
  ):
    normal = nnx.initializers.normal
    # The more layers, the smaller the initial weights of what is added to the
    # residual stream (GPT-2).
    out_std = width**-0.5 * (2 * layers) ** -0.5
    self.norm1 = nnx.LayerNorm(width, epsilon=EPS, dtype=dtype, rngs=rngs)
    self.attention = CausalAttention(
      width,
      num_heads,
      qkv_std=width**-0.5,
      out_std=out_std,
      dtype=dtype,
      rngs=rngs,
    )
    self.norm2 = nnx.LayerNorm(width, epsilon=EPS, dtype=dtype, rngs=rngs)
    self.mlp_in = nnx.Linear(
      width,
      4 * width,
      kernel_init=normal((2 * width) ** -0.5),
      dtype=dtype,
      rngs=rngs,
    )
    self.mlp_out = nnx.Linear(
      4 * width, width, kernel_init=normal(out_std), dtype=dtype, rngs=rngs
    )
    self.dropout = Dropout(dropout)

  def __call__(
    self,
    x: Float[Array, "b l d"],
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
  ) -> Float[Array, "b l d"]:
    """Adds both branches; `train` applies dropout to them."""

    def drop(y):
      return self.dropout(y, deterministic=not train, rngs=rngs)

    x = x + drop(self.attention(self.norm1(x)))
    return x + drop(self.mlp_out(quick_gelu(self.mlp_in(self.norm2(x)))))


class TextTower(nnx.Module):
  """Transformer over token ids; its feature at the end token is the text's.

  Args:
    vocab_size: number of token ids; the largest is the end token.
    context_length: tokens of the longest text.
    width: of the residual stream, a multiple of `num_heads`.
    layers: number of blocks; 0 for a bag of words: each token then stands for
      itself alone, and positions are left out.
    num_heads: of each attention.
    dropout: rate on both branches of each block in training (CLIP uses none).
    letter_groups: number of vectors that tokens share; 0 for none.
    remat: what is stored of a block (`remat.POLICIES`).
    dtype: of the products; parameters and softmax stay float32.
    rngs: source of the initial values.

  Raises:
    InputError: if `width` is not a multiple of `num_heads`.
  """

  def __init__(
    self,
    *,
    vocab_size: int,
    context_length: int,
    width: int,
    layers: int,
    num_heads: int,
    dropout: float = 0.0,
    letter_groups: int = 0,
    remat: str = "none",
    dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
  ):
    if width % num_heads:
      raise InputError(
        f"text.width is {width}; make it a multiple of text.num_heads"
        f" ({num_heads})"
      )
    self.token_embedding = nnx.Embed(
      vocab_size,
      width,
      embedding_init=nnx.initializers.normal(0.02),
      dtype=dtype,
      rngs=rngs,
    )
    groups: LetterGroups | None = None
    if letter_groups:
      groups = LetterGroups(letter_groups, width, dtype=dtype, rngs=rngs)
    self.letter_groups = groups
    positions: nnx.Param | None = None
    if layers:
      positions = nnx.Param(
        nnx.initializers.normal(0.01)(rngs.params(), (context_length, width))
      )
    self.position_embedding = positions
    self.blocks = List(
      TextBlock(
        width, num_heads, layers, dropout=dropout, dtype=dtype, rngs=rngs
      )
      for _ in range(layers)
    )
    self.norm = nnx.LayerNorm(width, epsilon=EPS, dtype=dtype, rngs=rngs)
    self.context_length = context_length
    self.remat = remat
    self.dtype = dtype

  def __call__(
    self,
    tokens: Int[Array, "b l"],
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
  ) -> Float[Array, "b d"]:
    """Returns each text's feature at its (first) end token.

    Attention is causal, so ids after the end token change nothing, and a batch
    of short texts may be cut to a shorter `l` than `context_length`.

    Raises:
      InputError: if `l` exceeds `context_length`.
    """
    x = self._before_norm(tokens, train=train, rngs=rngs)
    end = jnp.argmax(tokens, axis=-1)
    # The final norm works on each token alone, so one token is enough.
    x = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]  # [b, d]
    return self.norm(x)

  def words(
    self,
    tokens: Int[Array, "b l"],
    most: int,
    *,
    train: bool = False,
    rngs: ExampleRngs | None = None,
  ) -> tuple[Float[Array, "b w d"], Bool[Array, "b w"]]:
    """Returns the features of each text's words, and which of them exist.

    Words are the tokens of `content_words`. A text without any such word has
    all its tokens instead, so that no text is empty.

    Args:
      tokens: as the tokenizer gives them.
      most: number of words of a text at most, w; the first ones are taken.
      train: see `__call__`.
      rngs: see `__call__`.

    Raises:
      InputError: if `l` exceeds `context_length`.
    """
    if self.is_bag:
      ids, exist = self.word_ids(tokens, most)
      return self.of_ids(ids), exist
    order, exist = self._word_places(tokens, most)
    x = self._before_norm(tokens, train=train, rngs=rngs)
    x = jnp.take_along_axis(x, order[..., None], axis=1)
    return self.norm(x), exist

  def word_ids(
    self, tokens: Int[Array, "b l"], most: int
  ) -> tuple[Int[Array, "b w"], Bool[Array, "b w"]]:
    """Returns the ids of each text's words, and which exist; see `words`."""
    self._check_length(tokens)
    order, exist = self._word_places(tokens, most)
    return jnp.take_along_axis(tokens, order, axis=1), exist

  def of_ids(self, ids: Int[Array, "*b"]) -> Float[Array, "*b d"]:
    """Returns the features of tokens, in a tower without blocks (`is_bag`)."""
    assert self.is_bag, "a token's feature depends on its text"
    return self.norm(self._embed(ids))

  @property
  def is_bag(self) -> bool:
    """Whether a token's feature depends on the token alone."""
    return not self.blocks

  def _word_places(self, tokens, most):  # -> places [b, w], which exist
    length = tokens.shape[1]
    place = jnp.arange(length)[None]
    end = jnp.argmax(tokens, axis=-1)[:, None]
    inside = (place > 0) & (place < end)  # between the two markers
    counts = jnp.asarray(content_words.content_tokens())[tokens] & inside
    # Not `jnp.where`: onnxruntime has none of booleans.
    counts |= inside & ~counts.any(1, keepdims=True)
    # Words first, each part in its order.
    order = jnp.argsort(jnp.where(counts, place, place + length), axis=1)
    order = order[:, :most]
    return order, jnp.take_along_axis(counts, order, axis=1)

  def _embed(self, ids: Int[Array, "*b"]) -> Float[Array, "*b d"]:
    x = self.token_embedding(ids)
    if self.letter_groups is not None:
      x = x + self.letter_groups(ids).astype(self.dtype)
    return x

  def _check_length(self, tokens: Int[Array, "b l"]) -> None:
    if tokens.shape[1] > self.context_length:
      raise InputError(
        f"texts have {tokens.shape[1]} tokens, but text.context_length is"
        f" {self.context_length}; tokenize to that length"
      )

  def _before_norm(
    self,
    tokens: Int[Array, "b l"],
    *,
    train: bool,
    rngs: ExampleRngs | None,
  ) -> Float[Array, "b l d"]:
    self._check_length(tokens)
    x = self._embed(tokens)
    if self.position_embedding is not None:
      positions = self.position_embedding[: tokens.shape[1]].astype(self.dtype)
      x = x + positions[None]
    for block in self.blocks:
      x = remat.run(self.remat, block, x, train=train, rngs=rngs)
    return x


def build(config: Any, *, dtype: DTypeLike, rngs: nnx.Rngs) -> TextTower:
  """Builds the tower of `config.text`; `dtype` is that of the products."""
  t = config.text
  return TextTower(
    vocab_size=tokenizer.VOCAB_SIZE,
    context_length=t.context_length,
    width=t.width,
    layers=t.layers,
    num_heads=t.num_heads,
    dropout=t.dropout,
    letter_groups=t.letter_groups,
    remat=config.model.remat,
    dtype=dtype,
    rngs=rngs,
  )
