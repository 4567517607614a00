"""GroupViT: a vision transformer whose tokens are grouped twice.

Patches are encoded together with group tokens. At the end of a stage each token
is assigned to a group, and the groups are the tokens of the next stage. So the
last tokens are segments, and the product of the assignments says which patch
belongs to which.

Source: NVlabs/GroupViT `models/group_vit.py`, and `modeling_groupvit.py` of
`transformers`, whose files are read.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from sseg_jax.models.flax_versions import List
from sseg_jax.models.keys import parameter_keys
from sseg_jax.models.layers import Projection, gelu
from sseg_jax.models.positions import resize_positions
from sseg_jax.models.text import TextTower
from sseg_jax.models.transformer import Attention
from sseg_jax.models.vit import Block

_EPS = 1e-5


class _MLP(nnx.Module):
  """Two linear layers with GELU between them."""

  def __init__(self, d_in: int, hidden: int, d_out: int, *, rngs: nnx.Rngs):
    self.fc1 = nnx.Linear(d_in, hidden, rngs=rngs)
    self.fc2 = nnx.Linear(hidden, d_out, rngs=rngs)

  def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b e"]:
    """Maps the last axis."""
    return self.fc2(gelu(self.fc1(x)))

  def over_tokens(self, x: Float[Array, "b t d"]) -> Float[Array, "b u d"]:
    """Maps the axis of the tokens."""
    return self(x.swapaxes(1, 2)).swapaxes(1, 2)


def _norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
  return nnx.LayerNorm(width, epsilon=_EPS, use_fast_variance=False, rngs=rngs)


class Assign(nnx.Module):
  """The end of a stage: makes groups, and assigns tokens to them."""

  def __init__(self, s: "Sizes", tokens: int, groups: int, *, rngs: nnx.Rngs):
    self.norm_tokens = _norm(s.width, rngs)
    self.mlp_inter = _MLP(tokens, s.mixer_hidden, groups, rngs=rngs)
    self.norm_post_tokens = _norm(s.width, rngs)
    self.norm_x = _norm(s.width, rngs)
    self.cross = Attention(
      s.width, s.num_heads, 0.0, dtype=jnp.float32, rngs=rngs
    )
    self.norm2 = _norm(s.width, rngs)
    self.mlp = _MLP(s.width, s.mlp_hidden, s.width, rngs=rngs)
    self.norm_post = _norm(s.width, rngs)
    self.query = nnx.Linear(s.width, s.width, rngs=rngs)
    self.key = nnx.Linear(s.width, s.width, rngs=rngs)
    self.value = nnx.Linear(s.width, s.width, rngs=rngs)
    self.proj = nnx.Linear(s.width, s.width, rngs=rngs)
    self.norm_new_x = _norm(s.width, rngs)
    self.mlp_channels = _MLP(s.width, s.channels_hidden, s.width, rngs=rngs)
    self._epsilon = s.assign_eps

  def __call__(
    self, x: Float[Array, "b t d"], group_tokens: Float[Array, "b n d"]
  ) -> tuple[Float[Array, "b g d"], Float[Array, "b g t"]]:
    """Returns the groups, and how much of each token belongs to each.

    The groups themselves take each token as a whole, in its likeliest group.
    """
    groups = self.mlp_inter.over_tokens(self.norm_tokens(group_tokens))
    groups = self.norm_post_tokens(groups)
    x = self.norm_x(x)
    groups = groups + self.cross(groups, x, x)
    groups = self.norm_post(groups + self.mlp(self.norm2(groups)))
    scores = jnp.einsum(
      "bgd,btd->bgt",
      self.query(groups),
      self.key(x),
      precision=jax.lax.Precision.HIGHEST,
    )
    soft = jax.nn.softmax(scores * x.shape[-1] ** -0.5, axis=1)
    hard = jax.nn.one_hot(soft.argmax(1), soft.shape[1], axis=1)
    weights = hard / (hard.sum(-1, keepdims=True) + self._epsilon)
    new = self.proj(weights @ self.value(x)) + groups
    return new + self.mlp_channels(self.norm_new_x(new)), soft


class Stage(nnx.Module):
  """Blocks over tokens and group tokens; the last stage has no groups."""

  def __init__(self, s: "Sizes", index: int, *, rngs: nnx.Rngs):
    count = s.group_tokens[index]
    before = s.output_groups[index - 1] if index else 0
    # NNX wants each of them assigned once.
    token: nnx.Param | None = None
    assign: Assign | None = None
    norm: nnx.LayerNorm | None = None
    mlp: _MLP | None = None
    if count:
      token = nnx.Param(jnp.zeros((count, s.width)))
      assign = Assign(s, count, s.output_groups[index], rngs=rngs)
    if count and before:
      norm = _norm(s.width, rngs)
      mlp = _MLP(before, s.width // 2, count, rngs=rngs)
    self.group_token, self.assign = token, assign
    self.group_norm, self.group_mlp = norm, mlp
    self.blocks = List(
      Block(
        s.width,
        s.num_heads,
        mlp_ratio=s.mlp_hidden / s.width,
        layer_scale=False,
        epsilon=_EPS,
        dtype=jnp.float32,
        rngs=rngs,
      )
      for _ in range(s.depths[index])
    )

  def __call__(
    self, x: Float[Array, "b t d"], before: Float[Array, "b m d"] | None
  ) -> tuple[Array, Array | None, Array | None]:
    """Returns tokens, group tokens and assignments; None where none are."""
    tokens = x.shape[1]
    if self.group_token is not None:
      groups = jnp.broadcast_to(
        self.group_token[...], (len(x), *self.group_token.shape)
      )
      if self.group_mlp is not None and self.group_norm is not None:
        assert before is not None  # the stage before has group tokens
        groups = groups + self.group_mlp.over_tokens(self.group_norm(before))
      x = jnp.concatenate([x, groups], 1)
    for block in self.blocks:
      x = block(x)
    x, groups = x[:, :tokens], x[:, tokens:]
    if self.assign is None:
      return x, None, None
    x, share = self.assign(x, groups)
    return x, groups, share


class Sizes(NamedTuple):
  """Sizes of the image tower, named as in config.json where not clear."""

  patch: int
  grid: int
  width: int
  num_heads: int
  mlp_hidden: int
  depths: tuple[int, ...]
  group_tokens: tuple[int, ...]
  output_groups: tuple[int, ...]
  mixer_hidden: int
  channels_hidden: int
  assign_eps: float


class GroupViTImage(nnx.Module):
  """The image tower."""

  def __init__(self, s: Sizes, *, rngs: nnx.Rngs):
    self.patch, self.grid = s.patch, s.grid
    # Stages without group tokens make none.
    self.groups = [
      count
      for tokens, count in zip(s.group_tokens, s.output_groups, strict=True)
      if tokens
    ][-1]
    self.patch_embedding = nnx.Conv(
      3,
      s.width,
      (s.patch, s.patch),
      strides=s.patch,
      padding="VALID",
      rngs=rngs,
    )
    self.patch_norm = _norm(s.width, rngs)
    self.positions = nnx.Param(jnp.zeros((s.grid**2, s.width)))
    self.stages = List(Stage(s, i, rngs=rngs) for i in range(len(s.depths)))
    self.norm = _norm(s.width, rngs)

  def __call__(
    self, image: Float[Array, "b h w 3"]
  ) -> tuple[Float[Array, "b g d"], Float[Array, "b g ph pw"]]:
    """Returns the groups' features, and how much of each patch they have.

    Args:
      image: normalised; sides are multiples of the patch.
    """
    x = self.patch_norm(self.patch_embedding(image))
    b, h, w, d = x.shape
    table = self.positions[...].reshape(self.grid, self.grid, d)
    x = (x + resize_positions(table, (h, w), "size")[None]).reshape(b, h * w, d)
    groups, share = None, None
    for stage in self.stages:
      x, groups, found = stage(x, groups)
      if found is not None:
        share = found if share is None else found @ share
    assert share is not None  # `load` asks for group tokens
    return self.norm(x), share.reshape(b, -1, h, w)


class GroupViT(nnx.Module):
  """Both towers, their projections, and the logarithm of the scale."""

  def __init__(
    self, sizes: Sizes, text: dict[str, Any], hidden: int, joint: int
  ):
    """Builds both towers.

    Args:
      sizes: of the image tower.
      text: arguments of `TextTower`.
      hidden: inner width of both projections.
      joint: size of the common space.
    """
    rngs = parameter_keys(0)
    how: Any = dict(norm="bn", dtype=jnp.float32, rngs=rngs)
    self.image = GroupViTImage(sizes, rngs=rngs)
    self.text = TextTower(rngs=rngs, **text)
    self.image_projection = Projection(sizes.width, hidden, joint, **how)
    self.text_projection = Projection(text["width"], hidden, joint, **how)
    self.logit_scale = nnx.Param(jnp.zeros(()))

  def encode_text(self, tokens: Int[Array, "b l"]) -> Float[Array, "b e"]:
    """Returns the embeddings of texts, given as the tokenizer's ids."""
    return self.text_projection(self.text(tokens))

  def encode_image(
    self, image: Float[Array, "b h w 3"]
  ) -> tuple[
    Float[Array, "b e"], Float[Array, "b g e"], Float[Array, "b g ph pw"]
  ]:
    """Returns embeddings of pictures and of their groups, and the groups."""
    groups, share = self.image(image)
    whole = self.image_projection(groups.mean(1))
    return whole, self.image_projection(groups), share
